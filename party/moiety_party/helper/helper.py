"""bob's part in a prediction: he answers what alice begins on each lane."""

import asyncio
import time

from moiety_party.capacity import request_rows
from moiety_party.envelopes import open_envelope
from moiety_party.hello import answer
from moiety_party.helper.answered import Answered
from moiety_party.lane import Lane, Link, garbled, read_json
from moiety_party.party import Party
from moiety_party.pool import Pool
from moiety_party.results import sealed_result
from moiety_party.store import Model
from moiety_service.http.draining import Drain
from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_service.observability.tracing import Timeline
from moiety_shared import fixed_point
from moiety_shared.crypto.integrity import Transcript
from moiety_shared.crypto.prg import Stream
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.wire import Frame, FrameKind, Secret, Start, malformed, unpack_start
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph


class Helper:
    """bob: serves alice's sessions, one at a time on each lane."""

    def __init__(self, party: Party, drain: Drain | None = None) -> None:
        """`drain` counts the runs, so that bob stops only after them."""
        self._party = party
        self._drain = drain or Drain()
        self._answered = Answered(party.state, 2 * party.settings.request_seconds)
        party.replicas.start()

    async def close(self) -> None:
        await self._answered.close()

    async def ready(self) -> None:
        """Raises a Problem while bob could serve no prediction.

        He does not look for alice, because she may come only once he is ready.
        """
        await self._party.pools.check_stock({upload_id for _, upload_id in self._party.pools.by_pair})

    async def serve(self, link: Link) -> None:
        """Serve sessions until the lane ends.

        bob tells alice of a Problem that comes before a run's first opening, and the lane goes on. He logs what ends
        it.
        """
        try:
            lane = await answer(link, self._party.boot)
            self._party.pools.lane_opened(lane.peer)
            try:
                await self._sessions(lane)
            finally:
                self._party.pools.lane_ended(lane.peer)
                await lane.close()
        except Problem as problem:
            if problem.kind is not ProblemType.PEER_UNAVAILABLE or problem.detail:
                log().warning("lane ended", problem=problem.kind.name, detail=problem.detail)
        except TimeoutError:
            log().warning("lane ended", problem=ProblemType.REQUEST_TIMEOUT.name)
        except Exception as error:
            log().error("lane ended", where=where(error))
        finally:
            await link.close()

    async def _sessions(self, lane: Lane) -> None:
        """Serve one session after another.

        After bob has refused a run, openings that alice sent for it may still arrive. He drops them.
        """
        refused = False
        while True:
            frame = await lane.recv()
            if refused and frame.kind is FrameKind.OPENING:
                continue
            refused = False
            try:
                await self._session(lane, frame)
            except Problem as problem:
                await lane.send_json(FrameKind.FAILED, problem.document())
                if lane.in_run:
                    raise
                refused = True
            finally:
                self._party.metrics.session(*lane.counted())

    async def _session(self, lane: Lane, frame: Frame) -> None:
        match frame.kind:
            case FrameKind.PING:
                await lane.send_json(FrameKind.STOCK, await self._stock(lane.peer, read_json(frame)))
            case FrameKind.LEASE:
                await self._join(lane, read_json(frame))
            case FrameKind.CHECK:
                await self._check(lane, unpack_start(bytes(frame.payload)))
            case FrameKind.START:
                await self._run(lane, bytes(frame.payload))
            case _:
                raise garbled(f"a session cannot begin with {frame.kind.name}")

    async def _stock(self, leader: str, wanted: dict[str, object]) -> dict[str, object]:
        """What bob's STOCK says: each model's pool with this leader, or {} where there is none.

        `wanted` says, by upload, up to which row the leader is about to take. bob has those rows made.
        """
        pools = self._party.pools.with_peer(leader)
        for upload_id, end in wanted.items():
            if upload_id in pools and isinstance(end, int):
                await pools[upload_id].want_until(end)
        without: dict[str, object] = {model.upload_id: {} for model in self._party.store.all()}
        return without | {
            upload: {"lease": p.lease_id, "position": p.position, "made": p.made, "lost": p.lost, "gaps": p.gaps}
            for upload, p in pools.items()
        }

    async def _join(self, lane: Lane, lease: dict[str, object]) -> None:
        model = await self._party.replicas.model(str(lease.get("upload")))
        grant = await self._party.provider.join_lease(str(lease.get("lease")), str(lease.get("ticket")))
        if grant.upload_id != model.upload_id:
            raise malformed("the lease is for another model")
        await self._party.pools.open(lane.peer, model, grant)
        await lane.send_json(FrameKind.JOINED, {})

    async def _check(self, lane: Lane, start: Start) -> None:
        """Tell alice whether a run could begin with this request. bob claims, counts and remembers nothing."""
        model = await self._party.replicas.model(start.request.binding.upload_id.hex())
        await self._open(model, self._party.admission.admit(model, start.token), start)
        await lane.send(FrameKind.CHECKED)

    async def _run(self, lane: Lane, payload: bytes) -> None:
        """Serve one run. If bob refuses it, he burns the rows that alice named, because she has used hers."""
        start = unpack_start(payload)
        pool = self._party.pools.get(lane.peer, start.request.binding.upload_id.hex())
        if pool is not None and pool.lease_id != start.lease_id:
            pool = None
        try:
            await self._answer(lane, start, payload, pool)
        except Exception:
            if pool is not None:
                await pool.burn(start.first_row, start.request.rows)
            raise

    async def _answer(self, lane: Lane, start: Start, payload: bytes, pool: Pool | None) -> None:
        """Let the request in, evaluate it with alice, and send her the result share. The run joins alice's trace."""
        party, timeline = self._party, Timeline()
        span = tracing.begin(party.tracer, "run", tracing.unpack(start.trace))
        with tracing.doing(span), party.pools.running():
            rows = start.request.rows
            model = await party.replicas.model(start.request.binding.upload_id.hex())
            grant = party.admission.admit(model, start.token)
            rounds, started = lane.rounds, time.perf_counter()
            with party.metrics.prediction(model.manifest.name, rows), self._drain.work(ProblemType.PEER_UNAVAILABLE):
                async with asyncio.timeout(party.settings.run_seconds):
                    secret = await self._open(model, grant, start)
                    timeline.passed("open")
                    receipt = await party.admission.spend(model, grant, rows)
                    try:
                        share = await self._evaluate(lane, model, start, payload, secret, pool, timeline)
                    except BaseException:
                        await party.admission.refund(receipt)
                        raise
                    await lane.send(FrameKind.RESULT, *share)  # the quota pays for it, whether it arrives or not
                    timeline.passed("seal")
                    lane.in_run = False
            milliseconds = round((time.perf_counter() - started) * 1e3, 2)
            log().info("run", rows=rows, rounds=lane.rounds - rounds, milliseconds=milliseconds)
            timeline.tell(party.tracer, tracing.current(), party.metrics.phase)

    async def _open(self, model: Model, grant: Grant | None, start: Start) -> Secret:
        """Check all of the request, before bob claims a row. Returns what the client sealed to him."""
        party, request, plan, rows = self._party, start.request, model.plan, start.request.rows
        if request.binding.plan_digest != plan.digest or not 1 <= rows <= request_rows(party.settings, plan):
            raise malformed("the leader's request does not fit the model")
        party.admission.check_time(request.binding, party.settings.request_seconds, 1)
        secret = await open_envelope(party, 1, model, request, grant, start.token)
        self._answered.check(request.binding.request_id)
        return secret

    async def _evaluate(
        self,
        lane: Lane,
        model: Model,
        start: Start,
        payload: bytes,
        secret: Secret,
        pool: Pool | None,
        timeline: Timeline,
    ) -> tuple[bytes, bytes]:
        """Evaluate the model. Returns the tag of all that was opened, and bob's sealed share of the result.

        The transcript begins with `payload`, alice's START as it arrived. The share of a request leaves once: raises
        Problem REQUEST_EXPIRED if it left before, and ROW_USED or RANDOMNESS_EXHAUSTED when the rows are not there.
        """
        request, plan = start.request, model.plan
        if pool is None:
            raise Problem(ProblemType.ROW_USED, "another lease")
        prepared = await pool.claim(start.first_row, request.rows)
        timeline.passed("rows")
        lane.in_run = True
        transcript = Transcript(pool.check, payload)
        dtype = fixed_point.ring_dtype(plan.ring_bits)
        share = Stream(bytes(secret.share), "input").words("share", (request.rows, plan.input.shared_size), dtype)
        sessions = graph.evaluate_slices(plan, 1, share, prepared, model.weights)
        del prepared  # the sessions let go of what they have used
        outputs = await lane.drive(sessions, transcript, self._party.threads.online)
        timeline.passed("rounds")
        result = sealed_result(plan, 1, outputs, secret, request.binding)
        await self._answered.note(request.binding.request_id)
        return transcript.of(1, result), result
