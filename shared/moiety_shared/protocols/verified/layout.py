"""What is dealt for a verified plan, array by array, and some rows of it: how bundles are cut up and joined.

The layout of a bundle is read off one that is dealt, of one row, from seeds that everybody knows. So it cannot differ
from what `graph.deal` yields. In every array of a bundle the first axis is the row.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moiety_shared.crypto.prg import SEED_BYTES, Stream
from moiety_shared.fixed_point import ring_dtype
from moiety_shared.plan.layers import Correction
from moiety_shared.plan.plan import Plan
from moiety_shared.plan.verified import Verified
from moiety_shared.protocols.opening import Round, Session, lockstep
from moiety_shared.protocols.preparation import PreparedRows
from moiety_shared.protocols.verified import graph
from moiety_shared.protocols.verified.answers import VOUCHER_BYTES, PartyAnswer
from moiety_shared.protocols.verified.claims import Nonces, Standing
from moiety_shared.ring import Array

RECORDS, NUMBERS = "/records", "/rows"
"""Beside the layers, in a bundle's arrays: the dealer's voucher for each row, and for its count if the plan counts; and
each row's number, and where it lies prepared, None as long as it is not."""

Parts = dict[str, tuple[Correction, ...]]


class Layout(NamedTuple):
    """The arrays that bob is sent, by layer: once for the weights, each of them whole; and for a row."""

    weights: Parts
    row: Parts

    @property
    def row_bytes(self) -> int:
        return sum(part.row_bytes for parts in self.row.values() for part in parts)


class _Rehearsal:
    """An upload and a bundle of one row, of zeros, from seeds that everybody knows: sizes alone are real."""

    def __init__(self, plan: Plan) -> None:
        graph.check_supported(plan)
        streams = [Stream(bytes(SEED_BYTES), "rehearsal", party) for party in (0, 1)]
        self.plan, self.streams = plan, (streams[0], streams[1])
        self.keys = graph.draw_key(plan, 0, self.streams[0]), graph.draw_key(plan, 1, self.streams[1])
        self.masks, self.weights = graph.deal_upload(plan, self.keys, self.streams, self.streams)
        self.sent = dict(graph.deal(plan, 1, self.keys, self.masks, self.streams))

    def layout(self) -> Layout:
        whole = {name: tuple(_described(part, 0) for part in sent.items()) for name, sent in self.weights.items()}
        row = {name: tuple(_described(part, 1) for part in sent.items()) for name, sent in self.sent.items()}
        vouchers = ("voucher", "count's voucher")[: 1 + (self.plan.output.kind == "count")]
        return Layout(whole, row | {RECORDS: tuple(Correction(one, (VOUCHER_BYTES,), "|u1") for one in vouchers)})

    def rounds(self) -> list[Round]:
        """What alice sends in a run of the row."""
        plan, rounds = self.plan, list[Round]()
        zeros = {name: np.zeros(shape, ring_dtype(plan.ring_bits)) for name, shape in plan.weights()}
        x = np.zeros((1, plan.input.shared_size), ring_dtype(plan.ring_bits))
        sessions = list[Session[list[PartyAnswer]]]()
        for key, stream in zip(self.keys, self.streams, strict=True):
            weights = graph.weights_at(plan, key, zeros, stream, stream, self.weights)
            ready = graph.prepare(plan, key, 1, weights, stream, self.sent)
            nonces = Nonces(bytes(16), bytes(16))
            sessions.append(graph.run(plan, key, b"", x, ready, weights, nonces, Standing(), [1]))
        lockstep(_noting(sessions[0], rounds), sessions[1])
        return rounds


def _described(part: tuple[str, Array], axes: int) -> Correction:
    """An array, and the shape that it has behind its first axes."""
    name, array = part
    return Correction(name, array.shape[axes:], array.dtype.str)


def _noting(session: Session[list[PartyAnswer]], rounds: list[Round]) -> Session[list[PartyAnswer]]:
    """A session, and its rounds as they begin."""
    try:
        round_ = next(session)
        while True:
            rounds.append(round_)
            round_ = session.send((yield round_))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def layout(plan: Plan) -> Layout:
    """Return the layout of what is dealt for a plan. Raises ValueError for a plan that cannot be verified."""
    return _Rehearsal(plan).layout()


def verified(plan: Plan) -> Plan:
    """Return the plan for verified runs, with their cost. Raises ValueError, naming the layer, if it has one that
    cannot be verified yet."""
    rehearsal = _Rehearsal(plan)
    rounds = rehearsal.rounds()
    online = sum(round_.wire_bytes for round_ in rounds)
    cost = Verified(rounds=len(rounds), online_bytes=online, row_bytes=rehearsal.layout().row_bytes)
    return plan.model_copy(update={"verified": cost})


def checked_layout(plan: Plan) -> Layout:
    """Return the layout of a plan that states its cost. Raises ValueError unless what it states of a row is true."""
    found = layout(plan)
    if plan.verified is None or plan.verified.row_bytes != found.row_bytes:
        raise ValueError("the plan states another size of a row than it has")
    return found


def arrays(parts: Parts, sent: Mapping[str, Mapping[str, Array]]) -> Iterable[Array]:
    """Yield what was dealt in the order in which it travels."""
    for name, described in parts.items():
        yield from (sent[name][part.name] for part in described)


def views(parts: Sequence[Correction], raw: bytes | bytearray, rows: int | None = None) -> tuple[Array, ...]:
    """Read one layer's arrays, of so many rows, or whole ones. Raises ValueError when they have another length."""
    out, at = list[Array](), 0
    for part in parts:
        shape = part.shape if rows is None else (rows, *part.shape)
        size = part.row_bytes * (1 if rows is None else rows)
        out.append(np.frombuffer(raw[at : at + size], part.dtype).reshape(shape))
        at += size
    if at != len(raw):
        raise ValueError("what was dealt has another length than its plan says")
    return tuple(out)


def named(parts: Parts, prepared: PreparedRows) -> dict[str, graph.Corrections]:
    """Name the arrays of `views`, layer by layer, as `graph.prepare` takes them."""
    return {
        name: {part.name: array for part, array in zip(described, prepared[name], strict=True)}
        for name, described in parts.items()
        if name in prepared and name != RECORDS
    }


@dataclass(frozen=True)
class RowStream:
    """The words of some rows of several bundles: of each bundle its stream, the first row, and how many rows."""

    parts: tuple[tuple[Stream, int, int], ...]

    @classmethod
    def of(cls, seed: bytes, bundle_rows: int, numbers: Sequence[int]) -> "RowStream":
        """The rows of these numbers, of a party whose bundles have `bundle_rows` rows. Its seed of the lease yields
        them."""
        parts = list[tuple[Stream, int, int]]()
        bundle = -1
        for number in numbers:
            before, bundle = bundle, number // bundle_rows
            if parts and before == bundle and number % bundle_rows == parts[-1][1] + parts[-1][2]:
                parts[-1] = (*parts[-1][:2], parts[-1][2] + 1)
            else:
                parts.append((Stream(seed, "bundle", bundle), number % bundle_rows, 1))
        return cls(tuple(parts))

    def at(self, *address: str | int) -> "RowStream":
        return RowStream(tuple((stream.at(*address), first, rows) for stream, first, rows in self.parts))

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Draw uniform words (rows, ...), where there are as many rows as the stream has."""
        drawn = [stream.rows(name, first, (rows, *shape[1:]), dtype) for stream, first, rows in self.parts]
        whole = drawn[0] if len(drawn) == 1 else np.concatenate(drawn)
        if whole.shape != shape:
            raise ValueError("these are other rows than are asked for")
        return whole
