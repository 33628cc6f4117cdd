"""Whole runs: honest ones are accepted and right to the last bit, and one lie anywhere is caught."""

import numpy as np
import pytest

from moiety_server import sources
from moiety_server.compiler.compilation import encode_rows
from moiety_server.zoo import samples
from moiety_server.zoo.network import normalise
from moiety_shared.protocols.verified.answers import VOUCHER_BYTES
from moiety_shared.protocols.verified.word import WIDE_BYTES
from tests.protocols.running import integers
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
    assert dealt <= 16 * (65_000 - VOUCHER_BYTES)


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
