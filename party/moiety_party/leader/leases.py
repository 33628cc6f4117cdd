"""alice's leases: each model's lease, and so its pool, with each of bob's processes."""

import asyncio
import contextlib
from typing import Any
from weakref import WeakValueDictionary

from moiety_party.capacity import bundle_rows
from moiety_party.lane import Lane, Refused, garbled
from moiety_party.leader.lanes import Lanes
from moiety_party.party import Party
from moiety_party.pool import Pool
from moiety_party.store import Model
from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_shared.messages.wire import FrameKind
from moiety_shared.problems import Problem, ProblemType

_CHECK_SECONDS = 1.0


class Leases:
    """Opens leases, and once a second checks that alice and bob still hold the same ones."""

    def __init__(self, party: Party, lanes: Lanes) -> None:
        self._party = party
        self._lanes = lanes
        # By the peer's boot and the upload. A lock exists while somebody opens this lease or waits for it.
        self._opening = WeakValueDictionary[tuple[str, str], asyncio.Lock]()
        self._supervisor = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        self._supervisor.cancel()
        await asyncio.gather(self._supervisor, return_exceptions=True)

    def stock(self, lane: Lane, model: Model) -> int:
        """How many of the model's rows are ready for runs over this lane, as far as alice knows."""
        pool = self._party.pools.get(lane.peer, model.upload_id)
        return pool.ready if pool is not None else 0

    async def has(self, lane: Lane, model: Model, pool: Pool, rows: int) -> bool:
        """Ask bob whether he has the pool's next rows too. If either party lacks some, it makes them.

        Raises Refused or another Problem when they will never come.
        """
        end = await pool.want(rows)
        await lane.send_json(FrameKind.PING, {model.upload_id: end, **tracing.outgoing()})
        theirs = stock_at_bob(await lane.expect_json(FrameKind.STOCK), model)
        if theirs.get("lease") != pool.lease_id:
            raise Refused(ProblemType.ROW_USED, "bob does not hold its lease")
        if theirs["made"] < end and theirs.get("lost"):
            raise Refused(ProblemType.RANDOMNESS_EXHAUSTED)
        pool.heard(theirs["made"])
        return pool.has(rows)

    async def pool(self, lane: Lane, model: Model) -> Pool:
        """The model's pool with the peer at the end of this lane, under a new lease if there is no pool yet.

        Raises a Problem when the provider opens no lease or bob does not join it.
        """
        key = lane.peer, model.upload_id
        async with self._opening.setdefault(key, asyncio.Lock()):
            pool = self._party.pools.get(*key)
            if pool is not None:
                return pool
            rows = bundle_rows(self._party.settings, model.plan)
            grant = await self._party.provider.open_lease(model.upload_id, rows)
            self._party.checks.check_key(model, grant)
            lease = {"upload": model.upload_id, "lease": grant.lease_id, "ticket": grant.ticket}
            try:
                await lane.send_json(FrameKind.LEASE, lease)
                await lane.expect(FrameKind.JOINED)
            except BaseException:
                self._party.pools.end_lease(grant.lease_id)
                raise
            log().info("leased", upload=model.upload_id, lease=grant.lease_id, rows=rows)
            return await self._party.pools.open(lane.peer, model, grant)

    async def check(self) -> None:
        """Check the leases with every peer to which an idle lane leads; with whichever answers if none is idle.

        Drops a pool that bob no longer shares, and opens a lease for each model that bob has and that has none. Raises
        a Problem when bob or the provider fails.
        """
        for peer in self._lanes.idle_peers or {""}:
            await self._check_with(peer)

    async def _check_with(self, peer: str) -> None:
        party = self._party
        async with self._lanes.lend(prefer=lambda lane: lane.peer == peer) as lane:
            before = party.pools.with_peer(lane.peer)
            await lane.send_json(FrameKind.PING, {})
            stock = await lane.expect_json(FrameKind.STOCK)
            for model in party.store.all():
                pool, theirs = before.get(model.upload_id), stock_at_bob(stock, model)
                if pool is not None and _is_stale(pool, theirs):
                    if party.pools.get(lane.peer, model.upload_id) is pool:
                        await party.pools.drop(lane.peer, model.upload_id)
                elif pool is not None:
                    pool.skip(theirs["gaps"])
                    pool.heard(theirs["made"])
                if model.upload_id in stock:  # otherwise bob does not have the model, yet or any more
                    await self.pool(lane, model)

    async def _supervise(self) -> None:
        """Check once a second, and at once when a model arrives. A check that fails is logged."""
        while True:
            try:
                await self.check()
            except Problem as problem:
                said = "" if isinstance(problem, Refused) else problem.detail
                log().warning("not ready", problem=problem.kind.name, detail=said)
            except Exception as error:
                log().error("not ready", where=where(error))
            self._party.models.arrived.clear()
            with contextlib.suppress(TimeoutError):  # wait_for would lose a cancellation that comes with the event
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._party.models.arrived.wait()


def _is_stale(pool: Pool, theirs: dict[str, Any]) -> bool:
    """Whether bob's pool has another lease, gets no more rows, or waits for too many rows that alice has burnt."""
    if theirs.get("lease") != pool.lease_id or theirs.get("lost"):
        return True
    return bool(pool.position - theirs["position"] > pool.spread)


def stock_at_bob(stock: dict[str, Any], model: Model) -> dict[str, Any]:
    """What bob's STOCK says of a model's pool, with every member that alice reads; {} if bob has no pool.

    Raises Problem PEER_UNAVAILABLE when members are missing or of another type.
    """
    theirs = stock.get(model.upload_id, {})
    if theirs == {}:
        return {}
    if isinstance(theirs, dict):
        gaps = theirs.get("gaps")
        numbers = [theirs.get("position"), theirs.get("made"), *(gaps if isinstance(gaps, list) else [None])]
        if all(isinstance(number, int) for number in numbers):
            return theirs
    raise garbled("bob's STOCK frame does not describe his pool")
