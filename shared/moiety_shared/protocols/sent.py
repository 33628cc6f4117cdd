"""What each party sent in a run, as digests, so that each can sign what it sent and check what the other signed.

A run computes in slices, and a request need not end where a slice ends. The rows of one request in one slice are a
*piece*. Each round of a piece has one digest for each party: SHA-256 of the bytes that the party would send if the
piece ran alone. So whoever knows one request's rows can compute its digests again, and needs nothing of another's.
What is no row's is in no digest: the promise of a verified run's coins.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from moiety_shared.protocols.opening import Kind, Opening, Result, Round, Session, to_wire, wire_bytes
from moiety_shared.ring import Array


class SentPiece(NamedTuple):
    """What one party sent for `rows` rows of one request: the digest of each round."""

    rows: int
    digests: tuple[bytes, ...]


class _Place(NamedTuple):
    """A piece in its slice: whose request it is, and its rows there."""

    request: int
    start: int
    stop: int


class SentDigests:
    """Collects the digests of a run at one party: of what it sends, and of what the peer sends."""

    def __init__(self, slices: Sequence[tuple[int, int]], rows: Sequence[int]) -> None:
        """`slices` are the (first, end) rows of the run's slices, and `rows` are how many each request has."""
        ends = list(accumulate(rows))
        self._rows = [end - first for first, end in slices]
        self._places = [
            [
                _Place(number, max(end - count, a) - a, min(end, b) - a)
                for number, (count, end) in enumerate(zip(rows, ends, strict=True))
                if max(end - count, a) < min(end, b)
            ]
            for a, b in slices
        ]
        self._digests = [[(list[bytes](), list[bytes]()) for _ in places] for places in self._places]
        self.rounds = 0
        """How many rounds this party has sent."""

    def sent(self, rounds: Sequence[Round]) -> None:
        """Add what this party sent in the next round, slice by slice."""
        self.rounds += 1
        for number, round_ in enumerate(rounds):
            raw = memoryview(b"".join(to_wire(opening).data for opening in round_.openings))
            self._add(number, round_, raw, 0)

    def received(self, rounds: Sequence[Round], peer: Sequence[memoryview]) -> None:
        """Add what the peer sent in a round: the bytes of each slice, beside this party's own round."""
        for number, (round_, raw) in enumerate(zip(rounds, peer, strict=True)):
            self._add(number, round_, raw, 1)

    def _add(self, number: int, round_: Round, raw: memoryview, whose: int) -> None:
        digests = _digests(round_.openings, raw, self._rows[number], self._places[number])
        for both, digest in zip(self._digests[number], digests, strict=True):
            both[whose].append(digest)

    def of(self, request: int, *, peer: bool) -> tuple[SentPiece, ...]:
        """The pieces of one request, in the order of their rows: this party's own, or the peer's."""
        return tuple(
            SentPiece(place.stop - place.start, tuple(digests[peer]))
            for places, both in zip(self._places, self._digests, strict=True)
            for place, digests in zip(places, both, strict=True)
            if place.request == request
        )


def noted(session: Session[Result], digests: list[bytes]) -> Session[Result]:
    """Run a session of one piece alone, and add the digest of each round that it sends."""
    opened: list[Array] | None = None
    while True:
        try:
            round_ = next(session) if opened is None else session.send(opened)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        digests.append(sha256(b"".join(to_wire(opening).data for opening in round_.openings)).digest())
        opened = yield round_


def _digests(openings: Sequence[Opening], raw: memoryview, rows: int, places: Sequence[_Place]) -> Iterator[bytes]:
    """The digest of each piece of a slice of `rows` rows, of which a party sent the bytes `raw` in one round."""
    kept, at = list[tuple[Opening, memoryview]](), 0
    for opening in openings:
        size = wire_bytes(opening)
        if opening.kind is not Kind.EACH:
            kept.append((opening, raw[at : at + size]))
        at += size
    if len(places) == 1:
        yield sha256(raw if len(kept) == len(openings) else b"".join(part for _, part in kept)).digest()
        return
    parts = [_rows_of(*each, rows) for each in kept]
    for number, place in enumerate(places):
        yield sha256(b"".join(part(number, place.start, place.stop) for part in parts)).digest()


_Rows = Callable[[int, int, int], memoryview | bytes]
"""What gives an opening's bytes of one request, as they would be if it had no others: from its number among those of
the slice, its first row and its end."""


def _rows_of(opening: Opening, raw: memoryview, rows: int) -> _Rows:
    if opening.kind is Kind.WIDE:
        return _words_of(opening, raw, rows)
    width = opening.share.size // rows
    if opening.kind is not Kind.BITS or width % 8 == 0:
        row = len(raw) // rows
        return lambda _, start, stop: raw[start * row : stop * row]
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=rows * width, bitorder="little")  # rows share bytes
    return lambda _, start, stop: np.packbits(bits[start * width : stop * width], bitorder="little").data


def _words_of(opening: Opening, raw: memoryview, rows: int) -> _Rows:
    """Of words the lower 64 bits travel first, and then what is above. A count has a row for each request."""
    own = opening.share.shape[1]
    width, above = opening.share.size // 2 // own, 4 * opening.share.size

    def of(number: int, start: int, stop: int) -> bytes:
        first, end = (start * width, stop * width) if own == rows else (number * width, (number + 1) * width)
        return b"".join((raw[8 * first : 8 * end], raw[above + first : above + end]))

    return of
