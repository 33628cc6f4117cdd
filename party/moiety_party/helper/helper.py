"""bob's part in a prediction: he answers what alice begins on each lane."""

import asyncio
import time

import numpy as np

from moiety_party.capacity import run_rows
from moiety_party.hello import answer
from moiety_party.helper.answered import Answered
from moiety_party.helper.guests import Guests
from moiety_party.lane import Lane, Link, garbled, read_json
from moiety_party.metrics import PartyMetrics
from moiety_party.party import Party
from moiety_party.pool import Pool
from moiety_party.results import result_shares
from moiety_service.http.draining import Drain
from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_service.observability.tracing import Timeline
from moiety_shared.crypto.integrity import Transcript
from moiety_shared.messages.wire import Frame, FrameKind, Start, malformed, pack_outcomes, unpack_start
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

        After bob has refused a run, what alice sent for it may still arrive. He drops it.
        """
        refused = False
        while True:
            frame = await lane.recv()
            if refused and frame.kind in (FrameKind.OPENING, FrameKind.SIGNED):
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

        `wanted` says, by upload, up to which row the leader is about to take, and by `traceparent` for which request.
        bob has those rows made.
        """
        pools = self._party.pools.with_peer(leader)
        with tracing.part_of(str(wanted.get(tracing.HEADER))):
            for upload_id, end in wanted.items():
                if upload_id in pools and isinstance(end, int):
                    await pools[upload_id].want_until(end)
        without: dict[str, object] = {model.upload_id: {} for model in self._party.store.all()}
        return without | {upload_id: pool.told() for upload_id, pool in pools.items()}

    async def _join(self, lane: Lane, lease: dict[str, object]) -> None:
        model = await self._party.replicas.model(str(lease.get("upload")))
        grant = await self._party.provider.join_lease(str(lease.get("lease")), str(lease.get("ticket")))
        if grant.upload_id != model.upload_id:
            raise malformed("the lease is for another model")
        self._party.checks.check_key(model, grant)
        await self._party.pools.open(lane.peer, model, grant)
        await lane.send_json(FrameKind.JOINED, {})

    async def _check(self, lane: Lane, start: Start) -> None:
        """Tell alice which of these requests a run could begin with. bob claims, counts and remembers nothing."""
        guests = await self._guests(start)
        await guests.let_in()
        await lane.send(FrameKind.CHECKED, pack_outcomes([guest.problem or b"" for guest in guests.all]))

    async def _guests(self, start: Start) -> Guests:
        """The requests of a run. Raises Problem MALFORMED unless they ask one upload, and fit into one run of it."""
        uploads = {asked.request.binding.upload_id for asked in start.asked}
        model = await self._party.replicas.model(start.asked[0].request.binding.upload_id.hex())
        if len(uploads) > 1 or not 1 <= start.rows <= run_rows(self._party.settings, model.plan):
            raise malformed("the leader's requests do not fit into one run")
        return Guests(self._party, self._answered, model, start.asked)

    async def _run(self, lane: Lane, payload: bytes) -> None:
        """Serve one run. If bob refuses it, he burns the rows that alice named, because she has used hers."""
        start = unpack_start(payload)
        pool = self._party.pools.get(lane.peer, start.asked[0].request.binding.upload_id.hex())
        if pool is not None and pool.lease_id != start.lease_id:
            pool = None
        try:
            await self._answer(lane, start, payload, pool)
        except Exception:
            if pool is not None:
                await pool.burn(start.first_row, start.rows)
            raise

    async def _answer(self, lane: Lane, start: Start, payload: bytes, pool: Pool | None) -> None:
        """Let the requests in, evaluate them with alice, and send her each one's result share or problem.

        The run joins the first request's trace, and shows in the others' when it has ended.
        """
        party, timeline, rounds = self._party, Timeline(), lane.rounds
        span = tracing.begin(party.tracer, "run", tracing.unpack(start.asked[0].trace))
        with tracing.doing(span), party.pools.running():
            guests = await self._guests(start)
            started = time.perf_counter()
            failure: BaseException | None = None
            try:
                with self._drain.work(ProblemType.PEER_UNAVAILABLE):
                    async with asyncio.timeout(party.settings.run_seconds):
                        await guests.let_in()
                        timeline.passed("open")
                        if len(guests.all) == 1 and (problem := guests.all[0].problem) is not None:
                            raise problem
                        said = await self._evaluate(lane, guests, start, payload, pool, timeline)
                        await lane.send(FrameKind.RESULT, *said)  # quotas pay for it, whether it arrives or not
                        timeline.passed("seal")
                        lane.in_run = False
            except BaseException as error:
                failure = error
                raise
            finally:
                _tell(party.metrics, guests, time.perf_counter() - started, lane.rounds - rounds, failure)
                timeline.tell(party.tracer, tracing.current(), party.metrics.phase)
                for guest in guests.all[1:]:
                    timeline.tell_whole(party.tracer, "run", tracing.unpack(guest.asked.trace))

    async def _evaluate(
        self, lane: Lane, guests: Guests, start: Start, payload: bytes, pool: Pool | None, timeline: Timeline
    ) -> tuple[bytes, bytes, bytes]:
        """Evaluate the model. Returns the tag of all that is opened and told, what bob signs, and all outcomes.

        The transcript begins with `payload`, alice's START as it arrived. Quotas are counted meanwhile, so that one
        client's costs no other any time. Raises Problem ROW_USED or RANDOMNESS_EXHAUSTED when the rows are not there.
        """
        if pool is None:
            raise Problem(ProblemType.ROW_USED, "bob does not hold its lease")
        model = guests.model
        await self._party.checks.settled(model, pool.verified)
        guests.begin_spending()
        try:
            prepared = await pool.claim(start.first_row, start.rows)
            timeline.passed("rows")
            witness = self._party.witness(model, start, pool.ticket, guests.secrets())
            lane.in_run = True
            transcript = Transcript(pool.check, payload)
            if pool.verified is not None:
                x = guests.shares()
                place = pool.verified, start.first_row, prepared
                shares = await self._party.checks.run(lane, model, *place, x, guests.rows(), payload, witness)
            else:
                sessions = graph.evaluate_slices(model.plan, 1, guests.shares(), prepared, model.weights)
                del prepared  # the sessions let go of what they have used
                outputs = await lane.drive(sessions, transcript, self._party.threads.online, witness=witness)
                shares = result_shares(model.plan, np.concatenate(outputs), guests.rows())
                if witness is not None:  # before alice gets anything of the results
                    witness.check(await lane.expect(FrameKind.SIGNED))
            timeline.passed("rounds")
            await guests.spent()
            outcomes = await guests.outcomes(shares)
            body, signed = pack_outcomes(outcomes), b""
            if witness is not None:
                signed = witness.sign(outcomes)
            return transcript.of(1, body), signed, body
        except BaseException:
            await guests.take_back()
            raise


def _tell(metrics: PartyMetrics, guests: Guests, seconds: float, rounds: int, failure: BaseException | None) -> None:
    """Count and log each request of a run, as if it had run alone."""
    for guest in guests.all:
        error = failure or guest.problem
        metrics.predicted(guests.model.manifest.name, guest.request.rows, seconds, error)
        if error is None:
            named = tracing.request_id(tracing.unpack(guest.asked.trace) or tracing.current())
            milliseconds = round(seconds * 1e3, 2)
            log().info("run", request_id=named, rows=guest.request.rows, rounds=rounds, milliseconds=milliseconds)
    if failure is None:
        metrics.run_rows.observe(sum(guest.request.rows for guest in guests.all))
