"""Tags: who holds the same gets the same, who holds anything else does not."""

from collections.abc import Callable

import numpy as np
import pytest

from moiety_shared.crypto.channel import Channel
from moiety_shared.crypto.integrity import TAG_BYTES, Tag, Transcript
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import to_wire
from moiety_shared.ring import Array
from tests import plans
from tests.protocols.running import Run, bundle, prepare

CHECK = bytes(range(32))
OPENED = [np.arange(7, dtype=np.int32), np.ones((2, 3), np.uint8), np.arange(12, dtype=np.int16).reshape(3, 4)]


def transcript(*opened: np.ndarray, check: bytes = CHECK, context: bytes = b"start") -> Transcript:
    made = Transcript(check, context)
    for value in opened:
        made.add(value)
    return made


def test_both_parties_have_the_same_tag_of_the_same_openings() -> None:
    alice, bob = transcript(*OPENED), transcript(*OPENED)
    assert alice.agrees(1, bob.of(1, b"result"), b"result") and bob.agrees(0, alice.of(0))
    assert len(bob.of(1)) == TAG_BYTES
    strided = [np.repeat(value, 2, axis=-1)[..., ::2] for value in OPENED]
    assert alice.agrees(1, transcript(*strided).of(1)), "whatever lies in memory between the values"


def test_anything_else_has_another() -> None:
    alice = transcript(*OPENED)
    flipped = OPENED[2] ^ np.eye(3, 4, dtype=np.int16) * (1 << 9)
    for other in (
        transcript(*OPENED[:2]),
        transcript(*OPENED[:2], flipped),
        transcript(*reversed(OPENED)),
        transcript(*OPENED, context=b"other start"),
        transcript(*OPENED, check=new_seed()),
    ):
        assert not alice.agrees(1, other.of(1))
    bob = transcript(*OPENED)
    assert not alice.agrees(1, bob.of(0)), "alice's own word is not bob's"
    assert not alice.agrees(1, bob.of(1, b"result"), b"another") and not alice.agrees(1, bob.of(1)[:-1])


def test_nothing_is_added_after_the_tag() -> None:
    made = transcript(*OPENED)
    made.of(0)
    with pytest.raises(Exception, match="finalized"):
        made.add(OPENED[0])


def test_pieces_may_be_cut_anywhere_but_contexts_may_not() -> None:
    one, other = Tag(CHECK, "x", b"ab", b"c"), Tag(CHECK, "x", b"ab", b"c")
    one.add(b"abcdef")
    other.add(b"ab")
    other.add(bytearray(b"cdef"))
    assert one.of() == other.of()
    for what, context in (("x", (b"a", b"bc")), ("y", (b"ab", b"c"))):
        another = Tag(CHECK, what, *context)
        another.add(b"abcdef")
        assert another.of() != one.of()


def recorded_opening(x: Array, sealed: bool) -> tuple[Callable[[bytes, bytes], Array], list[bytes]]:
    """What the recording of a run's first round decodes to under two seeds, and the two seeds of its dealer. Both
    parties' shares are recorded as they travel inside of TLS: `sealed`, or as they are."""
    plan = plans.logits()
    run = Run(plan, plans.weights())
    seeds = [new_seed() for _ in range(2)]
    raw = bundle(plan, len(x), run.masks, seeds)
    one = run.random(x.shape)
    sessions = [
        graph.evaluate(plan, p, share, prepare(plan, p, len(x), seeds[p], raw, run.models[p]), run.models[p])
        for p, share in enumerate((one, run.ring.wrap(x - one)))
    ]
    (ours,), (theirs,) = (next(session).openings for session in sessions)
    shares = [to_wire(opening).data for opening in (ours, theirs)]
    if sealed:
        ends = [Channel(new_seed(), p, b"hello", b"hello") for p in (0, 1)]
        shares = [memoryview(end.seal(share))[:-16] for end, share in zip(ends, shares, strict=True)]
    both = [np.frombuffer(share, run.ring.dtype).reshape(x.shape) for share in shares]
    recorded = run.ring.wrap(both[0] + both[1])

    def decoded(alice: bytes, bob: bytes) -> Array:
        masks = [Stream(seed).at("o").words("input", x.shape, run.ring.dtype) for seed in (alice, bob)]
        return run.ring.wrap(recorded - masks[0] - masks[1])

    return decoded, seeds


def test_why_the_peer_link_must_be_encrypted() -> None:
    """Whoever records what alice and bob open, and learns the dealer's seeds, reads the input."""
    x = plans.random_inputs(3)
    decoded, (alice, bob) = recorded_opening(x, sealed=False)
    assert np.array_equal(decoded(alice, bob), x), "the wiretap and the dealer together"
    assert not (decoded(alice, new_seed()) == x).any(), "the wiretap and alice alone"


def test_what_is_recorded_inside_of_tls_tells_the_dealer_nothing() -> None:
    x = plans.random_inputs(3)
    decoded, (alice, bob) = recorded_opening(x, sealed=True)
    assert not (decoded(alice, bob) == x).any(), "the wiretap and the dealer together, after TLS was broken"
