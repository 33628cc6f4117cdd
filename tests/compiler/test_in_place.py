"""Operations in place become new values: as torch would write them, or by torch where a value has other names."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from moiety_server.compiler import in_place, ir
from moiety_server.compiler.trace import trace

# alexnet flattens outside of any module, efficientnet drops values in place, densenet adds no residual
NAMES = ("resnet18", "alexnet", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "efficientnet_b0")


def both(model: nn.Module, x: Tensor) -> tuple[ir.Graph, ir.Graph, bool]:
    """Return the graph, the one by torch's own functional form, and whether the first needed none of that."""
    with patch.object(
        torch.export.ExportedProgram, "run_decompositions", autospec=True, side_effect=_decomposed
    ) as ran:
        own = trace(model, x)
    with patch.object(in_place, "replaced", return_value=False):
        return own, trace(model, x), not ran.called


def same_graph(one: ir.Graph, other: ir.Graph) -> None:
    """Assert that all nodes are alike, to the last bit of their tensors."""
    for node, its in zip(one.nodes, other.nodes, strict=True):
        assert type(node) is type(its)
        for (key, value), theirs in zip(vars(node).items(), vars(its).values(), strict=True):
            alike = torch.equal(value, theirs) if isinstance(value, Tensor) else value == theirs
            assert alike, (node.name, key)


_decomposed: Any = torch.export.ExportedProgram.run_decompositions


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_is_traced_once_to_the_same_graph(name: str) -> None:
    torch.manual_seed(0)
    own, torchs, once = both(getattr(models, name)(weights=None).eval(), torch.rand(2, 3, 64, 64))
    assert once
    same_graph(own, torchs)


class Reading(nn.Module):
    """Reads a value after it was changed, and what it was before."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.linear, self.how = nn.Linear(4, 4), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        match self.how:
            case "the old name":
                y.relu_()
                return y + x
            case "before and after":
                before = y * 2.0
                y.relu_()
                return y + before
            case "twice":
                z = y.add_(x)
                z.relu_()
                return y * 3.0 + z
            case "itself":
                y.add_(y)
                return y + x
            case "another shape":
                flat = y.flatten(1)
                y.relu_()
                return flat + y
            case "the input":
                return self.linear(x.relu_()) + x
            case "dropped":
                z = nn.functional.dropout(y, training=False, inplace=True)
                y.relu_()
                return z + y
            case _:
                z = nn.functional.dropout(y, training=False)
                z.relu_()
                return z + y


@pytest.mark.parametrize(
    ("how", "alone"),
    [
        *((how, True) for how in ("the old name", "before and after", "twice", "itself")),
        *((how, False) for how in ("another shape", "the input", "dropped", "not dropped")),
    ],
)
def test_values_are_read_as_they_are_at_that_moment(how: str, alone: bool) -> None:
    """Other names of a value see its change as well: torch follows those. What is traced is what the model answers."""
    torch.manual_seed(0)
    model, x = Reading(how), torch.randn(8, 4)
    own, torchs, once = both(model, x)
    assert once == alone
    same_graph(own, torchs)
    with torch.inference_mode():
        assert torch.allclose(own.run(x)[own.output], model(x.clone()), atol=1e-6)


def test_a_type_that_would_widen_is_left_to_torch() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("wide", torch.ones(4, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).add_(self.wide)

    assert not both(Wide(), torch.randn(3, 4))[2]


def test_what_reads_the_old_value_later_reads_the_new_one() -> None:
    """Export names the new value itself, so a graph is written by hand."""
    graph, aten = torch.fx.Graph(), torch.ops.aten
    x = graph.placeholder("x")
    made = graph.call_function(aten.mul.Tensor, (x, 2.0))
    before = graph.call_function(aten.add.Tensor, (made, x))
    changed = graph.call_function(aten.relu_.default, (made,))
    after = graph.call_function(aten.add.Tensor, (made, before))
    graph.output(after)
    for node in graph.nodes:
        node.meta["val"] = torch.zeros(3)
    assert in_place.replaced(graph)
    assert changed.target is aten.relu.default and changed.args == (made,)
    assert before.args == (made, x) and after.args == (changed, before)
