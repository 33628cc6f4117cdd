"""Traces a model, and compares what the traced graph computes with what the model does."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.trace import trace
from moiety_shared.fixed_point import finish

MODULES = tuple(f"moiety_server.compiler.{name}" for name in ("ir", "attention", "softmax", "norms"))
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class Fn(nn.Module):
    """A function as a model; tensors given with it are its parameters."""

    def __init__(self, function: Callable[..., Any], *parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.held = nn.ParameterList(parameters)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.held)


def settled(model: nn.Module) -> nn.Module:
    """In inference mode, with statistics as if trained."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.train(False)


def check(
    model: nn.Module | Callable[..., Any], *shape: int, batch: int = 1, example: Tensor | None = None
) -> ir.Graph:
    """Traced with a batch of one size, run with another."""
    model = settled(model if isinstance(model, nn.Module) else Fn(model))
    graph = trace(model, torch.randn(batch, *shape))
    x = torch.randn(3, *shape)
    with torch.no_grad():
        expected = model(x.clone())
    values = graph.run(x)
    torch.testing.assert_close(given_out(graph, values), expected, rtol=1e-4, atol=1e-4)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) and all(NAME.fullmatch(name) for name in names)
    assert type(graph.nodes[0]) is ir.InputNode
    for i, node in enumerate(graph.nodes):
        assert type(node).__module__ in MODULES
        assert values[node.name].shape[1:] == node.shape, node
        assert values[node.name].dtype == torch.float32
        assert set(node.inputs) <= set(names[:i])
    read = {name for node in graph.nodes for name in node.inputs} | {graph.output}
    assert set(names[1:]) <= read, "dead nodes"
    return graph


def given_out(graph: ir.Graph, values: Mapping[str, Tensor]) -> Tensor:
    """What the client makes of the output."""
    return torch.from_numpy(finish(graph.final, values[graph.output].numpy()))


def kinds(graph: ir.Graph) -> list[str]:
    return [type(node).__name__.removesuffix("Node") for node in graph.nodes[1:]]


def refused(model: nn.Module | Callable[..., Any], *shape: int) -> str:
    model = settled(model if isinstance(model, nn.Module) else Fn(model))
    with pytest.raises(NotServable) as caught:
        trace(model, torch.randn(1, *shape))
    message = str(caught.value)
    assert "/" not in message.replace("a / b", ""), message
    return message
