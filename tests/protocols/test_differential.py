"""Whole plans, bit for bit, against the plain fixed-point evaluator that is given the same dithers; and that evaluator
against torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from moiety_shared import reference
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.plan.layers import Bias, Conv, Linear, Mul, Open, Reshare
from moiety_shared.plan.local import Combine, Concat, Local, Pad, Permute, Reshape, Slice, Sum, SumPool, Upsample
from moiety_shared.plan.lookups import Decide, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.plan import AnyLayer, Input, Output, Plan
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import Kind, wire_bytes
from moiety_shared.protocols.product import times
from moiety_shared.ring import Array, Ring
from tests.protocols.growing import KINDS, TABLE_BITS, Case, plans
from tests.protocols.running import Run, bundle, prepare

LENIENT = [HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large]
examples = settings(max_examples=40, deadline=None, suppress_health_check=LENIENT)
few_examples = settings(max_examples=15, deadline=None, suppress_health_check=LENIENT)
torch_examples = settings(max_examples=60, deadline=None, suppress_health_check=LENIENT)


def integers(shape: Sequence[int], bits: int = 8, dtype: Any = np.int32) -> Array:
    """Signed integers of so many bits."""
    return (Stream(new_seed()).words("x", tuple(shape), np.int64) >> (64 - bits)).astype(dtype)


def plan_of(*layers: AnyLayer, shape: tuple[int, ...], bits: int = 32, **more: Any) -> Plan:
    """The last layer's wire is the output."""
    last, classes = layers[-1], more.pop("classes", None)
    words = isinstance(last, TopK) and last.result == "words"
    return Plan(
        ring_bits=bits,  # type: ignore[arg-type]
        input=Input(shape=shape, frac_bits=0, low=-128, high=128, classes=classes),
        layers=layers,
        output=Output(wire=last.name, shape=last.output_shape, kind="labels" if words else "logits"),
    )


def run_of(plan: Plan) -> Run:
    return Run(plan, {name: integers(shape, 4, graph.ring_of(plan).dtype) for name, shape in plan.weights()})


# Random plans.


@pytest.mark.parametrize("kind", [*KINDS, "words", ""])
def test_random_plans_are_bit_exact_at_the_stated_cost(kind: str) -> None:
    @examples
    @given(plans(kind))
    def check(case: Case) -> None:
        Run(case.plan, case.weights).assert_bit_exact(case.x)

    check()


@pytest.mark.parametrize("kind", [kind for kind in (*KINDS, "words") if kind != "truncate"])
def test_random_plans_are_bit_exact_beyond_their_ranges(kind: str) -> None:
    """Whatever ring elements a client shares, masks decide nothing."""

    @few_examples
    @given(plans(kind))
    def check(case: Case) -> None:
        assume(not any(isinstance(layer, Truncate) for layer in case.plan.layers))
        run = Run(case.plan, case.weights)
        run.assert_bit_exact(run.random(case.x.shape))

    check()


@examples
@given(plans(most=4), st.integers(1, 150))
def test_slices_give_the_same_as_one(case: Case, rows: int) -> None:
    plan, run = case.plan, Run(case.plan, case.weights)
    x = np.resize(case.x, (rows, case.x.shape[1]))
    ready = run.ready(x)
    sliced = [graph.evaluate_slices(plan, p, *ready[p], run.models[p]) for p in (0, 1)]
    assert len(sliced[0]) == -(-rows // plan.slice_rows)
    parts, sent = [], 0
    for (first, end), *sessions in zip(plan.slices(rows), *sliced, strict=True):
        parts.append(run.drive(*sessions))
        assert np.array_equal(parts[-1], run.expected(x[first:end]))
        assert run.rounds == plan.rounds
        sent += sum(wire_bytes(opening) for opening, _ in run.opened)
    assert sent == plan.cost(rows).online_bytes
    whole = run.drive(*(graph.evaluate(plan, p, *ready[p], run.models[p]) for p in (0, 1)))
    assert np.array_equal(np.concatenate(parts), whole)


OPENED = {"shift": 3, "opened_bits": 16, "range_bits": 12}
IMAGE = (2, 5, 6)
NETWORK = plan_of(
    Open(name="o", input="input", shape=IMAGE),
    Conv(name="conv", input="o", shape=IMAGE, out_channels=4, kernel=(3, 3), padding=(1, 1), groups=2),
    MaxPool(name="pool", input="conv", shape=(4, 5, 6), kernel=(3, 2), stride=(2, 2), output_size=(2, 3), **OPENED),
    ReLU(name="relu", input="pool", shape=(4, 2, 3), shift=0, opened_bits=16, range_bits=12),
    Reshape(name="flat", input="relu", shape=(4, 2, 3), to=(24,)),
    Open(name="p", input="flat", shape=(24,)),
    Linear(name="linear", input="p", shape=(24,), out_features=5),
    shape=IMAGE,
)


def test_rows_of_a_bundle_are_independent_of_how_they_are_drawn() -> None:
    """Cut and stacked rows compute the same: rows 5..8 as one run, or as part of a larger one."""
    rows, run = 16, run_of(NETWORK)
    seeds = [new_seed() for _ in range(3)]
    raw = bundle(NETWORK, rows, run.masks, seeds)
    x = integers((rows, NETWORK.input.size))
    x0 = run.random(x.shape)
    outs = []
    for first, end in ((0, rows), (5, 9)):
        sessions = []
        for p, share in enumerate((x0, x - x0)):
            whole = prepare(NETWORK, p, rows, seeds[p], raw, run.models[p])
            parts = [graph.cut(whole, at, min(at + 3, end)) for at in range(first, end, 3)]
            sessions.append(graph.evaluate(NETWORK, p, share[first:end], graph.stack(parts), run.models[p]))
        outs.append(run.drive(*sessions))
    assert np.array_equal(outs[0][5:9], outs[1])


def test_a_wrong_dither_is_noticed() -> None:
    run, x = run_of(NETWORK), integers((8, NETWORK.input.size))
    got = run.outputs(x)
    assert np.array_equal(got, run.expected(x))
    assert not np.array_equal(got, reference.run(NETWORK, x, run.weights, lambda name, _: run.dithers[name] + 8))


def test_without_dithers_rounding_is_to_nearest() -> None:
    fresh = Reshare(name="fresh", input="input", shape=(5,))
    plan = plan_of(fresh, Truncate(name="t", input="fresh", shape=(5,), shift=2, opened_bits=16), shape=(5,))
    x = np.array([[-7, -6, 5, 6, 8]], dtype=np.int32)
    assert reference.run(plan, x, {}).tolist() == [[-2, -1, 1, 2, 2]]


@given(plans(most=3))
@settings(max_examples=20, deadline=None, suppress_health_check=LENIENT)
def test_corrections_may_be_read_only(case: Case) -> None:
    """Bundles arrive as bytes, and what is prepared goes on referring to them."""
    run, rows, seeds = Run(case.plan, case.weights), len(case.x), [new_seed() for _ in range(3)]
    raw: Any = {name: bytes(part) for name, part in bundle(case.plan, rows, run.masks, seeds).items()}
    x0 = run.random(case.x.shape)
    sessions = []
    for p, share in enumerate((x0, case.x - x0)):
        share.flags.writeable = False
        ready = prepare(case.plan, p, rows, seeds[p], raw, run.models[p])
        sessions.append(graph.evaluate(case.plan, p, share, ready, run.models[p]))
    assert np.array_equal(run.drive(*sessions), run.expected(case.x))


def test_a_bundle_of_another_length_is_refused() -> None:
    run, seeds = run_of(NETWORK), [new_seed() for _ in range(3)]
    raw = bundle(NETWORK, 2, run.masks, seeds)
    raw["relu"].pop()
    with pytest.raises(ValueError, match="length"):
        prepare_unchecked(run, raw, seeds[1])


def prepare_unchecked(run: Run, raw: dict[str, bytearray], seed: bytes) -> None:
    preparation = graph.Preparation(run.plan, 1, 2, Stream(seed), run.models[1])
    for layer in run.plan.layers:
        preparation.add(layer, raw[layer.name])


def test_layers_side_by_side_share_their_rounds() -> None:
    """Three branches of 3, 1 and 2 rounds, and one more round where they meet."""
    shape = (4,)
    plan = plan_of(
        ReLU(name="relu", input="input", shape=shape, shift=0, opened_bits=16, range_bits=9),
        Reshare(name="fresh", input="input", shape=shape),
        Truncate(name="truncate", input="fresh", shape=shape, shift=2, opened_bits=16),
        Table(name="table", input="fresh", shape=shape, shift=4, opened_bits=4, values=(tuple(range(16)),)),
        Reshape(name="flat", input="table", shape=(1, 4), to=shape),
        Combine(name="sum", inputs=("relu", "truncate", "flat"), shapes=(shape,) * 3, factors=(1, -2, 3)),
        Open(name="o", input="sum", shape=shape),
        Mul(name="square", left="o", right="o", left_shape=shape, right_shape=shape),
        shape=shape,
    )
    run = run_of(plan)
    run.assert_bit_exact(integers((3, 4)))
    assert run.rounds == plan.rounds == 4
    assert [opening.kind for opening, _ in run.opened] == [
        *(Kind.RING, Kind.RING, Kind.RING),
        *(Kind.WORDS, Kind.BITS),
        Kind.BITS,
        Kind.RING,
    ]


def test_a_private_evaluation_counts_what_is_right() -> None:
    plan = plan_of(
        TopK(name="winner", input="input", shape=(5,), shift=0, opened_bits=16, range_bits=9, result="share"),
        Open(name="w", input="winner", shape=(5,)),
        OneHot(name="row", input="labels", opened_bits=3, classes=5),
        Open(name="l", input="row", shape=(5,)),
        Mul(name="both", left="w", right="l", left_shape=(5,), right_shape=(5,)),
        Sum(name="right", input="both", shape=(5,), axes=(0,)),
        shape=(5,),
        classes=5,
    )
    logits, labels = integers((6, 5)), np.arange(6) % 5
    x = np.concatenate((logits, labels[:, None].astype(np.int32)), axis=1)
    got = run_of(plan).assert_bit_exact(x)
    assert np.array_equal(got[:, 0], logits.argmax(axis=1) == labels)


def test_any_label_is_one_label() -> None:
    """Whatever ring element is shared as a label, a row counts 0 or 1, and it counts 1 for one class alone."""
    run = run_of(counting(*of_both("g", "r")))
    labels = np.array([0, 1, 2, 3, 4, 5, -1, -2, 10, 100, 1000, 1 << 16, -(1 << 31), (1 << 31) - 1], dtype=np.int32)
    got = []
    for winner in range(3):
        logits = np.zeros((len(labels), 3), dtype=np.int32)
        logits[:, winner] = 7
        got.append(run.assert_bit_exact(np.concatenate((logits, labels[:, None]), axis=1))[:, 0])
    meant = np.where(labels % 4 < 3, labels % 4, 0)
    assert np.array_equal(np.stack(got, axis=1), meant[:, None] == np.arange(3))


# At the ends of the stated ranges, under fresh masks for 2,000 rows each.

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


# The plain evaluator itself, against torch on whole numbers.


def of_torch(x: Array) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float64))


def whole(x: torch.Tensor) -> Array:
    """torch's float64 result as the integers it must be."""
    assert bool((x == x.round()).all())
    return x.numpy().astype(np.int64)


sizes, sides = st.integers(1, 7), st.integers(1, 3)
functional = torch.nn.functional


@torch_examples
@given(st.data())
def test_local_layers_compute_what_torch_does(data: st.DataObject) -> None:
    draw = data.draw
    c, h, w = shape = draw(st.tuples(st.integers(1, 4), sizes, sizes))
    x = integers((2, *shape))
    t = of_torch(x)
    order = draw(st.permutations(range(3)))
    axis, factors = draw(st.integers(0, 2)), draw(st.tuples(sides, sides))
    start = draw(st.integers(0, shape[axis] - 1))
    stop, step = draw(st.integers(start + 1, shape[axis])), draw(sides)
    before, after = (draw(st.tuples(*[st.integers(0, 2)] * 3)) for _ in range(2))
    ends = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
    axes = tuple(draw(st.lists(st.integers(0, 2), unique=True)))
    kernel = draw(st.tuples(st.integers(1, h), st.integers(1, w)))
    stride, padding = draw(st.tuples(sides, sides)), (draw(st.integers(0, kernel[0] // 2)), kernel[1] // 2)
    mean = functional.avg_pool2d(t, kernel, stride, padding) * (kernel[0] * kernel[1])
    index = [slice(None)] * (axis + 1) + [slice(start, stop, step)]
    given_shape: dict[str, Any] = {"name": "l", "input": "x", "shape": shape}
    cases: list[tuple[Local, torch.Tensor]] = [
        (Reshape(**given_shape, to=(h * w, c)), t.reshape(2, h * w, c)),
        (Permute(**given_shape, order=tuple(order)), t.permute(0, *(a + 1 for a in order))),
        (Slice(**given_shape, axis=axis, start=start, stop=stop, step=step), t[tuple(index)]),
        (Pad(**given_shape, before=before, after=after), functional.pad(t, ends)),
        (Upsample(**given_shape, factors=factors), functional.interpolate(t, scale_factor=[float(f) for f in factors])),
        (Sum(**given_shape, axes=axes), t.sum(dim=[a + 1 for a in axes]) if axes else t),
        (SumPool(**given_shape, kernel=kernel, stride=stride, padding=padding), mean.round()),
    ]
    for layer, expected in cases:
        got = layer.apply(x)
        assert got.dtype == x.dtype and got.shape == (2, *layer.output_shape) and got.flags.c_contiguous
        assert np.array_equal(got, whole(expected).reshape(got.shape)), layer


@torch_examples
@given(st.data())
def test_concat_and_combine_compute_what_torch_does(data: st.DataObject) -> None:
    draw = data.draw
    shape, axis = draw(st.tuples(sizes, sizes, sizes)), draw(st.integers(0, 2))
    others = [(*shape[:axis], draw(sizes), *shape[axis + 1 :]) for _ in range(draw(st.integers(0, 2)))]
    thin = [tuple(draw(st.sampled_from([1, n])) for n in shape) for _ in range(draw(st.integers(0, 2)))]
    factors = tuple(draw(st.integers(-9, 9)) for _ in (shape, *thin))
    names = ("a", "b", "c")
    concat = Concat(name="l", inputs=names[: 1 + len(others)], shapes=(shape, *others), axis=axis)
    combine = Combine(name="l", inputs=names[: 1 + len(thin)], shapes=(shape, *thin), factors=factors)
    x = [integers((2, *s)) for s in concat.shapes]
    assert np.array_equal(concat.apply(*x), whole(torch.cat([of_torch(v) for v in x], axis + 1)))
    x = [integers((2, *s)) for s in combine.shapes]
    expected = torch.zeros(2, *shape, dtype=torch.float64)
    for factor, value in zip(factors, x, strict=True):
        expected = expected + factor * of_torch(value)
    got = combine.apply(*x)
    assert got.shape == (2, *combine.output_shape) and np.array_equal(got, whole(expected))


@torch_examples
@given(st.data(), st.sampled_from([np.int32, np.int64]))
def test_products_compute_what_torch_does(data: st.DataObject, dtype: Any) -> None:
    draw, ring = data.draw, Ring(np.dtype(dtype).itemsize * 8)
    lead = draw(st.lists(sizes, max_size=2))
    linear = Linear(name="l", input="x", shape=(*lead, draw(sizes)), out_features=draw(sizes))
    x, weight = integers((2, *linear.shape), dtype=dtype), integers(linear.weights()["weight"], dtype=dtype)
    expected = functional.linear(of_torch(x), of_torch(weight))
    assert np.array_equal(times(ring, linear, x, weight), whole(expected))
    groups, kernel, stride = draw(sides), draw(st.tuples(sides, sides)), draw(st.tuples(sides, sides))
    transposed, dilation = draw(st.booleans()), draw(st.tuples(sides, sides))
    padding = draw(st.tuples(*[st.integers(0, d * (k - 1)) for d, k in zip(dilation, kernel, strict=True)]))
    shape = (groups * draw(st.integers(1, 2)), draw(st.integers(7, 9)), draw(st.integers(7, 9)))
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if transposed:
        most = [max(s, d) - 1 for s, d in zip(stride, dilation, strict=True)]
        options["output_padding"] = draw(st.tuples(*[st.integers(0, m) for m in most]))
    out = groups * draw(st.integers(1, 2))
    conv = Conv(name="l", input="x", shape=shape, out_channels=out, kernel=kernel, transposed=transposed, **options)
    x, weight = integers((2, *shape), dtype=dtype), integers(conv.weights()["weight"], dtype=dtype)
    convolution = functional.conv_transpose2d if transposed else functional.conv2d
    expected = convolution(of_torch(x), of_torch(weight), **options)
    got = times(ring, conv, x, weight)
    assert got.shape == (2, *conv.output_shape) and np.array_equal(got, whole(expected))


@torch_examples
@given(st.data())
def test_max_pool_computes_what_torch_does(data: st.DataObject) -> None:
    draw = data.draw
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)).filter(lambda k: k != (1, 1)))
    stride, dilation = (draw(st.tuples(sides, sides)) for _ in range(2))
    padding = draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))
    least = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    shape = (draw(sides), least[0] + draw(st.integers(0, 5)), least[1] + draw(st.integers(0, 5)))
    if kernel[0] == 1:
        stride = (1, stride[1])  # see test_a_pool_of_one_row_that_strides
    x = integers((2, *shape))
    ceil = draw(st.booleans())
    expected = functional.max_pool2d(of_torch(x), kernel, stride, padding, dilation, ceil_mode=ceil)
    layer = MaxPool(
        name="m",
        input="input",
        shape=shape,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_size=tuple(expected.shape[2:]),  # type: ignore[arg-type]
        shift=0,
        opened_bits=16,
        range_bits=9,
    )
    end = ReLU(name="r", input="m", shape=layer.output_shape, hinges=(-200,), shift=0, opened_bits=16, range_bits=9)
    got = Run(plan_of(layer, end, shape=shape), {}).assert_bit_exact(x.reshape(2, -1))
    assert np.array_equal(got - 200, whole(expected))


@torch_examples
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=4), st.sampled_from([8, 9, 16, 32]))
def test_hinges_are_relus(hinges: list[int], q: int) -> None:
    layer = ReLU(name="r", input="input", shape=(9,), hinges=tuple(hinges), shift=0, opened_bits=q, range_bits=7)
    x = integers((3, 9), 7)
    got = Run(plan_of(layer, shape=(9,)), {}).assert_bit_exact(x)
    expected = sum(functional.relu(of_torch(x) - h) * (-1) ** i for i, h in enumerate(hinges))
    assert isinstance(expected, torch.Tensor) and np.array_equal(got, whole(expected))


@torch_examples
@given(st.integers(2, 12), st.integers(1, 14), st.sampled_from([2, 4, 8]))
def test_places_are_those_of_a_stable_sort(n: int, k: int, bits: int) -> None:
    layer = TopK(name="t", input="input", shape=(n,), k=k, shift=0, opened_bits=16, range_bits=9)
    x = integers((4, n), bits)
    got = Run(plan_of(layer, shape=(n,)), {}).assert_bit_exact(x)
    order = torch.from_numpy(x).sort(dim=1, descending=True, stable=True).indices
    expected = torch.zeros(4, n, dtype=torch.int64).scatter(1, order, torch.arange(1, n + 1).expand(4, n))
    assert np.array_equal(got, np.where(expected <= k, expected, 0))


# Plans that make no sense are refused, and the message names the layer.

A, B = (2, 3), (3, 4)
OPEN = Open(name="o", input="input", shape=A)
Q: dict[str, Any] = {"shift": 0, "opened_bits": 16, "range_bits": 8}
POOL = MaxPool(name="m", input="input", shape=(1, 2, 2), kernel=(2, 2), stride=(2, 2), output_size=(1, 1), **Q)
WORDS = TopK(name="k", input="input", shape=(3,), **Q)
REFUSED: dict[str, tuple[tuple[int, ...], tuple[AnyLayer, ...], str]] = {
    "another shape": (A, (Open(name="bad", input="input", shape=B),), "'bad' reads wires of other shapes"),
    "another number of axes": (A, (Open(name="bad", input="input", shape=(6,)),), "'bad' reads wires of other shapes"),
    "a wire that is not there": (A, (Open(name="bad", input="nothing", shape=A),), "'bad' reads 'nothing'"),
    "a wire that comes later": (
        A,
        (Linear(name="bad", input="o", shape=A, out_features=1), OPEN),
        "'bad' reads 'o', which is not made before it",
    ),
    "itself": (A, (Open(name="bad", input="bad", shape=A),), "'bad' reads 'bad'"),
    "labels where there are none": (A, (Open(name="bad", input="labels", shape=A),), "'bad' reads 'labels'"),
    "a name twice": (A, (OPEN, OPEN), "two wires are called 'o'"),
    "the input's name": (A, (Open(name="input", input="input", shape=A),), "two wires are called 'input'"),
    "a product of a share": (
        A,
        (Linear(name="bad", input="input", shape=A, out_features=1),),
        "'bad' reads wires that",
    ),
    "a product with a share": (
        A,
        (OPEN, Mul(name="bad", left="o", right="input", left_shape=A, right_shape=A)),
        "'bad' reads wires that are opened first",
    ),
    "opening what is open": (A, (OPEN, Open(name="bad", input="o", shape=A)), "'bad' opens shares"),
    "comparing what is open": (A, (OPEN, ReLU(name="bad", input="o", shape=A, **Q)), "'bad' opens"),
    "adding what is open": (A, (OPEN, Bias(name="bad", input="o", shape=A, bias_shape=A)), "'bad' reads shares"),
    "permuting what is open": (A, (OPEN, Permute(name="bad", input="o", shape=A, order=(1, 0))), "'bad' reads shares"),
    "adding words": ((3,), (WORDS, Bias(name="bad", input="k", shape=(3,), bias_shape=(3,))), "'bad' reads shares"),
    "comparing words": ((3,), (WORDS, ReLU(name="bad", input="k", shape=(3,), **Q)), "'bad' opens"),
    "opening words": ((3,), (WORDS, Open(name="bad", input="k", shape=(3,))), "'bad' opens"),
    "opening a smaller ring": ((1, 2, 2), (POOL, Open(name="bad", input="m", shape=(1, 1, 1))), "'bad' opens shares"),
    "two rings": (
        (1, 2, 2),
        (POOL, Combine(name="bad", inputs=("m", "input"), shapes=((1, 1, 1), (1, 2, 2)), factors=(1, 1))),
        "'bad' reads shares of one ring",
    ),
    "more bits than the ring has": (
        A,
        (
            Reshare(name="fresh", input="input", shape=A),
            Truncate(name="bad", input="fresh", shape=A, shift=20, opened_bits=16),
        ),
        "'bad' opens more bits",
    ),
    "more bits than the smaller ring has": (
        (1, 2, 2),
        (POOL, Truncate(name="bad", input="m", shape=(1, 1, 1), shift=1, opened_bits=16)),
        "'bad' opens more bits",
    ),
    "factors that do not broadcast": (
        A,
        (
            OPEN,
            Mul(name="bad", left="o", right="o", left_shape=A, right_shape=(2, 1)),
        ),
        "'bad'",
    ),
    "a window larger than its input": (
        (1, 2, 2),
        (SumPool(name="bad", input="input", shape=(1, 2, 2), kernel=(3, 3), stride=(1, 1)),),
        "'bad' has no size",
    ),
    "too many values": (
        (1, 1, 1),
        (Upsample(name="bad", input="input", shape=(1, 1, 1), factors=(1 << 16, 1 << 16)),),
        "'bad' has no size",
    ),
}


SHIFTED: dict[str, Any] = {"shift": 2, "opened_bits": 16}
LOW_BITS: dict[str, tuple[AnyLayer, ...]] = {
    "the input": (Truncate(name="bad", input="input", shape=A, **SHIFTED),),
    "the input, compared": (ReLU(name="bad", input="input", shape=A, **SHIFTED, range_bits=8),),
    "the input, looked up": (
        Table(name="bad", input="input", shape=A, shift=2, opened_bits=2, values=((0, 1, 2, 3),)),
    ),
    "what is moved": (
        Permute(name="p", input="input", shape=A, order=(1, 0)),
        Truncate(name="bad", input="p", shape=(3, 2), **SHIFTED),
    ),
    "a sum": (Sum(name="s", input="input", shape=A, axes=(0,)), Truncate(name="bad", input="s", shape=(3,), **SHIFTED)),
    "a sum with something fresh": (
        Reshare(name="f", input="input", shape=A),
        Combine(name="c", inputs=("f", "input"), shapes=(A, A), factors=(1, 1)),
        Decide(name="bad", input="c", shape=A, **SHIFTED, range_bits=8),
    ),
    "a bias": (
        Bias(name="b", input="input", shape=A, bias_shape=(3,)),
        Truncate(name="bad", input="b", shape=A, **SHIFTED),
    ),
}


@pytest.mark.parametrize("name", LOW_BITS)
def test_a_client_chooses_no_dither(name: str) -> None:
    """It chose both shares: low bits are dropped of fresh ones only."""
    *before, last = LOW_BITS[name]
    with pytest.raises(ValueError, match="'bad' drops low bits of what a client shared"):
        plan_of(*before, last, shape=A)
    (read,), (shape,) = last.reads, last.input_shapes
    fresh = Reshare(name="fresh", input=read, shape=shape)
    plan_of(*before, fresh, last.model_copy(update={"input": "fresh"}), shape=A)


ROW = OneHot(name="row", input="labels", opened_bits=2, classes=3)
OPEN_ROW = Open(name="r", input="row", shape=(3,))


@pytest.mark.parametrize(
    "layers",
    [
        (Open(name="bad", input="labels", shape=(1,)),),
        (Truncate(name="bad", input="labels", shape=(1,), shift=0, opened_bits=16),),
        (OneHot(name="bad", input="labels", opened_bits=2, classes=4),),
        (ROW, OPEN_ROW, Pad(name="bad", input="labels", shape=(1,), before=(0,), after=(2,))),
    ],
    ids=["opened", "truncated", "of other classes", "moved"],
)
def test_labels_are_an_index_and_nothing_else(layers: tuple[AnyLayer, ...]) -> None:
    with pytest.raises(ValueError, match="'bad' reads labels, which are an index"):
        plan_of(*layers, shape=(3,), classes=3)


def counting(*layers: AnyLayer, wire: str = "count", **more: Any) -> Plan:
    top = TopK(name="top", input="input", shape=(3,), **Q, result="share")
    guess = Open(name="g", input="top", shape=(3,))
    return Plan(
        ring_bits=32,
        input=Input(shape=(3,), frac_bits=0, low=-128, high=128, classes=more.pop("classes", 3)),
        layers=(top, guess, ROW, OPEN_ROW, *layers) if more.pop("labels", True) else (top, guess, *layers),
        output=Output(wire=wire, shape=more.pop("shape", (1,)), kind="count", **more),
    )


def of_both(left: str, right: str) -> tuple[AnyLayer, ...]:
    both = Mul(name="m", left=left, right=right, left_shape=(3,), right_shape=(3,))
    return both, Sum(name="count", input="m", shape=(3,), axes=(0,))


def test_a_count_is_of_right_labels_and_of_nothing_else() -> None:
    key = PrivateKey.generate().public.text()
    counting(*of_both("g", "r"))
    counting(*of_both("r", "g"), owner_key=key)
    more = Open(name="i", input="input", shape=(3,))
    weighted = (
        Combine(name="w", inputs=("top",), shapes=((3,),), factors=(1000,)),
        Open(name="x", input="w", shape=(3,)),
    )
    wrong: list[tuple[tuple[AnyLayer, ...], dict[str, Any]]] = [
        ((), {"wire": "input", "shape": (3,)}),
        ((), {"wire": "row", "shape": (3,)}),
        ((), {"wire": "input", "shape": (3,), "classes": None, "labels": False, "owner_key": key}),
        ((more, *of_both("i", "r")), {}),
        (of_both("r", "r"), {}),
        (of_both("g", "g"), {}),
        ((*weighted, *of_both("x", "r")), {}),
    ]
    for layers, how in wrong:
        with pytest.raises(ValueError, match="no count of right labels"):
            counting(*layers, **how)


@pytest.mark.parametrize("name", REFUSED)
def test_a_plan_that_does_not_fit_is_refused(name: str) -> None:
    shape, layers, message = REFUSED[name]
    given_input = Input(shape=shape, frac_bits=0, low=-1, high=1)
    with pytest.raises(ValueError, match=message):
        Plan(ring_bits=32, input=given_input, layers=layers, output=Output(wire="input", shape=shape))


@pytest.mark.parametrize(
    ("layers", "output", "message"),
    [
        ((WORDS,), Output(wire="k", shape=(3,)), "cannot be given out as logits"),
        ((WORDS,), Output(wire="k", shape=(3,), kind="count"), "cannot be given out as count"),
        ((WORDS,), Output(wire="input", shape=(3,), kind="labels"), "cannot be given out as labels"),
        ((Open(name="o", input="input", shape=(3,)),), Output(wire="o", shape=(3,)), "cannot be given out as logits"),
        ((WORDS,), Output(wire="input", shape=(4,)), "another size"),
        ((WORDS,), Output(wire="nothing", shape=(3,)), "does not exist"),
    ],
)
def test_an_output_of_another_kind_is_refused(layers: tuple[AnyLayer, ...], output: Output, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(ring_bits=32, input=Input(shape=(3,), frac_bits=0, low=-1, high=1), layers=layers, output=output)


@pytest.mark.parametrize(
    ("layer", "attributes", "message"),
    [
        (Reshape, {"shape": A, "to": (5,)}, "keeps the number"),
        (Permute, {"shape": A, "order": (0, 0)}, "not an order"),
        (Slice, {"shape": A, "axis": 0, "start": 1, "stop": 3}, "outside"),
        (Slice, {"shape": A, "axis": 2, "start": 0, "stop": 1}, "outside"),
        (Pad, {"shape": A, "before": (1,), "after": (1, 1)}, "every axis"),
        (Sum, {"shape": A, "axes": (2,)}, "not axes"),
        (Sum, {"shape": A, "axes": (0, 0)}, "not axes"),
        (Bias, {"shape": A, "bias_shape": (3, 2, 3)}, "do not broadcast"),
        (Bias, {"shape": A, "bias_shape": (2,)}, "broadcast"),
        (Conv, {"shape": (3, 4, 4), "out_channels": 2, "kernel": (1, 1), "groups": 2}, "groups"),
        (Conv, {"shape": (1, 4, 4), "out_channels": 2, "kernel": (5, 1)}, "larger"),
        (ReLU, {"shape": A, "shift": 0, "opened_bits": 8, "range_bits": 8}, "below opened_bits"),
        (ReLU, {"shape": A, "shift": 0, "opened_bits": 20, "range_bits": 17}, "digits"),
        (ReLU, {"shape": A, **Q, "hinges": ()}, "hinges"),
        (Table, {"shape": A, "shift": 0, "opened_bits": 2, "values": ((0,) * 3,)}, "2\\^opened_bits"),
        (Table, {"shape": A, "shift": 0, "opened_bits": 2, "values": ((0, 0, 0, 1 << 24),)}, "2\\^24"),
        (Table, {"shape": A, "shift": 0, "opened_bits": TABLE_BITS + 1, "values": ((0,) * 2,)}, "opened_bits"),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(layer: Any, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(name="bad", input="x", **attributes)


@pytest.mark.parametrize("padding", [(2, 0), (0, 2)])
def test_a_pool_of_padding_alone_is_refused(padding: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        MaxPool(**{**POOL.model_dump(), "padding": padding})


def test_a_pool_of_one_row_that_strides() -> None:
    pool = MaxPool(name="m", input="input", shape=(1, 4, 4), kernel=(1, 2), stride=(2, 2), output_size=(2, 2), **Q)
    end = ReLU(name="r", input="m", shape=(1, 2, 2), **Q)
    Run(plan_of(pool, end, shape=(1, 4, 4)), {}).assert_bit_exact(integers((2, 16), 6))


def test_a_pool_of_one_place_is_refused() -> None:
    with pytest.raises(ValueError, match="slice"):
        MaxPool(name="m", input="input", shape=(1, 4, 4), kernel=(1, 1), stride=(2, 2), output_size=(2, 2), **Q)


def test_a_pool_whose_dilated_window_misses_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        MaxPool(
            name="m",
            input="input",
            shape=(1, 2, 2),
            kernel=(2, 2),
            stride=(1, 1),
            padding=(1, 1),
            dilation=(3, 3),
            output_size=(1, 1),
            **Q,
        )


def test_shapes_of_fewer_axes_are_refused() -> None:
    """numpy would align the rows with an axis of the longer one."""
    with pytest.raises(ValueError, match="as many axes"):
        Mul(name="m", left="o", right="p", left_shape=A, right_shape=(3,))
    with pytest.raises(ValueError, match="as many axes"):
        Combine(name="m", inputs=("input", "v"), shapes=(A, (3,)), factors=(1, 1))


@pytest.mark.parametrize(
    ("layer", "attributes"),
    [
        (ReLU, {"shape": A, **Q, "hinges": (40000,)}),
        (TopK, {"shape": (3,), **Q, "k": 2, "result": "share"}),
        (Table, {"shape": A, "shift": 0, "opened_bits": 2, "values": ((1 << 70,) * 4,)}),
    ],
    ids=["a hinge beyond the range", "share of several", "a huge table"],
)
def test_an_attribute_that_cannot_work_is_refused(layer: Any, attributes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        layer(name="bad", input="x", **attributes)


@pytest.mark.parametrize(
    "layer",
    [
        Combine(name="bad", inputs=("input",), shapes=(A,), factors=(1 << 40,)),
        Table(name="bad", input="input", shape=A, shift=0, opened_bits=2, values=((1 << 40,) * 4,)),
    ],
    ids=["factor", "table"],
)
def test_a_number_beyond_the_ring_is_refused(layer: AnyLayer) -> None:
    with pytest.raises(ValueError, match="bad"):
        plan_of(layer, shape=A)
