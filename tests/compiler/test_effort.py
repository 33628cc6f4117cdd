"""What the compiler does not compute, because nothing depends on it; and that nothing does."""

from collections import Counter
from dataclasses import replace
from typing import Any
from unittest.mock import Mock, patch

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
    with patch.object(compilation, "_lowered", wraps=compilation._lowered) as lowering:
        again = compile_model(model, x, low=0, high=1)
    assert lowering.call_count == 1 and again.is_accurate


def test_a_plan_that_errs_too_much_on_the_first_rows_runs_on_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt has no bits to spare for ranges that are proved. Where every attempt errs too much, the nearest
    one has run on all rows, so that what is told of it is right."""
    torch.manual_seed(0)
    layers = [m for _ in range(6) for m in (nn.Linear(64, 64), nn.ReLU())]
    model, x = nn.Sequential(*layers, nn.Linear(64, 3)), torch.rand(6, 64)
    monkeypatch.setattr(compilation, "_ROWS_AT_ONCE", 1)
    with patch.object(compilation, "_run", wraps=compilation._run) as running:
        right = compile_model(model, x, low=0, high=1)
    ran = Counter(id(call.args[0]) for call in running.call_args_list)
    assert sorted(ran.values()) == [1, len(x)]
    found = np.abs(compilation.outputs_of(right, x) - run_float(right.graph, x)).max()
    assert right.error == pytest.approx(found, rel=0.01)  # float32 adds up otherwise with another number of threads

    none_is_right = [(bits, wide, 0.0) for bits, wide, _ in compilation._ATTEMPTS]
    for attempts in (none_is_right[:1], none_is_right):
        monkeypatch.setattr(compilation, "_ATTEMPTS", attempts)
        nearest = compile_model(model, x, low=0, high=1)
        assert nearest.error == np.abs(compilation.outputs_of(nearest, x) - run_float(nearest.graph, x)).max()
    assert nearest.error < right.error


def test_ranges_that_left_no_bits_are_not_tried_in_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """A smooth function has waves and parabolas in each ring. Where the first of these is useless with wide ranges, the
    narrowest ones follow, which have both forms all the same."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)), torch.rand(8, 4)
    right = compile_model(model, x, low=0, high=1)
    tried: list[tuple[int, float, bool]] = []

    class Useless(compilation.Trial):
        def __init__(self, graph: ir.Graph, known: dict[str, float], *rest: Any) -> None:
            tried.append((rest[3].ring_bits, known["affordable"], bool(rest[3].waves)))

        def is_nearer(self, other: compilation.Trial) -> bool:
            return False

        def exceeds(self, part: float) -> bool:
            return part < 11

        shows = exceeds

        def compiled(self) -> compilation.Compiled:
            return replace(right, error=11 * right.spread)

    monkeypatch.setattr(ranges.Analysis, "ranges", lambda self, *, affordable, headroom: {"affordable": affordable})
    monkeypatch.setattr(compilation, "_lowered", Useless)
    monkeypatch.setattr(compilation.attribution, "costliest", lambda *_: "")
    assert not compile_model(model, x, low=0, high=1).is_accurate
    assert tried == [(32, 4096, True), *((bits, 16, waves) for bits in (32, 64) for waves in (True, False))]


@pytest.mark.parametrize("first", [True, False])
def test_the_farther_of_two_plans_runs_on_no_more_inputs_than_show_it(
    monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """The nearer one runs on all, since the error that is told of it is that of all."""
    monkeypatch.setattr(compilation, "_ROWS_AT_ONCE", 1)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(6, 4)
    right = compile_model(model, x, low=0, high=1)

    def trial(off: float) -> compilation.Trial:
        emitter = Mock(weights={name: value + int(off) for name, value in right.weights.items()})
        exact = run_float(right.graph, x)
        return compilation.Trial(right.graph, emitter, right.plan, right.logits, x, exact)

    near, far = trial(0), trial(1 << 24)
    for one in (near, far):
        assert one.exceeds(0.0)
    assert near.is_nearer(far) if first else not far.is_nearer(near)
    assert (near._rows, far._rows) == (6, 1)
    assert far.shows(1.0) and not near.shows(1.0) and far._rows == 1


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
