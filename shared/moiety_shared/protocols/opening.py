"""Openings: the only messages the parties exchange while they compute.

`evaluate` yields an Opening and receives the opened array. Whoever drives it moves the bytes: a WebSocket lane
between two hosts, or `lockstep` below inside one process. Both parties' bytes are sent before either is needed.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from moiety_shared.ring import Array, Ring


class Kind(Enum):
    """How shares combine and travel."""

    RING = "ring"  # additive, one machine word each
    WORDS = "words"  # XOR, one byte each
    BITS = "bits"  # XOR, uint8 arrays of 0 and 1, eight to a byte on the wire


@dataclass(frozen=True, slots=True)
class Opening:
    """A share to open. `work` is the number of multiply-adds that follow once it is open: a driver that must
    not block can move a large one off its event loop."""

    share: Array
    kind: Kind
    work: int = 0


Evaluation = Generator[Opening, Array, Array]


def to_wire(opening: Opening) -> npt.NDArray[np.uint8]:
    """The bytes that go to the peer, little-endian; a view where the share is contiguous."""
    if opening.kind is Kind.BITS:
        return np.packbits(opening.share.reshape(-1), bitorder="little")
    return np.ascontiguousarray(opening.share).reshape(-1).view(np.uint8)


def combine(ring: Ring, opening: Opening, peer: bytes | memoryview) -> Array:
    """The opened array, from one's own share and the peer's bytes.

    Raises ValueError when the peer sent another number of bytes than the share needs.
    """
    share = opening.share
    if len(peer) != wire_bytes(opening):
        raise ValueError(f"an opening of {wire_bytes(opening)} bytes arrived with {len(peer)}")
    theirs = np.frombuffer(peer, dtype=np.uint8)
    if opening.kind is Kind.BITS:
        return share ^ np.unpackbits(theirs, count=share.size, bitorder="little").reshape(share.shape)
    other = theirs.view(share.dtype).reshape(share.shape)
    return share ^ other if opening.kind is Kind.WORDS else ring.wrap(share + other)


def wire_bytes(opening: Opening) -> int:
    """Length of `to_wire(opening)`."""
    return (opening.share.size + 7) // 8 if opening.kind is Kind.BITS else opening.share.nbytes


def lockstep(
    ring: Ring,
    alice: Evaluation,
    bob: Evaluation,
    watch: Callable[[Opening, Array], None] | None = None,
) -> tuple[Array, Array]:
    """Drive both parties in one process; `watch` sees each of alice's openings with the opened value.

    Returns the two output shares. Raises RuntimeError when the parties fall out of step.
    """
    mine, theirs = next(alice), next(bob)
    while True:
        opened = combine(ring, mine, to_wire(theirs).tobytes())
        again = combine(ring, theirs, to_wire(mine).tobytes())
        if watch is not None:
            watch(mine, opened)
        done: list[Array] = []
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
