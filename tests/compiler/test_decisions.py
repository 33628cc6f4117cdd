"""Decisions in private runs: every kind, at every value near the borders, whole and fractional, cut and uncut."""

from typing import Literal

import numpy as np
import pytest
import torch

from moiety_server.compiler import ir, ranges, scales
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.lowering.emitter import Emitter
from moiety_server.compiler.lowering.inputs import Declared
from moiety_server.compiler.meaning import Meaning
from moiety_server.compiler.scales import Precision
from moiety_server.compiler.simplification import finish
from moiety_shared.plan.plan import Plan
from moiety_shared.ring import Array
from tests.protocols.running import Run

Kind = Literal["greater", "not_less", "equal"]


def emitted(b: Builder, output: ir.Node, reach: float, bits: int) -> Emitter:
    graph = finish(b.nodes.values(), output.name)
    calibration = torch.linspace(-reach, reach, 40).reshape(-1, 1).expand(40, b.nodes["input"].shape[0]).contiguous()
    analysis = ranges.analyse(graph, calibration, low=-reach, high=reach)
    known, precision = analysis.sure(), Precision.of(bits)
    return Emitter(
        graph,
        known,
        scales.choose(graph, known, precision),
        precision,
        Declared(-reach, reach),
        Meaning().settled(graph, "logits"),
    )


def decided(kind: Kind, tolerance: float, values: Array, reach: float, bits: int, scale: float = 1.0) -> Array:
    b = Builder()
    x = b.scale(b.input((1,)), scale)
    emitter = emitted(b, b.decide(x, kind, tolerance, whole=False), reach, bits)
    plan: Plan = emitter.logits()
    x_ring = np.rint(values.reshape(-1, 1) * 2.0**plan.input.frac_bits).astype(np.int64 if bits == 64 else np.int32)
    return Run(plan, emitter.weights).assert_bit_exact(x_ring)[:, 0] * plan.output.scale


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("reach", [1.0, 3.0, 60.0, 500.0])
@pytest.mark.parametrize("kind", ["greater", "not_less", "equal"])
def test_whole_numbers_are_decided_exactly(kind: Kind, reach: float, bits: int) -> None:
    values = np.unique(np.rint(np.concatenate((np.linspace(-reach, reach, 301), np.arange(-1, 2)))))
    expected = {"greater": values > 0, "not_less": values >= 0, "equal": values == 0}[kind]
    assert np.array_equal(decided(kind, 0.5, values, reach, bits), expected)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("kind", ["greater", "not_less", "equal"])
def test_a_decision_is_a_bit_whatever_is_shared(kind: Kind, bits: int) -> None:
    """So a sum of decisions is a count, and no client reads more off it: here at all ends of what is compared."""
    edges = [
        sign * (1 << place) + near for place in range(bits - bits // 4) for sign in (-1, 1) for near in range(-2, 3)
    ]
    values = np.array(edges, dtype=np.float64) / 2.0**6
    assert set(decided(kind, 0.5, values, 3.0, bits)) == {0, 1}


@pytest.mark.parametrize("scale", [1.0, 0.25, 1 / 3, -2.0])
@pytest.mark.parametrize("kind", ["greater", "not_less", "equal"])
def test_what_is_nearer_than_the_tolerance_is_equal(kind: Kind, scale: float) -> None:
    tolerance = 0.5e-3
    values = np.concatenate([np.array([-1e-3, -0.6e-3, -0.4e-3, 0, 0.4e-3, 0.6e-3, 1e-3]), np.linspace(-4, 4, 51)])
    got = decided(kind, tolerance, values / abs(scale), 4 / abs(scale), 64, scale)
    x = values * np.sign(scale)
    assert np.array_equal(
        got, {"greater": x > tolerance, "not_less": x > -tolerance, "equal": np.abs(x) < tolerance}[kind]
    )


def test_a_sum_of_products_is_decided_after_it_was_cut() -> None:
    """The product's bits are more than are compared: values that are equal stay equal whatever the dither."""
    b = Builder()
    x = b.input((2,))
    left, right = b.slice(x, 0, 0, 1), b.slice(x, 0, 1, 2)
    difference = b.combine((b.mul(left, left), b.mul(right, right)), (1, -1))
    emitter = emitted(b, b.decide(difference, "equal", 0.5, whole=True), 8.0, 64)
    plan = emitter.logits()
    pairs = torch.cartesian_prod(torch.arange(-8, 9), torch.arange(-8, 9)).numpy()
    got = Run(plan, emitter.weights).assert_bit_exact(pairs.astype(np.int64) << plan.input.frac_bits)[:, 0]
    assert np.array_equal(got, pairs[:, 0] ** 2 == pairs[:, 1] ** 2)


def test_whole_numbers_that_cannot_be_told_apart_are_refused() -> None:
    b = Builder()
    x = b.scale(b.input((1,)), 2.0**21)
    with pytest.raises(NotServable, match="told apart"):
        emitted(b, b.decide(x, "greater", 0.5, whole=True), 1.0, 64)


@pytest.mark.parametrize("classes", [2, 3, 10, 300])
def test_the_place_of_the_largest_is_the_first_of_equals(classes: int) -> None:
    b = Builder()
    emitter = emitted(b, b.argmax(b.input((classes,))), 8.0, 64)
    plan = emitter.logits()
    rows = np.arange(12 * classes, dtype=np.int64).reshape(12, classes) * 2654435761 % 17 - 8
    rows[0] = 3
    got = Run(plan, emitter.weights).assert_bit_exact(rows << plan.input.frac_bits)[:, 0]
    assert np.array_equal(got * plan.output.scale, rows.argmax(axis=1))


def test_a_decision_runs_itself_as_it_is_compiled() -> None:
    x = torch.tensor([[-1.0], [-0.25], [0.0], [0.25], [1.0]])
    common = {"name": "d", "inputs": ("x",), "shape": (1,), "origin": "test", "tolerance": 0.5}
    outcomes = {kind: ir.DecideNode(kind=kind, **common).forward(x)[:, 0].tolist() for kind in ("greater", "not_less")}  # type: ignore[arg-type]
    assert outcomes == {"greater": [0, 0, 0, 0, 1], "not_less": [0, 1, 1, 1, 1]}
    assert ir.DecideNode(kind="equal", **common).forward(x)[:, 0].tolist() == [0, 1, 1, 1, 0]  # type: ignore[arg-type]
