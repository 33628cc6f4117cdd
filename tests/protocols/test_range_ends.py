"""Layers at the ends of their stated ranges, under fresh masks for 2,000 rows each."""

from typing import Any

import numpy as np
import pytest

from moiety_shared.plan.layers import Reshare
from moiety_shared.plan.lookups import MaxPool, ReLU, Table, TopK, Truncate
from moiety_shared.plan.plan import AnyLayer
from moiety_shared.protocols import graph
from moiety_shared.ring import Array
from tests.protocols.growing import TABLE_BITS
from tests.protocols.running import Run, integers, plan_of

ROWS = 2000


def at_ends(layer: AnyLayer, values: list[list[int]], bits: int = 32) -> tuple[Array, Array]:
    """The inputs, and what the parties make of them; the tests below hold it against the layer's definition."""
    plan = plan_of(layer, shape=layer.input_shapes[0], bits=bits)
    x = np.resize(np.array(values, dtype=graph.ring_of(plan).dtype), (ROWS, len(values[0])))
    return x, Run(plan, {}).outputs(x.reshape(ROWS, -1)).reshape(ROWS, -1)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("q", [8, 12, 16, 20, 31, 32])
def test_truncation_at_the_ends(bits: int, q: int) -> None:
    end = 1 << (q - 2)
    x, got = at_ends(Truncate(name="t", input="input", shape=(3,), shift=0, opened_bits=q), [[-end, end, 0]], bits)
    assert np.array_equal(x, got)


@pytest.mark.parametrize("bits", [32, 64])
def test_with_nothing_to_lift_every_value_is_in_range(bits: int) -> None:
    half = 1 << (bits - 1)
    layer = Truncate(name="t", input="input", shape=(4,), shift=0, opened_bits=bits)
    x, got = at_ends(layer, [[-half, half - 1, half // 2, -1]], bits)
    assert np.array_equal(x, got)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("q", "B"), [(8, 7), (16, 15), (16, 9), (12, 11), (20, 19), (21, 20), (32, 20)])
@pytest.mark.parametrize("hinge", [0, 3, -3])
def test_relu_at_the_ends(bits: int, q: int, B: int, hinge: int) -> None:
    """The range is that of t - h: t itself need not fit what is opened."""
    low, high = hinge - (1 << B), hinge + (1 << B) - 1
    layer = ReLU(
        name="r", input="input", shape=(5,), hinges=(hinge,), shift=0, opened_bits=q, range_bits=B, digit_bits=5
    )
    x, got = at_ends(layer, [[low, high, hinge - 1, hinge, hinge + 1]], bits)
    assert np.array_equal(got, np.maximum(x - hinge, 0))


ENDS = pytest.mark.parametrize(("q", "B"), [(12, 11), (16, 15), (16, 8), (20, 15)])


def pairs_at_ends(q: int, B: int) -> list[list[int]]:
    """Only differences, first less second, have a range; the values themselves may be anywhere in the ring."""
    base, d = 1 << (q - 2), 1 << B
    return [[base + a, base + b] for a, b in ((0, d), (d - 1, 0), (0, 0), (-1, 0), (0, -1), (-4 * base, d - 4 * base))]


@ENDS
def test_ranks_at_the_ends(q: int, B: int) -> None:
    layer = TopK(name="k", input="input", shape=(2,), k=2, shift=0, opened_bits=q, range_bits=B)
    x, got = at_ends(layer, pairs_at_ends(q, B))
    assert np.array_equal(got, np.where(x[:, :1] >= x[:, 1:], [[1, 2]], [[2, 1]]))


@ENDS
def test_pools_at_the_ends(q: int, B: int) -> None:
    """The result is the maximum mod 2^q: here it is one that is lifted as it is."""
    shape: dict[str, Any] = {"shape": (1, 1, 2), "kernel": (1, 2), "stride": (1, 2), "output_size": (1, 1)}
    pool = MaxPool(name="m", input="input", **shape, shift=0, opened_bits=q, range_bits=B)
    end = Truncate(name="t", input="m", shape=(1, 1, 1), shift=0, opened_bits=q)
    plan, base, d = plan_of(pool, end, shape=(1, 1, 2)), 1 << (q - 2), 1 << B
    pairs = [[-base, min(d, 2 * base) - base], [min(d - 1, 2 * base) - base, -base], [5, 5], [-1, 0], [0, -1]]
    x = np.resize(np.array(pairs, dtype=np.int32), (ROWS, 2))
    assert np.array_equal(Run(plan, {}).assert_bit_exact(x)[:, 0, 0, 0], x.max(axis=1))


@pytest.mark.parametrize("m", range(2, TABLE_BITS + 1))
def test_every_entry_of_a_table(m: int) -> None:
    size = 1 << m
    wide = 23 if m <= 8 else 7
    values = tuple(integers((size,), wide).tolist()), tuple(range(-size, 0)), (7,) * size
    fresh = Reshare(name="fresh", input="input", shape=(size,))
    layer = Table(name="t", input="fresh", shape=(size,), shift=2, opened_bits=m, values=values)
    x = 4 * np.arange(-size // 2, size // 2, dtype=np.int32)[None].repeat(2, 0)
    run = Run(plan_of(fresh, layer, shape=(size,)), {})
    got = run.assert_bit_exact(x)
    t = (x + run.dithers["t"]) >> 2
    for function, column in zip(values, got.transpose(1, 0, 2), strict=True):
        assert np.array_equal(column, np.array(function)[t % size])
