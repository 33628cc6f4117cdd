"""The words of some rows that the dealer and one party expand from that party's seed of a lease.

An audit needs them for the rows of one request, and must not get those of any other. The provider hands over the words
themselves, never a seed. It deals the rows again and notes what it draws; who gets the words deals them again as well,
so both meet the words in the same order, and they travel without names.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from moiety_shared.arrays import Array
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols import graph
from moiety_shared.protocols.dealing import Addressed


class NotingSource:
    """A source that notes the bytes of all that is drawn from it."""

    def __init__(self, source: Addressed, notes: list[bytes]) -> None:
        self._source, self._notes = source, notes

    def at(self, *address: str | int) -> "NotingSource":
        return NotingSource(self._source.at(*address), self._notes)

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        drawn = self._source.words(name, shape, dtype)
        self._notes.append(drawn.tobytes())
        return drawn


class GivenSource:
    """A source of words that were handed over. What is drawn first must come in the order in which it was noted; after
    that each name may be drawn again."""

    def __init__(self, raw: bytes) -> None:
        self._rest, self._known = [memoryview(raw)], dict[tuple[str | int, ...], memoryview]()
        self._address: tuple[str | int, ...] = ()

    @property
    def is_used_up(self) -> bool:
        """Whether all that was handed over was drawn."""
        return not self._rest[0]

    def at(self, *address: str | int) -> "GivenSource":
        below = GivenSource(b"")
        below._rest, below._known, below._address = self._rest, self._known, (*self._address, *address)
        return below

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return the words of that name. Raises ValueError when there are too few."""
        place, size = (*self._address, name), int(np.prod(shape)) * np.dtype(dtype).itemsize
        if place not in self._known:
            self._known[place], self._rest[0] = self._rest[0][:size], self._rest[0][size:]
        return np.frombuffer(self._known[place], dtype).reshape(shape).copy()


def words_of(
    plan: Plan, rows: int, masks: Mapping[str, Array], sources: tuple[Addressed, Addressed], party: int
) -> bytes:
    """Return the words that are drawn from party p's source when these rows are dealt. `masks` are the weights' masks
    s, and the sources yield both parties' words of exactly these rows."""
    notes: tuple[list[bytes], list[bytes]] = [], []
    alice, bob = (NotingSource(source, kept) for source, kept in zip(sources, notes, strict=True))
    for _ in graph.deal(plan, rows, masks, alice, bob):
        pass
    return b"".join(notes[party])
