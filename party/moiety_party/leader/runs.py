"""alice's runs with bob: from a request that she let in to both sealed shares of its result."""

import asyncio
import time
from dataclasses import dataclass, field

import numpy as np

from moiety_party.lane import Lane, Refused
from moiety_party.leader.lanes import Lanes
from moiety_party.leader.leases import Leases, stock_at_bob
from moiety_party.leader.suspects import Suspects
from moiety_party.party import Party
from moiety_party.pool import Pool
from moiety_party.results import sealed_result
from moiety_party.store import Model
from moiety_service.observability import tracing
from moiety_service.observability.logs import log
from moiety_service.observability.tracing import Timeline
from moiety_shared import fixed_point
from moiety_shared.crypto.integrity import TAG_BYTES, Transcript
from moiety_shared.messages.wire import FrameKind, Request, Secret, pack_result, pack_start
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.protocols.graph import PreparedRows

_WAIT_SECONDS, _POLL_SECONDS = 5.0, 0.1  # while bob prepares the rows of a run
# An idle lane broke, or one side's lease ended. A second run, with fresh rows, may do.
_RUN_AGAIN = (
    ProblemType.PEER_UNAVAILABLE,
    ProblemType.PEER_VERSION,  # one of bob's processes, while his others are upgraded
    ProblemType.RANDOMNESS_EXHAUSTED,
    ProblemType.ROW_USED,
    ProblemType.UNKNOWN_LEASE,
)


@dataclass
class RunStats:
    """What one request's run took, counted on the lane."""

    rounds: int = 0
    opening_bytes: int = 0
    seconds: float = 0.0  # of the rounds alone
    again: bool = False  # a second run was begun
    timeline: Timeline = field(default_factory=Timeline)


class Runs:
    """Runs requests with bob, each over a lane and with rows of its own."""

    def __init__(self, party: Party, lanes: Lanes, leases: Leases, suspects: Suspects) -> None:
        self._party = party
        self._lanes = lanes
        self._leases = leases
        self._suspects = suspects

    async def answer(self, model: Model, request: Request, secret: Secret, token: str, stats: RunStats) -> bytes:
        """Run a request, and once more if a lane or a lease failed. Returns both sealed result shares.

        `secret` is what alice's envelope held. Raises Refused with bob's problem, or a Problem of alice's own.
        """
        try:
            return await self.run(model, request, secret, token, stats)
        except Problem as problem:
            if problem.kind not in _RUN_AGAIN:
                raise
            first = problem
        log().info("run again", problem=first.kind.name, upload=model.upload_id)
        stats.again = True
        await self._leases.check()
        try:
            return await self.run(model, request, secret, token, stats)
        except Refused as refused:
            if refused.kind is ProblemType.QUOTA_EXCEEDED:  # bob has not noticed yet that the first run broke off
                raise first from None
            raise

    async def run(self, model: Model, request: Request, secret: Secret, token: str, stats: RunStats) -> bytes:
        """Run a request once. Its rows are gone at both parties whether it succeeds or not."""
        plan, rows, binding, party = model.plan, request.rows, request.binding, self._party
        passed = stats.timeline.passed
        async with self._lanes.lend(prefer=lambda lane: self._leases.stock(lane, model)) as lane:
            passed("lane")
            pool = await self._leases.pool(lane, model)
            passed("lease")
            if self._suspects.holds(model, token):
                check = pack_start(pool.lease_id, 0, tracing.pack(tracing.current()), token, request)
                await lane.send(FrameKind.CHECK, check)
                await lane.expect(FrameKind.CHECKED)  # one exchange more, and no row is gone if bob refuses
                passed("check")
            first, prepared = await self._take(lane, model, pool, rows)
            passed("rows")
            start = pack_start(pool.lease_id, first, tracing.pack(tracing.current()), token, request)
            await lane.send(FrameKind.START, start)
            await asyncio.sleep(0)  # sends it: bob opens his envelope while alice computes the first openings
            dtype = fixed_point.ring_dtype(plan.ring_bits)
            share = np.frombuffer(secret.share, dtype=dtype).reshape(rows, plan.input.shared_size)
            rounds, sent = lane.rounds, lane.opening_bytes
            sessions = graph.evaluate_slices(plan, 0, share, prepared, model.weights)
            del prepared  # the sessions let go of what they have used
            transcript = Transcript(pool.check, start)
            started = time.perf_counter()
            outputs = await lane.drive(sessions, transcript, party.threads.online)
            stats.seconds = time.perf_counter() - started
            passed("rounds")
            stats.rounds, stats.opening_bytes = lane.rounds - rounds, lane.opening_bytes - sent
            own = sealed_result(plan, 0, outputs, secret, binding)
            passed("seal")
            answer = memoryview(await lane.expect(FrameKind.RESULT))
            passed("result")
            tag, theirs = answer[:TAG_BYTES], bytes(answer[TAG_BYTES:])
            if not transcript.agrees(1, tag, theirs):
                raise Problem(ProblemType.OPENINGS_DIFFER)
            lane.in_run = False
        return pack_result(binding.request_id, (own, theirs))

    async def _take(self, lane: Lane, model: Model, pool: Pool, rows: int) -> tuple[int, PreparedRows]:
        """Take the next rows, and return the number of the first with them.

        Where each row is a bundle of its own, alice first waits until bob has them too: such rows are too dear to burn.
        Raises Problem RANDOMNESS_EXHAUSTED when the rows do not come in time.
        """
        deadline = time.monotonic() + _WAIT_SECONDS
        while pool.bundle_rows == 1:
            end = await pool.want(rows)
            await lane.send_json(FrameKind.PING, {model.upload_id: end})
            theirs = stock_at_bob(await lane.expect_json(FrameKind.STOCK), model)
            if theirs.get("lease") != pool.lease_id or theirs["made"] >= end:
                break
            if time.monotonic() > deadline:
                raise Problem(ProblemType.RANDOMNESS_EXHAUSTED, "bob's is still being prepared")
            await asyncio.sleep(_POLL_SECONDS)
        return await pool.take(rows)
