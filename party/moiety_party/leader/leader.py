"""alice: faces the clients, holds the lanes to bob, opens the leases."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import websockets

from moiety_party.admission import ANYBODY, clients_doing
from moiety_party.envelopes import opened
from moiety_party.hello import call
from moiety_party.lane import MAX_MESSAGE, ClientLink, Lane, Link, Refused, garbled
from moiety_party.leader.journal import Journal
from moiety_party.leader.requests import Requests
from moiety_party.leader.suspects import Suspects
from moiety_party.party import Party
from moiety_party.pool import Pool
from moiety_party.results import sealed_result
from moiety_party.store import Model
from moiety_service.http import clients
from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_service.observability.tracing import Timeline
from moiety_shared import fixed_point
from moiety_shared.crypto.integrity import TAG_BYTES, Transcript
from moiety_shared.messages.wire import FrameKind, Request, Secret, pack_result, pack_start
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.protocols.graph import PreparedRows

_PING_SECONDS = 1.0
_CONNECT_SECONDS = 3.0
_PING_INTERVAL = 5.0
_WAIT_SECONDS, _POLL_SECONDS = 5.0, 0.1  # for rows that bob is still preparing
# A lane that broke while idle, or a lease that ended at one side: one more run, with fresh rows, may do.
_START_AGAIN = (
    ProblemType.PEER_UNAVAILABLE,
    ProblemType.PEER_VERSION,  # of one process of bob's, while his others are upgraded
    ProblemType.RANDOMNESS_EXHAUSTED,
    ProblemType.ROW_USED,
    ProblemType.UNKNOWN_LEASE,
)


@dataclass
class RunStats:
    """What one run took, counted on the link."""

    rounds: int = 0
    opening_bytes: int = 0
    seconds: float = 0.0  # of the rounds alone
    again: bool = False  # the first attempt came to nothing
    timeline: Timeline = field(default_factory=Timeline)


Connect = Callable[[Party], Awaitable[Link]]


async def connect(party: Party) -> Link:
    """A WebSocket to the helper. Raises Problem PEER_UNAVAILABLE."""
    settings = party.settings
    try:
        socket = await websockets.connect(
            f"{settings.peer_url}/v1/peer",
            additional_headers={"authorization": f"Bearer {party.identity.credential('bob')}"},
            ssl=party.tls if settings.peer_url.startswith("wss:") else None,
            compression=None,
            proxy=None,
            max_size=MAX_MESSAGE,
            # What bob sends is read at once, a round ahead at most: he never waits for alice, so neither deadlocks.
            max_queue=None,
            write_limit=MAX_MESSAGE,
            open_timeout=_CONNECT_SECONDS,
            close_timeout=0.5,
            ping_interval=_PING_INTERVAL,
            ping_timeout=settings.run_seconds,  # a helper that computes or waits for rows reads nothing meanwhile
        )
    except (OSError, TimeoutError, websockets.WebSocketException) as error:
        raise Problem(ProblemType.PEER_UNAVAILABLE) from error
    socket.transport.get_extra_info("socket").setsockopt(*clients.SOCKET_BUFFER)
    return ClientLink(socket)


class Leader:
    """The leader's side of every session kind, and what clients and the owner ask for."""

    def __init__(self, party: Party, connect: Connect = connect) -> None:
        self._party = party
        self._dial = connect
        seconds = 2 * party.settings.request_seconds
        journal = Journal(party.state, party.boot, seconds) if party.state.shared else None
        self._requests = Requests(seconds, journal)
        self._suspects = Suspects()
        self._idle: list[Lane] = []
        self._free = asyncio.Semaphore(party.settings.lanes)
        self._waiting = 0
        # By the peer's boot and upload, while somebody leases or waits to.
        self._leasing = WeakValueDictionary[tuple[str, str], asyncio.Lock]()
        self._supervisor = asyncio.create_task(self._supervise())
        party.replicas.start()

    async def close(self) -> None:
        self._supervisor.cancel()
        await asyncio.gather(self._supervisor, return_exceptions=True)
        await asyncio.gather(*map(self._end, self._idle), return_exceptions=True)

    async def ready(self) -> None:
        """Raises a Problem while no prediction could be served."""
        if not self._free.locked():  # else every lane has a run with bob: he is there
            async with self._lane() as lane:
                await lane.send_json(FrameKind.PING, {})
                await lane.expect(FrameKind.STOCK)
        await self._party.check_stock(model.upload_id for model in self._party.store.all())

    # Predictions

    async def predict(self, body: bytes, token: str | None) -> tuple[bytes, RunStats]:
        """A client's request to both sealed result shares."""
        party = self._party
        request = Request.unpack(body)
        model = await party.replicas.model(request.binding.upload_id.hex())
        grant = party.admission.admit(model, token)
        request.check(model.plan, party.max_rows(model.plan))
        party.admission.check_time(request.binding, party.settings.request_seconds, 0)
        stats = RunStats()

        async def run() -> bytes:
            # Her envelope is opened before any row is taken: what cannot be opened burns none. Who does not show that
            # a token's key is theirs uses up nothing of its holder's quota.
            proven = await opened(party, 0, model, request, grant, token or "") if grant and grant.key else None
            receipt = await party.admission.spend(model, grant, request.rows)
            try:
                secret = proven or await opened(party, 0, model, request, grant, token or "")
                stats.timeline.passed("open")
                with party.running():
                    return await self._attempt(model, request, secret, token or "", stats)
            except BaseException as error:
                if not clients_doing(error, by_bob=isinstance(error, Refused), again=stats.again):
                    await party.admission.refund(receipt)
                elif isinstance(error, Refused):
                    self._suspects.note(model, token or "")
                raise

        subject, name = grant.subject if grant else ANYBODY, model.manifest.name
        counted = party.metrics.prediction(name, request.rows)
        audited = party.audit.event(
            "prediction", subject=subject, model=name, upload=model.upload_id, rows=request.rows
        )
        with counted, audited:
            try:
                return await self._requests.once(request.binding, subject, run), stats
            finally:  # when the answer is out
                tell = stats.timeline.tell
                asyncio.get_running_loop().call_soon(tell, party.tracer, tracing.current(), party.metrics.phase)

    async def _attempt(self, model: Model, request: Request, secret: Secret, token: str, stats: RunStats) -> bytes:
        try:
            return await self._run(model, request, secret, token, stats)
        except Problem as problem:
            if problem.kind not in _START_AGAIN:
                raise
            first = problem
        log().info("run again", problem=first.kind.name, upload=model.upload_id)
        stats.again = True
        await self._check_leases()
        try:
            return await self._run(model, request, secret, token, stats)
        except Refused as refused:
            if refused.kind is ProblemType.QUOTA_EXCEEDED:  # bob has not noticed yet that the first attempt broke off
                raise first from None
            raise

    async def _run(self, model: Model, request: Request, secret: Secret, token: str, stats: RunStats) -> bytes:
        plan, rows, binding, party = model.plan, request.rows, request.binding, self._party
        passed = stats.timeline.passed
        async with self._lane(prefer=lambda lane: self._stock(lane, model)) as lane:
            passed("lane")
            pool = await self._lease(lane, model)
            passed("lease")
            if self._suspects.holds(model, token):
                await lane.send(
                    FrameKind.CHECK, pack_start(pool.lease_id, 0, tracing.pack(tracing.current()), token, request)
                )
                await lane.expect(FrameKind.CHECKED)  # one exchange more, and no row is gone if he refuses
                passed("check")
            first, prepared = await self._take(lane, model, pool, rows)
            passed("rows")
            start = pack_start(pool.lease_id, first, tracing.pack(tracing.current()), token, request)
            await lane.send(FrameKind.START, start)
            await asyncio.sleep(0)  # lets it out: bob opens his envelope while the first openings are computed
            dtype = fixed_point.ring_dtype(plan.ring_bits)
            share = np.frombuffer(secret.share, dtype=dtype).reshape(rows, plan.input.shared_size)
            rounds, sent = lane.rounds, lane.opening_bytes
            sessions = graph.evaluate_slices(plan, 0, share, prepared, model.weights)
            del prepared  # the sessions let go of what they have used
            transcript = Transcript(pool.check, start)
            started = time.perf_counter()
            outputs = await lane.drive(sessions, transcript, party.online)
            stats.seconds = time.perf_counter() - started
            passed("rounds")
            stats.rounds, stats.opening_bytes = lane.rounds - rounds, lane.opening_bytes - sent
            own = sealed_result(plan, 0, outputs, secret, binding)
            passed("seal")
            answer = memoryview(await lane.expect(FrameKind.RESULT))
            passed("result")
            said, theirs = answer[:TAG_BYTES], bytes(answer[TAG_BYTES:])
            if not transcript.agrees(1, said, theirs):
                raise Problem(ProblemType.OPENINGS_DIFFER)
            lane.in_run = False
        return pack_result(binding.request_id, (own, theirs))

    async def _take(self, lane: Lane, model: Model, pool: Pool, rows: int) -> tuple[int, PreparedRows]:
        """The next rows. Where each is a bundle of its own, bob must have his first: they are too dear to be burnt."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while pool.bundle_rows == 1:
            end = await pool.want(rows)
            await lane.send_json(FrameKind.PING, {model.upload_id: end})
            theirs = _at_bob(await lane.expect_json(FrameKind.STOCK), model)
            if theirs.get("lease") != pool.lease_id or theirs["made"] >= end:
                break
            if time.monotonic() > deadline:
                raise Problem(ProblemType.RANDOMNESS_EXHAUSTED, "bob's is still being prepared")
            await asyncio.sleep(_POLL_SECONDS)
        return await pool.take(rows)

    # Lanes and leases

    def _stock(self, lane: Lane, model: Model) -> int:
        """Rows that are ready for runs over this lane."""
        pool = self._party.pools.get((lane.peer, model.upload_id))
        return pool.stock if pool is not None else 0

    @asynccontextmanager
    async def _lane(self, prefer: Callable[[Lane], int] = lambda _: 0) -> AsyncIterator[Lane]:
        """A lane of one's own for one session of `run_seconds` at most; of those that are idle the one that `prefer`
        ranks highest. It goes back only if the session ended cleanly."""
        metrics = self._party.metrics
        if self._waiting >= self._party.settings.max_waiting:
            raise Problem(ProblemType.OVERLOADED)
        self._waiting += 1
        metrics.waiting.inc()
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
            metrics.waiting.dec()
        lane: Lane | None = None
        clean = False
        try:
            async with asyncio.timeout(self._party.settings.run_seconds):
                if self._idle:
                    lane = max(self._idle, key=prefer)
                    self._idle.remove(lane)
                else:
                    lane = await self._connect()
                try:
                    yield lane
                    clean = True
                except Refused:
                    clean = not lane.in_run
                    raise
                except Problem as problem:
                    if problem.kind is ProblemType.PEER_UNAVAILABLE:
                        await self._end_idle(lane.peer)
                    raise
        except TimeoutError as error:
            raise Problem(ProblemType.PEER_UNAVAILABLE, "the run took too long") from error
        finally:
            self._free.release()
            if lane is not None:
                metrics.session(*lane.counted())
            if lane is not None and clean:
                self._idle.append(lane)
            elif lane is not None:
                await self._end(lane)

    async def _connect(self) -> Lane:
        """To any process of the helper: behind one address there may be several."""
        lane = await call(await self._dial(self._party), self._party.boot)
        self._party.link(lane.peer)
        log().info("peer", peer=lane.peer)
        return lane

    async def _end(self, lane: Lane) -> None:
        self._party.unlink(lane.peer)
        await lane.close()

    async def _end_idle(self, peer: str) -> None:
        """One lane to this peer broke: the others are most likely broken too, and would cost a run each to find out."""
        broken = [lane for lane in self._idle if lane.peer == peer]
        self._idle = [lane for lane in self._idle if lane.peer != peer]
        for lane in broken:
            await self._end(lane)

    async def _lease(self, lane: Lane, model: Model) -> Pool:
        """The model's pool with this peer; a new lease for both if there is none or its provider is gone."""
        key = lane.peer, model.upload_id
        async with self._leasing.setdefault(key, asyncio.Lock()):
            pool = self._party.pools.get(key)
            if pool is not None:
                return pool
            rows = self._party.bundle_rows_for(model.plan)
            grant = await self._party.provider.open_lease(model.upload_id, rows)
            lease = {"upload": model.upload_id, "lease": grant.lease_id, "ticket": grant.ticket}
            try:
                await lane.send_json(FrameKind.LEASE, lease)
                await lane.expect(FrameKind.JOINED)
            except BaseException:
                self._party.end_lease(grant.lease_id)
                raise
            log().info("leased", upload=model.upload_id, lease=grant.lease_id, rows=rows)
            return await self._party.open_pool(lane.peer, model, grant)

    async def _supervise(self) -> None:
        """Once a second: is bob there, and has every model a lease that both still hold, with each peer?"""
        while True:
            try:
                await self._check_leases()
            except Problem as problem:
                said = "" if isinstance(problem, Refused) else problem.detail
                log().warning("not ready", problem=problem.kind.name, detail=said)
            except Exception as error:
                log().error("not ready", where=where(error))
            self._party.arrived.clear()
            with contextlib.suppress(TimeoutError):  # wait_for would lose a cancellation that comes with the event
                async with asyncio.timeout(_PING_SECONDS):
                    await self._party.arrived.wait()

    async def _check_leases(self) -> None:
        """With every peer that there is an idle lane to; without any, with whoever answers."""
        for peer in {lane.peer for lane in self._idle} or {""}:
            await self._check_leases_with(peer)

    async def _check_leases_with(self, peer: str) -> None:
        party = self._party
        async with self._lane(prefer=lambda lane: lane.peer == peer) as lane:
            before = party.pools_with(lane.peer)
            await lane.send_json(FrameKind.PING, {})
            stock = await lane.expect_json(FrameKind.STOCK)
            for model in party.store.all():
                pool, theirs = before.get(model.upload_id), _at_bob(stock, model)
                if pool is not None and _is_stale(pool, theirs):
                    if party.pools.get((lane.peer, model.upload_id)) is pool:
                        await party.drop_pool(lane.peer, model.upload_id)
                elif pool is not None:
                    pool.skip(theirs["gaps"])
                if model.upload_id in stock:  # else bob does not have it, yet or any more
                    await self._lease(lane, model)


def _is_stale(pool: Pool, theirs: dict[str, Any]) -> bool:
    """Whether bob's pool is another one, gets no more rows, or waits for too many that alice has burnt."""
    if theirs.get("lease") != pool.lease_id or theirs.get("lost"):
        return True
    return bool(pool.position - theirs["position"] > pool.spread)


def _at_bob(stock: dict[str, Any], model: Model) -> dict[str, Any]:
    """What STOCK says of a model's pool, complete; {} if bob has none. Raises PEER_UNAVAILABLE for anything else."""
    theirs = stock.get(model.upload_id, {})
    if theirs == {}:
        return {}
    if isinstance(theirs, dict):
        gaps = theirs.get("gaps")
        numbers = [theirs.get("position"), theirs.get("made"), *(gaps if isinstance(gaps, list) else [None])]
        if all(isinstance(number, int) for number in numbers):
            return theirs
    raise garbled("STOCK does not say what is in a pool")
