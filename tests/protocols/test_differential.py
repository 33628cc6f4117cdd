"""Whole plans, bit for bit, against the plain fixed-point evaluator that is given the same dithers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from moiety_shared import reference, ring
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.approximate import Approximate
from moiety_shared.plan.layers import Conv, Linear, Mul, Open, Reshare
from moiety_shared.plan.local import Combine, Reshape
from moiety_shared.plan.lookups import MaxPool, ReLU, Table, Truncate
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import Kind, wire_bytes
from moiety_shared.protocols.preparation import Preparation, cut, stack
from tests.protocols.growing import KINDS, Case, plans
from tests.protocols.running import Run, bundle, integers, plan_of, prepare, run_of

LENIENT = [HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large]
examples = settings(max_examples=40, deadline=None, suppress_health_check=LENIENT)
few_examples = settings(max_examples=15, deadline=None, suppress_health_check=LENIENT)


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
        sums = {
            layer.name for layer in case.plan.layers if isinstance(layer, Approximate)
        }  # as large as they state, always
        truncated = {layer.input for layer in case.plan.layers if isinstance(layer, Truncate)}
        assume(truncated <= sums)
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
    seeds = [new_seed() for _ in range(2)]
    raw = bundle(NETWORK, rows, run.masks, seeds)
    x = integers((rows, NETWORK.input.size))
    x0 = run.random(x.shape)
    outs = []
    for first, end in ((0, rows), (5, 9)):
        sessions = []
        for p, share in enumerate((x0, x - x0)):
            whole = prepare(NETWORK, p, rows, seeds[p], raw, run.models[p])
            parts = [cut(whole, at, min(at + 3, end)) for at in range(first, end, 3)]
            sessions.append(graph.evaluate(NETWORK, p, share[first:end], stack(parts), run.models[p]))
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
    run, rows, seeds = Run(case.plan, case.weights), len(case.x), [new_seed() for _ in range(2)]
    raw: Any = {name: bytes(part) for name, part in bundle(case.plan, rows, run.masks, seeds).items()}
    x0 = run.random(case.x.shape)
    sessions = []
    for p, share in enumerate((x0, case.x - x0)):
        share.flags.writeable = False
        ready = prepare(case.plan, p, rows, seeds[p], raw, run.models[p])
        sessions.append(graph.evaluate(case.plan, p, share, ready, run.models[p]))
    assert np.array_equal(run.drive(*sessions), run.expected(case.x))


def test_a_bundle_of_another_length_is_refused() -> None:
    run, seeds = run_of(NETWORK), [new_seed() for _ in range(2)]
    raw = bundle(NETWORK, 2, run.masks, seeds)
    raw["relu"].pop()
    with pytest.raises(ValueError, match="length"):
        prepare_unchecked(run, raw, seeds[1])


def prepare_unchecked(run: Run, raw: dict[str, bytearray], seed: bytes) -> None:
    preparation = Preparation(run.plan, 1, 2, Stream(seed), run.models[1])
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


def test_a_pool_of_one_row_that_strides() -> None:
    opened: dict[str, Any] = {"shift": 0, "opened_bits": 16, "range_bits": 8}
    pool = MaxPool(name="m", input="input", shape=(1, 4, 4), kernel=(1, 2), stride=(2, 2), output_size=(2, 2), **opened)
    end = ReLU(name="r", input="m", shape=(1, 2, 2), **opened)
    Run(plan_of(pool, end, shape=(1, 4, 4)), {}).assert_bit_exact(integers((2, 16), 6))


@pytest.mark.parametrize("block", [1, 7, 1 << 15])
def test_columns_in_blocks_are_bit_exact(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """A block of one column, of a few, and one for all; hinges have their columns one after another."""
    monkeypatch.setattr(ring, "_BLOCK", block)
    shape = (11,)
    plan = plan_of(
        Reshare(name="fresh", input="input", shape=shape),
        ReLU(name="relu", input="fresh", shape=shape, shift=1, opened_bits=16, range_bits=9, hinges=(-20, 0, 30)),
        Truncate(name="truncate", input="fresh", shape=shape, shift=2, opened_bits=16),
        Combine(name="sum", inputs=("relu", "truncate"), shapes=(shape,) * 2, factors=(1, 1000)),
        shape=shape,
    )
    run_of(plan).assert_bit_exact(integers((3, 11)))
