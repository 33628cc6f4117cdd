"""How exact a plan is: proofs of ranges, tables, and what becomes of a plan that is too inexact."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from typer.testing import CliRunner

from moiety_server import publication
from moiety_server.compiler import inspection, ranges
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.compilation import Compiled, compile_model
from moiety_server.compiler.ir import Inaccurate
from moiety_server.compiler.simplification import finish
from moiety_server.compiler.trace import trace
from moiety_server.owner import Owner
from moiety_service.cli.main import build
from moiety_service.cli.terminal import Exit
from tests.compiler.tracing import Fn


class AfterLinear(nn.Module):
    """A function of the input and of a linear layer on it, with a linear layer behind."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.behind, self.function = nn.Linear(6, 6), nn.Linear(6, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.function(x, self.before(x)))  # type: ignore[no-any-return]


def compiled(function: Callable[[Tensor, Tensor], Tensor], most: float, ring_bits: int | None = None) -> Compiled:
    torch.manual_seed(0)
    x = torch.rand(300, 6) * 2 * most - most
    return compile_model(AfterLinear(function).eval(), x, low=-most, high=most, ring_bits=ring_bits)


# Ranges

BOUNDED: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "x * x": (lambda x: x * x, 0, 9),
    "-x * x": (lambda x: -x * x, -9, 0),
    "(2 x) * (3 x)": (lambda x: (2 * x) * (3 * x), 0, 54),
    "x ** 2": (lambda x: x**2, 0, 9),
    "x ** 4": (lambda x: x**4, 0, 81),
    "square": (lambda x: x.square(), 0, 9),
    "sum of squares": (lambda x: (x * x).sum(1, keepdim=True), 0, 54),
    "square and |x|": (lambda x: x * x + (2 * F.relu(x) - x), 0, 12),
    "|x|": (lambda x: 2 * F.relu(x) - x, 0, 3),
    "leaky ReLU": (lambda x: F.leaky_relu(x, 0.5), -1.5, 3),
    "hard shrink": (lambda x: x - x.clamp(-1, 1), -2, 2),
    "larger": (lambda x: x[:, :3] + F.relu(x[:, 3:] - x[:, :3]), -3, 3),
    "maximum": (lambda x: torch.maximum(x[:, :3], x[:, 3:] - 1), -3, 3),
    "minimum": (lambda x: torch.minimum(x[:, :3], x[:, 3:] - 1), -4, 2),
    "where": (lambda x: torch.where(x[:, :3] > 1, x[:, 3:], x[:, :3] / 3), -3, 3),
    "ELU that turns": (lambda x: F.elu(x, -1.0), 0, 3),
    "smaller": (lambda x: x[:, 3:] - F.relu(x[:, 3:] - x[:, :3]), -3, 3),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_terms_that_depend_on_one_another_are_bounded_together(name: str) -> None:
    function, low, high = BOUNDED[name]
    graph = trace(Fn(function), torch.rand(2, 6))
    proved = ranges.analyse(graph, torch.rand(50, 6) * 6 - 3, low=-3, high=3).proved[graph.output]
    assert proved == pytest.approx((low, high), abs=1e-9)


def test_a_range_that_is_only_measured_has_both_signs() -> None:
    """Calibration data of one sign proves nothing, and a table that is asked beyond its range answers anything."""
    graph = trace(Fn(lambda x: (x + 2).relu() - x), torch.rand(2, 6))
    bounds = {node.name: (-1e9, 1e9) for node in graph.nodes} | {"relu": (0.0, 1e9)}
    measured = {node.name: (0.5, 2.0, 1.0) for node in graph.nodes}
    known = ranges.Analysis(graph, measured, bounds, np.zeros((1, 1))).ranges(affordable=16, headroom=4)
    assert [(known[name].low, known[name].high) for name in ("add", "relu")] == [(-8, 8), (0, 8)]


def test_bounds_beyond_all_floats_prove_nothing() -> None:
    """Where a proof ends in infinity less infinity, the measured range counts."""
    torch.manual_seed(0)
    model = Fn(lambda x, w: ((x.exp() * x).exp() - x.exp()) @ w, torch.randn(6, 2))
    made = compile_model(model, torch.rand(50, 6) * 2 - 1, low=-1000, high=1000)
    assert np.isfinite(made.error) and all(np.isfinite((w.low, w.high)).all() for w in made.wires.values())


@given(
    factors=st.lists(st.integers(-3, 3).filter(bool), min_size=2, max_size=4),
    limits=st.lists(st.floats(-2, 2, width=16), min_size=4, max_size=4),
    ends=st.tuples(st.floats(-3, 3, width=16), st.floats(0.5, 4, width=16)),
    scale=st.sampled_from([1.0, -1.0, 0.5, 2.0]),
)
def test_no_value_leaves_what_is_proved(
    factors: list[int], limits: list[float], ends: tuple[float, float], scale: float
) -> None:
    """Sums of clamps of one wire, as activations are made of."""
    b = Builder()
    x = b.input((1,))
    clamps = [b.clamp(b.scale(x, scale), limit, None) for limit in limits[: len(factors) - 1]]
    graph = finish(b.nodes.values(), b.combine([x, *clamps], factors).name)
    low, high = ends[0], ends[0] + ends[1]
    rows = torch.linspace(low, high, 4001)[:, None].clamp(low, high)
    least, most = ranges.analyse(graph, rows, low=low, high=high).proved[graph.output]
    y = graph.run(rows)[graph.output]
    room = 1e-3 * max(1.0, abs(least), abs(most))
    assert least - 1e-4 <= float(y.min()) <= least + 10 * room + 0.02 * (most - least)
    assert most + 1e-4 >= float(y.max()) >= most - 10 * room - 0.02 * (most - least)


# Tables

FINE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float, int, float]] = {
    "of a square": (lambda x, y: torch.exp(-x * x), 6.0, 32, 0.01),
    "over a wide range": (lambda x, y: torch.exp(x), 8.0, 64, 0.02),
    "of a layer": (lambda x, y: torch.exp(y), 3.0, 64, 0.01),
    "of a steep layer": (lambda x, y: torch.exp(2 * y), 3.0, 64, 0.05),
}


@pytest.mark.parametrize("name", FINE)
def test_tables_of_exp_are_fine_where_values_usually_are(name: str) -> None:
    function, most, bits, tolerated = FINE[name]
    made = compiled(function, most)
    assert made.plan.ring_bits <= bits and made.relative_error < tolerated


# What becomes of a plan that is too inexact


class Steep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.behind = nn.Linear(6, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.exp(2 * self.before(x))
        return self.behind(F.relu(y))  # type: ignore[no-any-return]


def bad() -> Compiled:
    torch.manual_seed(0)
    return compile_model(Steep().eval(), torch.rand(300, 6) * 6 - 3, low=-3, high=3, ring_bits=32)


def test_a_plan_that_is_too_inexact_names_the_layer_that_costs_most() -> None:
    made = bad()
    assert not made.is_accurate and made.error > 0.05 * made.spread
    assert "y = torch.exp(2 * self.before(x))" in made.costliest, made.costliest
    good = compiled(lambda x, y: F.relu(y), 3.0)
    assert good.is_accurate and not good.costliest


def test_a_plan_that_is_too_inexact_is_not_published() -> None:
    nobody = cast(Owner, None)  # it is refused before the owner does anything
    with pytest.raises(Inaccurate, match=r"differ .* of their spread .*costs most: .*torch\.exp"):
        publication.publish(nobody, "bad", bad(), preprocessing=None, classes=(), description="")
    with pytest.raises(AttributeError):
        publication.publish(nobody, "bad", bad(), preprocessing=None, classes=(), description="", accept_error=True)


def test_inspect_marks_a_plan_that_is_too_inexact() -> None:
    screen = StringIO()
    inspection.show(inspection.inspect("bad", bad()), Console(file=screen, force_terminal=True, width=200))
    assert "\x1b[1;31mlargest error" in screen.getvalue() and "The layer that costs most" in screen.getvalue()


def steep() -> nn.Module:
    torch.manual_seed(0)
    return Steep().eval()


@pytest.mark.parametrize(("bits", "code"), [(32, Exit.INACCURATE), (64, Exit.OK)])
def test_inspect_ends_with_a_code_of_its_own(bits: int, code: Exit, tmp_path: Path) -> None:
    rows = (torch.rand(300, 6) * 6 - 3).numpy()
    np.save(tmp_path / "rows.npy", rows)
    given = ["--calibration", str(tmp_path / "rows.npy"), "--low", "-3", "--high", "3", "--ring", str(bits), "--json"]
    done = CliRunner().invoke(build(), ["inspect", f"{__name__}:steep", *given])
    assert done.exit_code == code, done.output
    assert ("--accept-error" in done.stderr) == (code == Exit.INACCURATE)


@pytest.mark.parametrize(("size", "compared"), [(1e-6, False), (4.0, True)])
def test_a_hard_swish_keeps_the_bits_of_small_values(size: float, compared: bool) -> None:
    """What is compared with -3 and 3 is the value itself, not the value plus 3. Where it reaches neither, it is not
    compared at all."""
    torch.manual_seed(0)
    first = nn.Linear(6, 8)
    with torch.no_grad():
        first.weight *= size
        first.bias *= size
    x = torch.rand(40, 6) * 2 - 1
    compiled = compile_model(nn.Sequential(first, nn.Hardswish(), nn.Linear(8, 4, bias=False)), x, low=-1, high=1)
    assert compiled.plan.ring_bits == 32 and compiled.relative_error < 0.003
    assert any(layer.op == "relu" for layer in compiled.plan.layers) == compared
