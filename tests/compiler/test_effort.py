"""What the compiler does not compute, because nothing depends on it; and that nothing does."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

from moiety_server.compiler import compilation, eager, ir, ranges
from moiety_server.compiler.compilation import compile_model, run_float
from moiety_server.compiler.trace import trace


def deep(layers: int = 40) -> nn.Module:
    """A network of convolutions whose bounds grow by a factor of some ten with each, up to an end that is bounded."""
    torch.manual_seed(0)
    blocks = [m for _ in range(layers) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    for block in blocks:
        if isinstance(block, nn.Conv2d):
            nn.init.kaiming_normal_(block.weight)
    return nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.Sigmoid(), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()


def test_bounds_that_no_plan_has_bits_for_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(8, 3, 6, 6)
    graph = trace(deep(), x)

    def analysed() -> tuple[ranges.Analysis, int]:
        with patch.object(ranges, "_interval", wraps=ranges._interval) as proofs:
            found = ranges.analyse(graph, x, low=0, high=1)
        return found, sum(isinstance(call.args[0], ir.ConvNode) for call in proofs.call_args_list)

    given_up, few = analysed()
    monkeypatch.setattr(ranges, "_HOPELESS", float("inf"))
    proved, all_of_them = analysed()
    assert few < 0.7 * all_of_them
    for affordable in (2.0**24, 2.0**12, 16.0):
        options = {"affordable": affordable, "headroom": 4.0}
        assert given_up.ranges(**options) == proved.ranges(**options)


def test_the_model_runs_once_for_its_ranges_and_its_outputs() -> None:
    x = torch.rand(8, 3, 6, 6)
    graph = trace(deep(2), x)
    exact = ranges.analyse(graph, x, low=0, high=1).exact
    assert np.array_equal(exact, run_float(graph, x)) and exact.dtype == np.float64


def test_ranges_that_were_tried_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is above what both attempts with 32 bits take, and all ranges are proved in both."""
    monkeypatch.setattr(compilation, "_ATTEMPTS", ((32, 2.0**12, 0.0), (32, 2.0**11, 0.0), (32, 2.0**11, 1.0)))
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(8, 4)
    with patch.object(compilation, "_compile", wraps=compilation._compile) as compiling:
        again = compile_model(model, x, low=0, high=1)
    assert compiling.call_count == 1 and again.is_accurate


def test_ranges_that_left_no_bits_are_not_tried_in_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smooth function has waves and parabolas in each ring. Where the first of these is useless with wide ranges, the
    narrowest ones follow, which have both forms all the same."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)), torch.rand(8, 4)
    right = compile_model(model, x, low=0, high=1)
    tried: list[tuple[int, float, bool]] = []

    def useless(graph: ir.Graph, known: dict[str, float], *rest: Any) -> compilation.Compiled:
        tried.append((rest[3].ring_bits, known["affordable"], bool(rest[3].waves)))
        return replace(right, error=11 * right.spread)

    monkeypatch.setattr(ranges.Analysis, "ranges", lambda self, *, affordable, headroom: {"affordable": affordable})
    monkeypatch.setattr(compilation, "_compile", useless)
    monkeypatch.setattr(compilation.attribution, "costliest", lambda *_: "")
    assert not compile_model(model, x, low=0, high=1).is_accurate
    assert tried == [(32, 4096, True), *((bits, 16, waves) for bits in (32, 64) for waves in (True, False))]


class ByTheBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.size(0)


@pytest.mark.parametrize("end", [nn.Identity(), nn.Softmax(1), nn.Sigmoid()])
def test_a_model_that_its_graph_answers_for_runs_on_two_rows_alone(end: nn.Module) -> None:
    with patch.object(eager, "_answers", wraps=eager._answers) as running:
        trace(nn.Sequential(nn.Linear(4, 3), end), torch.rand(5, 4))
    assert [len(call.args[1][""]) for call in running.call_args_list] == [2]
    with pytest.raises(ir.NotServable, match="when other inputs are beside it"):
        trace(nn.Sequential(nn.Linear(4, 3), ByTheBatch(), end), torch.rand(5, 4))
