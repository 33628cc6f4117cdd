"""Openings: the only messages that the parties exchange while they compute.

To open a value, each party sends its share of it to the other, and both combine the two shares. The value is always
masked, so the parties reveal x^ = x + r to each other and never x.

A protocol's `evaluate` yields an Opening and receives the opened array. A whole plan yields the openings of one round
together. Its driver moves the bytes: a WebSocket lane between two hosts, or `lockstep` below inside one process. Each
party sends its bytes before it waits for the other's.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from moiety_shared.protocols.verified.word import WIDE_BYTES, Word
from moiety_shared.ring import Array, Ring

Result = TypeVar("Result")


class Kind(Enum):
    """How the shares of an opening are combined, and how they travel."""

    RING = "ring"  # additive, one machine word each
    WORDS = "words"  # XOR, one byte each
    BITS = "bits"  # XOR, uint8 arrays of 0 and 1, eight to a byte on the wire
    WIDE = "wide"  # additive, words of more than 64 bits, nine bytes each
    EACH = "each"  # not combined: what is opened is the peer's array itself


class Claim(Protocol):
    """What an opening promised, in a verified run: that the opened values are those of the protocol."""

    def settle(self, check: Any, mine: Array, opened: Array) -> None:
        """Add this promise to the check at the end of the run. `mine` is the share that this party sent."""


@dataclass(frozen=True, slots=True)
class Opening:
    """A share that a party sends to the other. `ring` is the ring of a RING share, or the words of a WIDE one."""

    share: Array
    kind: Kind
    ring: Ring | Word | None = None
    claim: Claim | None = None


@dataclass(frozen=True)
class Round:
    """Openings that travel together. `work` estimates how many operations follow once they are open, so that a driver
    that must not block can move a large round off its event loop."""

    openings: tuple[Opening, ...]
    work: int = 0
    wire_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire_bytes", sum(map(wire_bytes, self.openings)))

    def combined(self, peer: memoryview) -> list[Array]:
        """Combine one's own shares with the peer's bytes, which are those of all openings in order."""
        if len(self.openings) == 1:
            return [combine(self.openings[0], peer)]
        values, at = list[Array](), 0
        for opening in self.openings:
            end = at + wire_bytes(opening)
            values.append(combine(opening, peer[at:end]))
            at = end
        return values


Evaluation = Generator[Opening, Array, Array]
"""One protocol's run at one party."""

Session = Generator[Round, list[Array], Result]
"""One plan's run at one party."""


def to_wire(opening: Opening) -> npt.NDArray[np.uint8]:
    """The bytes for the peer, little-endian. They are a view where the share is contiguous."""
    if opening.kind is Kind.BITS:
        return np.packbits(opening.share.reshape(-1), bitorder="little")
    if isinstance(opening.ring, Word):
        return opening.ring.to_bytes(opening.share)
    return np.ascontiguousarray(opening.share).reshape(-1).view(np.uint8)


def combine(opening: Opening, peer: bytes | memoryview) -> Array:
    """Combine one's own share with the peer's bytes into the opened array.

    Raises ValueError when the peer sent another number of bytes than the share has.
    """
    share = opening.share
    if len(peer) != wire_bytes(opening):
        raise ValueError(f"an opening of {wire_bytes(opening)} bytes arrived with {len(peer)}")
    if opening.kind is Kind.BITS:
        theirs = np.frombuffer(peer, dtype=np.uint8)
        return share ^ np.unpackbits(theirs, count=share.size, bitorder="little").reshape(share.shape)
    if isinstance(opening.ring, Word):
        return opening.ring.wrap(share + opening.ring.from_bytes(peer, share.shape[1:]))
    other = np.frombuffer(peer, dtype=share.dtype).reshape(share.shape)
    if opening.kind is Kind.EACH:
        return other
    return share ^ other if opening.ring is None else opening.ring.wrap(share + other)


def wire_bytes(opening: Opening) -> int:
    """Length of `to_wire(opening)`."""
    if isinstance(opening.ring, Word):
        return opening.share.size // 2 * WIDE_BYTES
    return (opening.share.size + 7) // 8 if opening.kind is Kind.BITS else opening.share.nbytes


def alone(evaluation: Generator[Opening, Array, Result]) -> Session[Result]:
    """Run one protocol as a session of its own."""
    opening = next(evaluation)
    while True:
        (opened,) = yield Round((opening,))
        try:
            opening = evaluation.send(opened)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def lockstep(
    alice: Session[Result],
    bob: Session[Result],
    watch: Callable[[Opening, Array], None] | None = None,
) -> tuple[Result, Result]:
    """Drive both parties in one process. `watch` gets each of alice's openings with the opened value.

    Returns both outcomes. Raises RuntimeError when the parties fall out of step.
    """
    mine, theirs = next(alice), next(bob)
    while True:
        pairs: Sequence[tuple[Opening, Opening]] = list(zip(mine.openings, theirs.openings, strict=True))
        opened = [combine(a, to_wire(b).tobytes()) for a, b in pairs]
        again = [combine(b, to_wire(a).tobytes()) for a, b in pairs]
        if watch is not None:
            for opening, value in zip(mine.openings, opened, strict=True):
                watch(opening, value)
        done: list[Any] = []
        try:
            mine = alice.send(opened)
        except StopIteration as stop:
            done.append(stop.value)
        try:
            theirs = bob.send(again)
        except StopIteration as stop:
            done.append(stop.value)
        if len(done) == 2:
            return done[0], done[1]
        if done:
            raise RuntimeError("one party finished before the other")
