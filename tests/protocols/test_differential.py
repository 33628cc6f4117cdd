"""Random plans of all layers, bit for bit against the plain evaluator that is given the same dithers."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moiety_shared import reference
from moiety_shared.layers import Conv, Linear, Mul, Open
from moiety_shared.local import Combine, Pad, Permute, Reshape, Sum, SumPool, Upsample
from moiety_shared.lookups import MaxPool, ReLU, TopK, Truncate
from moiety_shared.plan import Input, Output, Plan
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import lockstep
from moiety_shared.protocols.product import times
from moiety_shared.ring import Ring
from tests.protocols.growing import KINDS, Case, plans
from tests.protocols.running import Run

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow]
)


def checked(case: Case) -> Run:
    run = Run(case.plan, case.weights)
    run.assert_bit_exact(case.x)
    assert run.rounds == case.plan.rounds
    return run


@pytest.mark.parametrize("kind", [*KINDS, "words"])
def test_random_plans_are_bit_exact(kind: str) -> None:
    @QUICK
    @given(plans(kind))
    def run(case: Case) -> None:
        checked(case)

    run()


def small_network() -> Plan:
    shape = (1, 6, 6)
    return Plan(
        ring_bits=32,
        input=Input(shape=shape, frac_bits=4, low=-8, high=8),
        layers=(
            Open(name="o", input="input", shape=shape),
            Conv(name="c", input="o", shape=shape, out_channels=3, kernel=(3, 3)),
            ReLU(name="r", input="c", shape=(3, 4, 4), shift=6, opened_bits=16, range_bits=12),
            Reshape(name="f", input="r", shape=(3, 4, 4), to=(48,)),
            Open(name="fo", input="f", shape=(48,)),
            Linear(name="l", input="fo", shape=(48,), out_features=5),
        ),
        output=Output(wire="l", shape=(5,)),
    )


def small_run(rows: int) -> tuple[Run, np.ndarray]:
    plan = small_network()
    rng = np.arange(1, 4000, dtype=np.int64) * 2654435761 % 4294967291
    weights, at = {}, 0
    for name, shape in plan.weights():
        size = int(np.prod(shape))
        weights[name] = (rng[at : at + size] % 64 - 32).astype(np.int32).reshape(shape)
        at += size
    x = (rng[: rows * 36] % 256 - 128).astype(np.int32).reshape(rows, 36)
    return Run(plan, weights), x


def test_a_wrong_dither_is_noticed() -> None:
    run, x = small_run(8)
    got = run.outputs(x)
    dithers = run.dithers
    right, wrong = (
        reference.run(run.plan, x, run.weights, lambda name, _: (dithers[name] + by) & 63)  # noqa: B023
        for by in (0, 32)
    )
    assert np.array_equal(got, right) and not np.array_equal(got, wrong)


def test_slices_and_cut_and_stacked_rows_compute_the_same() -> None:
    run, x = small_run(11)
    plan = run.plan
    (share_0, prepared_0), (share_1, prepared_1) = run.ready(x)

    def outputs(first: int, end: int, step: int) -> np.ndarray:
        sessions = []
        for party, (share, prepared) in enumerate(((share_0, prepared_0), (share_1, prepared_1))):
            parts = [graph.cut(prepared, at, min(at + step, end)) for at in range(first, end, step)]
            rows = graph.stack(parts)
            sessions.append(graph.evaluate(plan, party, share[first:end], dict(rows), run.models[party]))
        a, b = lockstep(*sessions)
        return a + b

    whole = outputs(0, 11, 11)
    assert np.array_equal(whole[5:9], outputs(5, 9, 3))
    sliced = [
        graph.evaluate_slices(plan, party, share, prepared, run.models[party])
        for party, (share, prepared) in enumerate(((share_0, prepared_0), (share_1, prepared_1)))
    ]
    parts = [lockstep(a, b) for a, b in zip(*sliced, strict=True)]
    assert np.array_equal(whole, np.concatenate([a + b for a, b in parts]))


def test_layers_side_by_side_share_their_rounds() -> None:
    shape = (4,)
    branches = [
        ReLU(name=f"r{i}", input="input", shape=shape, shift=0, opened_bits=16, range_bits=12) for i in range(3)
    ]
    layers = (*branches, Combine(name="s", inputs=("r0", "r1", "r2"), shapes=(shape,) * 3, factors=(1, 1, 1)))
    plan = Plan(
        ring_bits=32,
        input=Input(shape=shape, frac_bits=4, low=-8, high=8),
        layers=layers,
        output=Output(wire="s", shape=shape),
    )
    run = checked(Case(plan, {}, np.array([[5, -5, 100, -1]], dtype=np.int32)))
    assert plan.rounds == run.rounds == 3
    assert sum(cost.rounds for cost in plan.costs(1).values()) == 9


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_products_are_torchs(data: st.DataObject) -> None:
    n, g = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = data.draw(pair), data.draw(pair), data.draw(pair)
    layer = Conv(
        name="c",
        input="x",
        shape=(2 * g, 9, 8),
        out_channels=3 * g,
        kernel=kernel,
        stride=stride,
        padding=(data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))),
        dilation=dilation,
        groups=g,
        transposed=data.draw(st.booleans()),
    )
    numbers = torch.arange(n * 2 * g * 72).remainder(17).sub(8)
    x = numbers.reshape(n, 2 * g, 9, 8)
    shape = layer.weights()["weight"]
    w = torch.arange(int(np.prod(shape))).remainder(11).sub(5).reshape(shape)
    convolve = torch.nn.functional.conv_transpose2d if layer.transposed else torch.nn.functional.conv2d
    options = {"stride": stride, "padding": layer.padding, "dilation": dilation, "groups": g}
    expected = convolve(x.double(), w.double(), **options)
    for bits, dtype in ((32, np.int32), (64, np.int64)):
        got = times(Ring(bits), layer, x.numpy().astype(dtype), w.numpy().astype(dtype))
        assert got.dtype == dtype and np.array_equal(got, expected.numpy())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_max_pools_are_torchs(data: st.DataObject) -> None:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride = data.draw(pair), data.draw(pair)
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    ceil = data.draw(st.booleans())
    x = torch.arange(2 * 2 * 63).mul(37).remainder(101).sub(50).reshape(2, 2, 7, 9)
    expected = torch.nn.functional.max_pool2d(x.float(), kernel, stride, padding, 1, ceil)
    layer = MaxPool(
        name="p",
        input="x",
        shape=(2, 7, 9),
        kernel=kernel,
        stride=stride,
        padding=padding,
        output_size=tuple(expected.shape[2:]),
        shift=0,
        opened_bits=16,
        range_bits=8,
    )
    got = reference._max_pool(layer, x.numpy().astype(np.int16))
    assert np.array_equal(got, expected.numpy())


def test_local_layers_are_torchs() -> None:
    x = torch.arange(2 * 3 * 35).mul(7).remainder(31).reshape(2, 3, 5, 7)
    values, shape = x.numpy().astype(np.int32), (3, 5, 7)
    pool = SumPool(name="p", input="x", shape=shape, kernel=(2, 3), stride=(2, 1), padding=(1, 1))
    averaged = torch.nn.functional.avg_pool2d(x.float(), (2, 3), (2, 1), (1, 1), divisor_override=1)
    assert np.array_equal(pool.apply(values), averaged.numpy())
    up = Upsample(name="u", input="x", shape=shape, factors=(2, 3)).apply(values)
    assert np.array_equal(up, torch.nn.functional.interpolate(x.float(), scale_factor=(2, 3)).numpy())
    pad = Pad(name="d", input="x", shape=shape, before=(0, 1, 2), after=(0, 3, 4)).apply(values)
    assert np.array_equal(pad, torch.nn.functional.pad(x, (2, 4, 1, 3)).numpy())
    turned = Permute(name="t", input="x", shape=shape, order=(2, 0, 1)).apply(values)
    assert np.array_equal(turned, x.permute(0, 3, 1, 2).numpy())
    assert np.array_equal(Sum(name="s", input="x", shape=shape, axes=(1, 2)).apply(values), x.sum(dim=(2, 3)).numpy())


def refused(*layers: object, output: Output | None = None) -> str:
    with pytest.raises(ValidationError) as error:
        Plan(
            ring_bits=32,
            input=Input(shape=(4,), frac_bits=4, low=-8, high=8),
            layers=layers,  # type: ignore[arg-type]
            output=output or Output(wire="last", shape=(4,)),
        )
    return str(error.value)


def test_plans_that_do_not_fit_are_refused_by_the_layers_name() -> None:
    opened = Open(name="o", input="input", shape=(4,))
    square = Mul(name="last", left="o", right="o", left_shape=(4,), right_shape=(4,))
    other_shape = Truncate(name="last", input="input", shape=(5,), shift=0, opened_bits=16)
    too_many_bits = Truncate(name="last", input="input", shape=(4,), shift=20, opened_bits=16)
    not_opened = Linear(name="last", input="input", shape=(4,), out_features=4)
    not_a_share = Sum(name="last", input="o", shape=(4,), axes=())
    assert "'last' reads wires of other shapes" in refused(other_shape)
    assert "'last' opens more bits" in refused(too_many_bits)
    assert "reads 'nobody'" in refused(Open(name="last", input="nobody", shape=(4,)))
    assert "two wires are called 'o'" in refused(opened, opened, square)
    assert "'last' reads wires that are opened" in refused(not_opened)
    assert "reads shares of one ring" in refused(opened, not_a_share)
    top = TopK(name="last", input="input", shape=(4,), shift=0, opened_bits=16, range_bits=12)
    assert "cannot be given out as logits" in refused(top)
    assert "cannot be given out as labels" in refused(
        opened, square, output=Output(wire="last", shape=(4,), kind="labels")
    )
    assert "another size" in refused(opened, square, output=Output(wire="last", shape=(3,)))
    with pytest.raises(ValidationError, match="range_bits is below"):
        ReLU(name="r", input="x", shape=(1,), shift=0, opened_bits=8, range_bits=8)
