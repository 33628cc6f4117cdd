"""The words of some rows that the dealer and one party expand from that party's seed of a lease.

An audit needs them for the rows of one request, and must not get those of any other. The provider hands over the words
themselves, never a seed. It deals the rows again and notes what it draws; who gets the words deals them again as well,
so both meet the words in the same order, and they travel without names.

Of a verified run the words that only its check uses stay where they are: tags, pads, and all of the verdict. No opening
depends on them, and whoever has both parties' and what bob was sent could compute the upload's key.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import numpy.typing as npt

from moiety_shared.arrays import Array
from moiety_shared.crypto.prg import SEED_BYTES, Stream
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols import graph
from moiety_shared.protocols.dealing import Addressed
from moiety_shared.protocols.verified import graph as verified

_Address = tuple[str | int, ...]
_OF_CHECKS = frozenset(("tau", "pads"))
_TAG = " tag"


def is_of_check(address: _Address, name: str) -> bool:
    """Whether the words of that name are for the check of a verified run alone."""
    return verified.VERDICT in address or name in _OF_CHECKS or name.split("/")[0].endswith(_TAG)


class NotingSource:
    """A source that notes the bytes of all that is drawn from it, of each name once, but for what is of a check."""

    def __init__(self, source: Addressed, notes: dict[_Address, bytes], address: _Address = ()) -> None:
        self._source, self._notes, self._address = source, notes, address

    def at(self, *address: str | int) -> "NotingSource":
        return NotingSource(self._source.at(*address), self._notes, (*self._address, *address))

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        drawn = self._source.words(name, shape, dtype)
        if not is_of_check(self._address, name):
            self._notes.setdefault((*self._address, name), drawn.tobytes())
        return drawn


class GivenSource:
    """A source of words that were handed over. What is drawn first must come in the order in which it was noted; after
    that each name may be drawn again. What is of a check is 0."""

    def __init__(self, raw: bytes) -> None:
        self._rest, self._known = [memoryview(raw)], dict[_Address, memoryview]()
        self._address: _Address = ()

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
        if is_of_check(self._address, name):
            return np.zeros(shape, dtype)
        place, size = (*self._address, name), int(np.prod(shape)) * np.dtype(dtype).itemsize
        if place not in self._known:
            self._known[place], self._rest[0] = self._rest[0][:size], self._rest[0][size:]
        return np.frombuffer(self._known[place], dtype).reshape(shape).copy()


Deal = Callable[[Addressed, Addressed], Iterable[object]]
"""Deals some rows, from sources that yield both parties' words of exactly these rows."""


def words_of(deal: Deal, sources: tuple[Addressed, Addressed], party: int) -> bytes:
    """Return the words that are drawn from party p's source when rows are dealt."""
    notes: tuple[dict[_Address, bytes], dict[_Address, bytes]] = {}, {}
    for _ in deal(*(NotingSource(source, kept) for source, kept in zip(sources, notes, strict=True))):
        pass
    return b"".join(notes[party].values())


def row_bytes(plan: Plan) -> int:
    """The most bytes of words that a party has of one row. Deals one, from seeds that everybody knows."""
    alice, bob = (Stream(bytes(SEED_BYTES), "rehearsal", party) for party in (0, 1))
    deal = _dealing(plan, alice, bob)
    return max(len(words_of(deal, (alice.at("row"), bob.at("row")), party)) for party in (0, 1))


def _dealing(plan: Plan, alice: Stream, bob: Stream) -> Deal:
    """What deals one row, with keys and masks of weights from these streams."""
    if not plan.verified:
        return partial(graph.deal, plan, 1, graph.weight_masks(plan, alice, bob))
    keys = verified.draw_key(plan, 0, alice), verified.draw_key(plan, 1, bob)
    masks, _ = verified.deal_upload(plan, keys, (alice, bob), (alice, bob))

    def deal(one: Addressed, other: Addressed) -> Iterable[object]:
        return verified.deal(plan, 1, keys, masks, (one, other))

    return deal
