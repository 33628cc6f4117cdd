"""Verified runs at a party: its part of an upload's key, the rows of a lease, a run with its check, and what is kept of
the checks.

The check of a run is one guess at Delta that a liar may still take back until there is a verdict. So of each upload one
run at a time is past its coins, at all replicas together, and the database says so before the coins are shown. A run
that has no verdict then, because a connection or a process ended, counts as failed.
"""

import asyncio
import contextlib
import itertools
import secrets
import threading
import time
from collections.abc import Container, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from moiety_party.lane import INLINE_WORK, Lane
from moiety_party.metrics import PartyMetrics
from moiety_party.provider import LeaseGrant, Provider
from moiety_party.results import ResultShare
from moiety_party.standings import Check
from moiety_party.state import State
from moiety_party.statements import RunWitness
from moiety_party.store import Model
from moiety_service.observability.logs import log
from moiety_shared.crypto.prg import Stream
from moiety_shared.messages.verified import VerifiedAnswer
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import preparation
from moiety_shared.protocols.preparation import PreparedRows
from moiety_shared.protocols.verified import graph, layout
from moiety_shared.protocols.verified.claims import CHECK_ROUNDS, CheckFailed, Nonces, Standing, UploadEnded
from moiety_shared.protocols.verified.graph import PartyKey, PreparedRun
from moiety_shared.protocols.verified.layer import VerifiedWeights
from moiety_shared.protocols.verified.layout import NUMBERS, RECORDS, Layout, RowStream
from moiety_shared.protocols.verified.prepared import joined, rows_of
from moiety_shared.ring import Array


def supported_layout(plan: Plan) -> Layout:
    """The layout of what is dealt for a plan. Raises Problem MALFORMED for one that cannot be verified."""
    try:
        return layout.checked_layout(plan)
    except ValueError as error:
        raise Problem(ProblemType.MALFORMED, str(error)) from None


PATIENCE_SECONDS = 5.0
"""How long a run waits for others of its model, before it begins."""
POLL_SECONDS = 0.02
_WORD_WORK = 4
"""How many multiply-adds one of words takes about: those of three pieces, and what puts them together."""


class DurableStanding(Standing):
    """Whether this party may go on with an upload under one key, as its database says. Every method waits for that."""

    def __init__(self, state: State, upload_id: str, key_id: str, replica: str, seconds: float) -> None:
        """The run is `replica`'s, and takes so many seconds at most."""
        super().__init__()
        self._standings, self._upload_id, self._key_id = state.standings, upload_id, key_id
        self._replica, self._seconds = replica, seconds
        self._lock = threading.Lock()
        self.tossed = False
        """Whether this run has shown its coins, and has no verdict yet."""

    def go_on(self) -> None:
        """Before the coins, whoever began the run has looked."""
        if self.tossed and self._standings.of(self._upload_id, self._replica) != (self._key_id, "open"):
            raise UploadEnded

    def toss(self) -> None:
        """Raises Problem OVERLOADED too, when another run is past its coins."""
        with self._lock:
            if self.ended:
                raise UploadEnded
            self.tossed = self._standings.toss(self._upload_id, self._key_id, self._replica, self._seconds)
        if not self.tossed:
            raise waited() if self._standings.of(self._upload_id, self._replica)[1] == "open" else UploadEnded

    def resolve(self) -> None:
        if not self._standings.resolve(self._upload_id, self._key_id):
            raise UploadEnded
        self.tossed = False

    def end(self) -> None:
        self.give_up()
        self._standings.end(self._upload_id, self._key_id)

    def give_up(self) -> bool:
        """Let the run go no further, even if a step of it still computes in a thread. Returns whether it was past its
        coins: then the upload has ended."""
        with self._lock:
            self.ended, tossed, self.tossed = True, self.tossed, False
        if tossed:
            self._standings.end(self._upload_id, self._key_id)
        return tossed


@dataclass(frozen=True, repr=False)
class KeyedModel:
    """A model under one key of its upload."""

    key_id: str
    layout: Layout
    key: PartyKey
    weights: dict[str, VerifiedWeights]


async def keyed_model(model: Model, party: int, grant: LeaseGrant, provider: Provider, offline: Executor) -> KeyedModel:
    """Make the model of a lease's key. bob fetches the tags of its weights from the provider."""
    loop, plan = asyncio.get_running_loop(), model.plan
    found = await loop.run_in_executor(offline, supported_layout, plan)
    sizes = [sum(part.row_bytes for part in parts) for parts in found.weights.values()]
    raw: Sequence[bytes | bytearray] = await provider.tags(grant, sizes) if party else [b""] * len(sizes)

    def make() -> KeyedModel:
        own = Stream(grant.key_seed, "key")
        sent = {
            name: {part.name: array for part, array in zip(parts, layout.views(parts, one), strict=True)}
            for (name, parts), one in zip(found.weights.items(), raw, strict=True)
            if party
        }
        key = graph.draw_key(plan, party, own)
        return KeyedModel(grant.key_id, found, key, model.verified_weights(key, own, sent))

    return await loop.run_in_executor(offline, make)


@dataclass(frozen=True, repr=False, eq=False)
class _Ready:
    """Rows that were prepared ahead, from the row of number `first` on."""

    first: int
    run: PreparedRun


def is_prepared(bundle: PreparedRows) -> bool:
    """Whether the rows of a bundle are prepared."""
    return bundle[NUMBERS][1][0] is not None


@dataclass(frozen=True, repr=False)
class VerifiedLease:
    """What a lease's rows become runs of: the model under its key, and this party's seed."""

    lease_id: str
    model: KeyedModel
    seed: bytes
    bundle_rows: int

    def prepare_ahead(self, plan: Plan, rows: PreparedRows) -> None:
        """Prepare the rows of one bundle, and leave them beside what was dealt."""
        numbers, beside = rows[NUMBERS]
        beside.fill(_Ready(int(numbers[0]), self._prepare(plan, rows)))

    def ready(self, rows: PreparedRows) -> PreparedRun | None:
        """What a run needs of these rows, if they were prepared ahead, of one bundle. Copies nothing."""
        numbers, beside = rows[NUMBERS]
        ready = beside[0]
        if ready is None or any(other is not ready for other in beside):
            return None
        first = int(numbers[0]) - ready.first
        return rows_of(ready.run, first, first + len(numbers))

    def prepared(self, plan: Plan, rows: PreparedRows) -> PreparedRun:
        """What a run needs of these rows. Those that were not prepared ahead are now."""
        numbers, beside = rows[NUMBERS]
        parts, at = list[PreparedRun](), 0
        for ready, same in itertools.groupby(beside.tolist()):
            start, at = at, at + len(list(same))
            if ready is None:
                parts.append(self._prepare(plan, preparation.cut(rows, start, at)))
            else:
                first = int(numbers[start]) - ready.first
                parts.append(rows_of(ready.run, first, first + at - start))
        return joined(parts)

    def _prepare(self, plan: Plan, rows: PreparedRows) -> PreparedRun:
        numbers = rows[NUMBERS][0].tolist()
        stream = RowStream.of(self.seed, self.bundle_rows, numbers)
        sent, keyed = layout.named(self.model.layout.row, rows), self.model
        return graph.prepare(plan, keyed.key, len(numbers), keyed.weights, stream, sent)


@dataclass(frozen=True)
class Checks:
    """Runs sessions with their checks, and counts what failed."""

    state: State
    metrics: PartyMetrics
    online: Executor
    replica: str
    run_seconds: float

    def check_key(self, model: Model, grant: LeaseGrant) -> None:
        """Raises Problem UNKNOWN_LEASE unless a lease is under the key that the owner named. Whoever else has the
        provider draw another key could otherwise guess again and again."""
        if model.plan.verified and grant.key_id != self._standing(model)[0]:
            raise Problem(ProblemType.UNKNOWN_LEASE, "it is under another key than the model's owner named")

    def check_standing(self, model: Model, lease: VerifiedLease) -> bool:
        """Whether a lease is under the model's key still. Raises Problem CHEATING_DETECTED when the upload ended."""
        key_id, state = self._standing(model)
        if key_id == lease.model.key_id and state == "ended":
            raise ended()
        return key_id == lease.model.key_id

    def _standing(self, model: Model) -> tuple[str, Check]:
        return self.state.standings.of(model.upload_id, self.replica)

    async def _looked_up(self, model: Model) -> tuple[str, Check]:
        """A file is read at once: to hand that over to a thread takes longer. Nobody who writes holds it up."""
        return await asyncio.to_thread(self._standing, model) if self.state.shared else self._standing(model)

    async def settled(self, model: Model, lease: VerifiedLease | None) -> None:
        """Wait before a run begins until no other run of the upload is past its coins. Runs that are not verified have
        no `lease` here, and need not wait.

        Raises Problem CHEATING_DETECTED when the upload has ended or has another key, OVERLOADED when that takes long.
        """
        if lease is None:
            return
        until = time.monotonic() + PATIENCE_SECONDS
        while (found := await self._looked_up(model))[1] == "open":
            if time.monotonic() > until:
                raise waited()
            await asyncio.sleep(POLL_SECONDS)
        if found != (lease.model.key_id, "good"):
            raise ended()

    async def run(
        self,
        lane: Lane,
        model: Model,
        lease: VerifiedLease,
        first: int,
        rows: PreparedRows,
        x: Array,
        requests: Sequence[int],
        start: bytes,
        witness: RunWitness | None = None,
    ) -> list[ResultShare]:
        """Run this party's shares x (rows, values of one input) on the lease's rows from `first` on, and check the
        other party. Returns what the client of each request is told; `requests` says how many rows each has.

        `start` is the frame that began the run, and `witness` is who signs it, if it is signed. Raises Problem
        CHEATING_DETECTED when the check fails or has no verdict, or when the upload has ended before, and OVERLOADED
        when another run is past its coins.
        """
        loop, plan, keyed = asyncio.get_running_loop(), model.plan, lease.model
        if (prepared := lease.ready(rows)) is None:
            prepared = await loop.run_in_executor(self.online, lease.prepared, plan, rows)
        nonces = Nonces(secrets.token_bytes(16), secrets.token_bytes(16))
        standing = DurableStanding(self.state, model.upload_id, keyed.key_id, self.replica, self.run_seconds)
        name = sha256(b"moiety/v1 verified run\0" + start).digest()
        session = graph.run(plan, keyed.key, name, x, prepared, keyed.weights, nonces, standing, requests)
        try:
            (answers,) = await lane.drive([session], None, self.online, away=_away(plan, len(x)), witness=witness)
        except CheckFailed:
            raise self._failed(model, "a check failed", witness) from None
        except UploadEnded:
            raise ended() from None
        except BaseException as error:
            failed: Problem | None = None
            if await asyncio.shield(asyncio.to_thread(standing.give_up)):
                failed = self._failed(model, "a check has no verdict", witness)
            with contextlib.suppress(ValueError):  # a step still goes on in its thread
                await loop.run_in_executor(self.online, session.close)
            if failed is not None and isinstance(error, Problem):
                raise failed from None
            raise
        vouchers = [tuple(map(np.ndarray.tobytes, each)) for each in rows[RECORDS]] if RECORDS in rows else [(), ()]
        told, at = list[ResultShare](), 0
        for answer, count in zip(answers, requests, strict=True):
            own = tuple(dict.fromkeys(vouchers[0][at : at + count]))
            said = VerifiedAnswer(lease.lease_id, first + at, answer, own).pack()
            if answer.counted is None:
                told.append(ResultShare(said))
            else:
                counted = VerifiedAnswer(lease.lease_id, first + at, answer.counted, vouchers[1][at : at + 1]).pack()
                told.append(ResultShare(counted, said))
            at += count
        return told

    def _failed(self, model: Model, why: str, witness: RunWitness | None) -> Problem:
        """Count a failed check, and tell the log, with what the other party signed. Returns the problem."""
        self.metrics.failed_checks.labels(model.manifest.name).inc()
        signed = [one.model_dump() for one in witness.shown()] if witness is not None else []
        log().error("check failed", upload=model.upload_id, detail=why, **({"signed": signed} if signed else {}))
        return Problem(ProblemType.CHEATING_DETECTED, why)


def _away(plan: Plan, rows: int) -> Container[int]:
    """The rounds behind which a run's step is no work for an event loop. When the last opening has arrived, it waits
    for the database, which has to know that the run shows its coins. Then it is the check of all claims, and after the
    last round it tells the database. If the run is large, each is.

    The owner states how many rounds there are. If that is wrong, the event loop waits for the disk. So it does, once an
    upload, when a party is caught in an earlier round.
    """
    rounds = plan.verified.rounds if plan.verified is not None else 0
    if _WORD_WORK * rows * sum(plan.flow.work.values()) > INLINE_WORK:
        return range(rounds)
    last = rounds - CHECK_ROUNDS - 1
    return last, last + 1, rounds - 1


def waited() -> Problem:
    return Problem(ProblemType.OVERLOADED, "another run of this model has no verdict yet")


def ended() -> Problem:
    return Problem(ProblemType.CHEATING_DETECTED, "an earlier check of this model failed, or had no verdict")
