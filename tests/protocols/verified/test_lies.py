"""Whole runs: honest ones are accepted and right to the last bit, and one lie anywhere is caught."""

from typing import Any

import numpy as np
import pytest

from moiety_server import sources
from moiety_server.compiler.compilation import encode_rows
from moiety_server.zoo import samples
from moiety_server.zoo.network import normalise
from moiety_shared.plan.layers import Linear, Open
from moiety_shared.plan.local import Combine
from moiety_shared.plan.lookups import ReLU
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.verified import graph
from moiety_shared.protocols.verified.word import WIDE_BYTES
from tests.protocols.running import integers, plan_of
from tests.protocols.verified import lies
from tests.protocols.verified.lies import MESSAGES, STORED, in_message, in_storage
from tests.protocols.verified.running import Upload, accepted, drive


def test_the_shipped_network_is_bit_exact() -> None:
    """784-500-10: equal to the plain evaluator under the same dither, in 10 rounds, at the stated cost."""
    compiled = sources.load("mnist").compile()
    pictures, labels = samples.images()
    x = encode_rows(compiled.plan, normalise(pictures[:16], "mnist").reshape(16, -1))
    up = Upload(compiled.plan, compiled.weights)
    bundle = up.deal(len(x))
    outcome = drive(up.sessions(bundle, x))
    y = accepted(up, bundle, x, outcome)
    assert y is not None and np.array_equal(y, up.expected(bundle, x))
    assert (y.argmax(axis=1) == labels[:16].numpy()).mean() > 0.9
    words = WIDE_BYTES * (500 + 500 + 10)
    values = 4 * 784 + words + 500
    check = 32 + 16 + 16 + 8 * 107 + 32 + 32  # promises, nonce, e, proof, verdict
    assert outcome.rounds == 10
    assert outcome.sent == [16 * values + 16 * 500 // 8 + check] * 2
    assert values + 500 // 8 + 1 + check <= 14_000
    dealt = sum(array.nbytes for part in bundle.sent.values() for array in part.values())
    assert dealt <= 16 * 65_000 - 16 * 64  # with the dealer's signatures of rows


@pytest.fixture(scope="module")
def up() -> Upload:
    return lies.upload()


def test_honest_runs_are_accepted(up: Upload) -> None:
    for _ in range(20):
        x = integers((lies.ROWS, 6))
        bundle = up.deal(lies.ROWS)
        y = accepted(up, bundle, x, drive(up.sessions(bundle, x)))
        assert y is not None and np.array_equal(y, up.expected(bundle, x))


@pytest.mark.parametrize("liar", [0, 1], ids=["alice", "bob"])
@pytest.mark.parametrize("kind", MESSAGES)
def test_a_lie_in_a_message_is_caught(up: Upload, kind: str, liar: int) -> None:
    x, bundle = integers((lies.ROWS, 6)), up.deal(lies.ROWS)
    for _ in range(8):
        caught = in_message(up, bundle, x, kind, liar)
        assert caught.client if kind == "x^" else caught.party


@pytest.mark.parametrize("liar", [0, 1], ids=["alice", "bob"])
@pytest.mark.parametrize("kind", STORED)
def test_a_lie_in_storage_is_caught(up: Upload, kind: str, liar: int) -> None:
    x, bundle = integers((lies.ROWS, 6)), up.deal(lies.ROWS)
    for _ in range(3):
        assert in_storage(up, bundle, x, kind, liar).party
    assert accepted(up, bundle, x, drive(up.sessions(bundle, x))) is not None  # as before


@pytest.mark.long
@pytest.mark.parametrize("liar", [0, 1], ids=["alice", "bob"])
def test_ten_thousand_lies_are_caught(liar: int) -> None:
    """`make test-verified`: 5,000 of either party, each kind as often, under many keys."""
    kinds, runs = [*MESSAGES, *STORED], 0
    while runs < 5000:
        up, x = lies.upload(), integers((lies.ROWS, 6))
        bundle = up.deal(lies.ROWS)
        for kind in kinds:
            run = in_message if kind in MESSAGES else in_storage
            assert run(up, bundle, x, kind, liar), kind
            runs += 1
        assert accepted(up, bundle, x, drive(up.sessions(bundle, x))) is not None


@pytest.mark.parametrize("liar", [0, 1], ids=["alice", "bob"])
def test_another_input_is_noticed_by_the_client_alone(up: Upload, liar: int) -> None:
    """A party that adds to its share of x follows the protocol from there on."""
    x, bundle = integers((lies.ROWS, 6)), up.deal(lies.ROWS)
    outcome = drive(up.sessions(bundle, x + np.eye(lies.ROWS, 6, dtype=np.int32)))
    assert None not in outcome.answers
    assert accepted(up, bundle, x, outcome) is None


def relu(name: str, wire: str, size: int, **more: Any) -> ReLU:
    return ReLU(
        **{
            "name": name,
            "input": wire,
            "shape": (size,),
            "shift": 3,
            "opened_bits": 16,
            "range_bits": 13,
            **more,
        }
    )


def network(*layers: Any, inputs: int = 5) -> Plan:
    """Layers behind an opened input, with openings where products read what a ReLU made."""
    return plan_of(Open(name="o", input="input", shape=(inputs,)), *layers, shape=(inputs,))


OTHERS = {
    "a clip, which has two hinges": network(
        Linear(name="a", input="o", shape=(5,), out_features=4),
        relu("r", "a", 4, hinges=(0, 20)),
        Open(name="p", input="r", shape=(4,)),
        Linear(name="b", input="p", shape=(4,), out_features=2),
    ),
    "groups of two sizes": network(
        Linear(name="a", input="o", shape=(5,), out_features=130),
        relu("r", "a", 130, digit_bits=5),
        Open(name="p", input="r", shape=(130,)),
        Linear(name="b", input="p", shape=(130,), out_features=7),
        relu("s", "b", 7, range_bits=10),
        Open(name="q", input="s", shape=(7,)),
        Linear(name="c", input="q", shape=(7,), out_features=3),
    ),
    "no look-up": network(Linear(name="a", input="o", shape=(5,), out_features=3)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_plans_are_bit_exact_and_checked(name: str) -> None:
    plan = OTHERS[name]
    other = Upload(plan, {wire: integers(shape, 5) for wire, shape in plan.weights()})
    x, bundle = integers((3, 5)), other.deal(3)
    y = accepted(other, bundle, x, drive(other.sessions(bundle, x)))
    assert y is not None and np.array_equal(y, other.expected(bundle, x))
    wide = 1  # the round of the first product
    outcome = drive(
        other.sessions(bundle, x),
        1,
        lambda at, place, raw: flipped(raw) if at == wide else raw,
    )
    assert outcome.answers[0] is None


def flipped(raw: bytes) -> bytes:
    return bytes([raw[0] ^ 1]) + raw[1:]


REFUSED = {
    "an input that is opened twice": network(
        Open(name="p", input="input", shape=(5,)), Linear(name="a", input="p", shape=(5,), out_features=3)
    ),
    "relu": plan_of(relu("r", "input", 5, shift=0), shape=(5,)),
    "sum": network(
        Linear(name="a", input="o", shape=(5,), out_features=3),
        Combine(name="sum", inputs=("a", "a"), shapes=((3,),) * 2, factors=(1, 1)),
    ),
    "outputs": network(Linear(name="a", input="o", shape=(5,), out_features=3), relu("r", "a", 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_verified_yet_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="be verified yet"):
        graph.check_supported(REFUSED[name])
