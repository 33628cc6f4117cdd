"""alice's runs with bob: from the requests that she let in to both sealed shares of each one's result."""

import asyncio
import contextvars
import time
from collections.abc import Sequence

import numpy as np

from moiety_party.capacity import shared_rows
from moiety_party.lane import Lane, Refused, garbled
from moiety_party.leader.lanes import Lanes
from moiety_party.leader.leases import Leases
from moiety_party.leader.queue import Queue, Waiting
from moiety_party.leader.shortages import Shortages
from moiety_party.leader.suspects import Suspects
from moiety_party.leader.turns import Turns
from moiety_party.party import Party
from moiety_party.pool import Pool
from moiety_party.results import result_shares, sealed_result
from moiety_party.statements import RunWitness
from moiety_service.observability.logs import log, where
from moiety_service.observability.tracing import Timeline
from moiety_shared import fixed_point
from moiety_shared.crypto.integrity import TAG_BYTES, Transcript
from moiety_shared.messages.statements import SIGNED_BYTES
from moiety_shared.messages.wire import FrameKind, Outcome, Start, pack_result, pack_start, unpack_outcomes
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.ring import Array

# An idle lane broke, or one side's lease ended. A second run, with fresh rows, may do.
_RUN_AGAIN = (
    ProblemType.PEER_UNAVAILABLE,
    ProblemType.PEER_VERSION,  # one of bob's processes, while his others are upgraded
    ProblemType.RANDOMNESS_EXHAUSTED,
    ProblemType.ROW_USED,
    ProblemType.UNKNOWN_LEASE,
)
# Of a verified model: a check failed, or another run of it takes long.
_NO_REQUESTS_DOING = (ProblemType.CHEATING_DETECTED, ProblemType.OVERLOADED)


class Runs:
    """Runs requests with bob, over lanes and with rows of their own. Requests that wait for one model share a run.

    A run's structure follows from START alone, so both parties agree on it. bob does not stop a run for a request that
    he refuses: he computes its rows with a share of zeros, and gives out nothing of them.
    """

    def __init__(self, party: Party, lanes: Lanes, leases: Leases, suspects: Suspects) -> None:
        self._party = party
        self._lanes = lanes
        self._leases = leases
        self._turns = Turns(party)
        settings = party.settings
        self._queue = Queue(
            settings.max_waiting,
            settings.lanes,
            lambda model: shared_rows(settings, model.plan),
            lambda waiting: suspects.holds(waiting.model, waiting.asked.token),
            party.metrics.waiting.set,
        )
        self._serving: set[asyncio.Task[None]] = set()
        self._shortages = Shortages(self._queue, lanes, leases, self._failed, self._serve_on)

    async def close(self) -> None:
        """End the runs under way, and refuse what still waits."""
        await self._shortages.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for waiting in self._queue.clear():
            waiting.fail(Problem(ProblemType.STOPPING))

    async def answer(self, waiting: Waiting) -> bytes:
        """Have a request run, and once more if a lane or a lease failed. Returns both sealed result shares.

        Raises Refused with bob's problem, or a Problem of alice's own: OVERLOADED when too many requests wait.
        """
        self._queue.add(waiting)
        if self._queue.may_begin(waiting):  # the others that may have a lane already
            self._serve_on()
        try:
            return await waiting.answer
        finally:
            self._queue.drop(waiting)

    def _serve_on(self) -> None:
        """Have one more lane serve the queue, if a request may begin and a lane is left."""
        if len(self._serving) < self._party.settings.lanes and self._queue.head is not None:
            task = asyncio.create_task(self._serve(), context=contextvars.Context())  # part of nobody's trace
            self._serving.add(task)

    async def _serve(self) -> None:
        """Run what waits, until nothing may begin. From then on this lane is left, so no request can come between."""
        try:
            await self._serve_all()
        finally:
            self._serving -= {asyncio.current_task()}

    async def _serve_all(self) -> None:
        while self._queue.head is not None:
            batch: list[Waiting] = []
            try:
                async with self._lanes.lend(prefer=self._stock) as lane:
                    if self._party.settings.batch_milliseconds:
                        await asyncio.sleep(self._party.settings.batch_milliseconds / 1e3)
                    with self._queue.taken() as batch:
                        if batch:
                            self._serve_on()  # after a shortage, more may begin than this run takes
                            await asyncio.create_task(self.run(lane, batch), context=batch[0].context)
            except Exception as error:
                if not batch:  # the lane failed: whoever would have had it learns that
                    with self._queue.taken() as batch:
                        pass
                await self._failed(batch, error)
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.fail(Problem(ProblemType.STOPPING))
                raise

    def _stock(self, lane: Lane) -> int:
        head = self._queue.head
        return self._leases.stock(lane, head.model) if head is not None else 0

    async def _failed(self, batch: Sequence[Waiting], error: Exception) -> None:
        """Run these requests again, or tell those who wait that their run failed.

        A request runs twice at most, and once if alice signed its run. Where bob refused a run of several as a whole,
        each runs again alone, so that no request can fail another, but not for what is no request's doing.
        """
        problem = error if isinstance(error, Problem) else Problem(ProblemType.INTERNAL)
        if not isinstance(error, Problem):
            log().error("unexpected", where=where(error))
        later = problem.kind in _RUN_AGAIN
        theirs = not later and problem.kind not in _NO_REQUESTS_DOING
        apart = len(batch) > 1 and isinstance(problem, Refused) and theirs
        again = []
        for waiting in batch:
            if waiting.answer.done():
                continue
            signed = waiting.request.binding.request_id in self._party.kept_runs
            if waiting.first is not None or signed or not (later or apart):
                waiting.fail(_told(waiting, problem))
                continue
            waiting.first, waiting.alone = problem, apart
            again.append(waiting)
        if not again:
            return
        log().info("run again", problem=problem.kind.name, upload=again[0].model.upload_id)
        try:
            await self._leases.check()
        except BaseException as unready:
            for waiting in again:
                waiting.fail(unready if isinstance(unready, Exception) else Problem(ProblemType.STOPPING))
            if not isinstance(unready, Exception):
                raise
            return
        self._queue.again(again)

    async def run(self, lane: Lane, batch: Sequence[Waiting]) -> None:
        """Run these requests once, together, and answer them. Their rows are gone at both parties, whether it succeeds
        or not. They ask the same upload. If it has no rows, they wait in the queue again instead."""
        model, timeline = batch[0].model, Timeline()
        for waiting in batch:
            waiting.stats.timeline.passed("lane")
            waiting.stats.timeline.join(timeline)
        pool = await self._leases.pool(lane, model)
        timeline.passed("lease")
        if batch[0].suspect:
            batch = await self._checked(lane, pool, batch)
            timeline.passed("check")
        if batch:
            await self._run(lane, pool, batch, timeline)

    async def _checked(self, lane: Lane, pool: Pool, batch: Sequence[Waiting]) -> list[Waiting]:
        """Ask bob which of these requests he could use, and refuse the others. That is one exchange more, and takes no
        row of a request that he refuses."""
        await lane.send(FrameKind.CHECK, pack_start(Start(pool.lease_id, 0, tuple(w.asked for w in batch))))
        outcomes = _outcomes(await lane.expect(FrameKind.CHECKED), len(batch))
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Problem):
                waiting.fail(_told(waiting, _refused(outcome)))
        return [waiting for waiting in batch if not waiting.answer.done()]

    async def _run(self, lane: Lane, pool: Pool, batch: Sequence[Waiting], timeline: Timeline) -> None:
        model, party = batch[0].model, self._party
        plan, requests = model.plan, [waiting.request.rows for waiting in batch]
        rows = sum(requests)
        if pool.verified is not None and not party.checks.check_standing(model, pool.verified):
            await party.pools.drop(lane.peer, model.upload_id)  # of the key before: a new lease is under the new one
            raise Problem(ProblemType.ROW_USED)
        taken = await pool.take(rows)
        if taken is None and await self._leases.has(lane, model, pool, rows):
            taken = await pool.take(rows)
        timeline.passed("rows")
        if taken is None:
            self._shortages.begin(batch)
            return
        first, prepared = taken
        del taken
        async with self._turns.turn(model, pool.verified):
            named = Start(pool.lease_id, first, tuple(waiting.asked for waiting in batch))
            witness = party.witness(model, named, pool.ticket, [waiting.secret for waiting in batch])
            start = pack_start(named)
            await lane.send(FrameKind.START, start)
            await asyncio.sleep(0)  # sends it: bob opens his envelopes while alice computes the first openings
            transcript = Transcript(pool.check, start)
            before, started = lane.rounds, time.perf_counter()
            if pool.verified is not None:
                place = pool.verified, first, prepared
                shares = await party.checks.run(lane, model, *place, _shares(batch), requests, start, witness)
            else:
                sessions = graph.evaluate_slices(plan, 0, _shares(batch), prepared, model.weights)
                del prepared  # the sessions let go of what they have used
                outputs = np.concatenate(await lane.drive(sessions, transcript, party.threads.online, witness=witness))
                shares = result_shares(plan, outputs, requests)
            seconds, rounds = time.perf_counter() - started, lane.rounds - before
            timeline.passed("rounds")
            own = [
                sealed_result(plan, 0, share, waiting.secret, waiting.request.binding)
                for waiting, share in zip(batch, shares, strict=True)
            ]
            timeline.passed("seal")
            said = memoryview(await lane.expect(FrameKind.RESULT))
            timeline.passed("result")
            outcomes = _checked(said, transcript, witness, len(batch))
            lane.in_run = False
        for waiting, mine, outcome in zip(batch, own, outcomes, strict=True):
            stats = waiting.stats
            stats.rounds, stats.opening_bytes = rounds, model.online_bytes(waiting.request.rows)
            stats.seconds = seconds
            if isinstance(outcome, Problem):
                waiting.fail(_told(waiting, _refused(outcome)))
            else:
                waiting.succeed(pack_result(waiting.request.binding.request_id, (mine, outcome)))
        party.metrics.run_rows.observe(rows)
        asyncio.get_running_loop().call_soon(timeline.count, party.metrics.phase)


def _shares(batch: Sequence[Waiting]) -> Array:
    """alice's shares of all inputs, (rows, ring elements of each)."""
    plan = batch[0].model.plan
    dtype = fixed_point.ring_dtype(plan.ring_bits)
    shares = [
        np.frombuffer(waiting.secret.share, dtype=dtype).reshape(waiting.request.rows, plan.input.shared_size)
        for waiting in batch
    ]
    return shares[0] if len(shares) == 1 else np.concatenate(shares)


def _checked(said: memoryview, transcript: Transcript, witness: RunWitness | None, count: int) -> list[Outcome]:
    """Read bob's RESULT. Raises Problem OPENINGS_DIFFER unless he opened what alice did, and signed what he sent."""
    end = TAG_BYTES + (SIGNED_BYTES if witness is not None else 0)
    if not transcript.agrees(1, said[:TAG_BYTES], said[end:]):
        raise Problem(ProblemType.OPENINGS_DIFFER)
    outcomes = _outcomes(said[end:], count)
    if witness is not None:
        witness.check(said[TAG_BYTES:end], outcomes)
    return outcomes


def _outcomes(raw: bytes | memoryview, count: int) -> list[Outcome]:
    """Read what bob says of each request. Raises Problem PEER_UNAVAILABLE when it makes no sense."""
    try:
        return unpack_outcomes(raw, count)
    except Problem as problem:
        raise garbled(problem.detail) from None


def _refused(problem: Problem) -> Refused:
    return Refused(problem.kind, problem.detail, retry_after=problem.retry_after)


def _told(waiting: Waiting, problem: Problem) -> Problem:
    """What the client hears: of a second run's refusal for its quota, why the first one failed, because bob may not
    have noticed yet that it broke off."""
    spent = isinstance(problem, Refused) and problem.kind is ProblemType.QUOTA_EXCEEDED
    return waiting.first if spent and waiting.first is not None else problem
