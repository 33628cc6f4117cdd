"""A party's pools: which exist, how they are opened and dropped, and what is in stock.

A pool belongs to a model and to a pair, one process of alice and one of bob. Where several processes of a party share
an address, each may have lanes to any of the other party's, and has a pool for each of those.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial

from opentelemetry.trace import SpanKind, Tracer

from moiety_party.bundles import prepare_bundle, receive_bundle
from moiety_party.capacity import is_large, pool_rows, run_rows
from moiety_party.metrics import PartyMetrics, Stock
from moiety_party.pool import Pool
from moiety_party.provider import LeaseGrant, Provider
from moiety_party.settings import PartySettings
from moiety_party.store import Model, ModelStore
from moiety_party.verified import VerifiedLease, keyed_model
from moiety_service import memory
from moiety_service.observability import tracing
from moiety_service.observability.logs import log
from moiety_service.observability.metrics import timed
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.preparation import PreparedRows

_ENDING_SECONDS = 2.0  # how long a party that stops waits for the provider to hear that its leases are over
_UNLINKED_SECONDS = 10.0  # how long the pools of a peer without any lane are kept: it may only have lost its lanes


class Pools:
    """Holds the pools, each with the lease that fills it, and counts the lanes to each peer."""

    def __init__(
        self,
        settings: PartySettings,
        store: ModelStore,
        provider: Provider,
        offline: Executor,
        metrics: PartyMetrics,
        tracer: Tracer,
    ) -> None:
        """Bundles are prepared in `offline`."""
        self._settings = settings
        self._store = store
        self._provider = provider
        self._offline = offline
        self._metrics = metrics
        self._tracer = tracer
        self.by_pair: dict[tuple[str, str], Pool] = {}
        """By the peer's boot and the upload."""
        self.fetched_rows = 0
        """Rows that bob has fetched from the provider so far."""
        self.fetched_bytes = 0
        """Their corrections."""
        self._runs = 0  # under way
        self._lanes = Counter[str]()  # open now, by the peer's boot
        self._leaving: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        metrics.watch(self._stocks)

    async def close(self) -> None:
        for task in self._leaving:
            task.cancel()
        for peer, upload_id in list(self.by_pair):
            await self.drop(peer, upload_id)
        if self._ending:
            await asyncio.wait(self._ending, timeout=_ENDING_SECONDS)
        for task in self._ending:
            task.cancel()

    # Which pools there are

    def get(self, peer: str, upload_id: str) -> Pool | None:
        """The pool that this peer shares for this upload."""
        return self.by_pair.get((peer, upload_id))

    def with_peer(self, peer: str) -> dict[str, Pool]:
        """The pools that this peer shares, by upload."""
        return {upload_id: pool for (of, upload_id), pool in self.by_pair.items() if of == peer}

    def of_model(self, upload_id: str) -> list[Pool]:
        """The model's pools, with all peers."""
        return [pool for (_, upload), pool in self.by_pair.items() if upload == upload_id]

    def is_prepared(self, upload_id: str) -> bool:
        """Whether the model has rows here. A process of bob's needs none while no process of alice has a lane to it."""
        unused = self._settings.role == "bob" and not self._lanes
        return unused or any(pool.stock for pool in self.of_model(upload_id))

    async def check_stock(self, upload_ids: Iterable[str]) -> None:
        """Raises Problem RANDOMNESS_EXHAUSTED unless each of these models has rows in stock with some peer; if there
        are no models, PROVIDER_UNAVAILABLE unless the provider answers."""
        stocks = [any(pool.stock for pool in self.of_model(upload_id)) for upload_id in upload_ids]
        if not all(stocks):
            raise Problem(ProblemType.RANDOMNESS_EXHAUSTED)
        if not stocks:
            await self._provider.check()

    def _stocks(self) -> Iterator[Stock]:
        for model in self._store.all():
            if pools := self.of_model(model.upload_id):
                stock, target = sum(pool.stock for pool in pools), sum(pool.target for pool in pools)
                yield Stock(model.manifest.name, model.manifest.version, stock, target)

    # How they come and go

    async def open(self, peer: str, model: Model, grant: LeaseGrant) -> Pool:
        """Open a pool with a peer under a new lease, and throw away the rows of the old one.

        Raises Problem UNKNOWN_MODEL when the model was deleted meanwhile.
        """
        verified = await self._verified(model, grant) if model.plan.verified else None
        self._metrics.failed_checks.labels(model.manifest.name)  # from zero on: an alert needs to see the first one
        self._store.get(model.upload_id)
        pool = Pool(
            grant.lease_id,
            grant.check,
            grant.rows,
            partial(self._prepare, model, grant, verified),
            ticket=grant.ticket,
            target=pool_rows(self._settings, model.plan),
            spread=self._settings.lanes * run_rows(self._settings, model.plan),
            claim_seconds=self._settings.run_seconds / 2,
            failed=lambda problem: self._metrics.bundle_failures.labels(problem).inc(),
            busy=lambda: self._runs > 0,
            alone=is_large(self._settings, model.plan),
            verified=verified,
            prepare=partial(self._prepare_ahead, model, verified) if verified is not None else None,
        )
        # Nothing is awaited between asking the store and this. So whoever deletes the model finds the pool, or no pool
        # is opened.
        old, self.by_pair[peer, model.upload_id] = self.get(peer, model.upload_id), pool
        if old is not None:
            await old.close()
        return pool

    async def _verified(self, model: Model, grant: LeaseGrant) -> VerifiedLease:
        """What a lease's verified runs need. The pools of one model under one key share the most of it."""
        known = (pool.verified.model for pool in self.of_model(model.upload_id) if pool.verified)
        keyed = next((one for one in known if one.key_id == grant.key_id), None)
        if keyed is None:
            keyed = await keyed_model(model, self._settings.party, grant, self._provider, self._offline)
        return VerifiedLease(grant.lease_id, keyed, grant.seed, grant.rows)

    async def _prepare(
        self, model: Model, grant: LeaseGrant, verified: VerifiedLease | None, number: int
    ) -> PreparedRows:
        """Prepare bundle `number` of a lease. alice makes hers from her seed; bob fetches corrections as well."""
        party = self._settings.party
        context = tracing.current()
        span = tracing.begin(self._tracer, "bundle", context if context.is_valid else None, SpanKind.INTERNAL)
        with tracing.doing(span), timed(self._metrics.bundle_seconds):
            if verified is not None:
                prepared = await receive_bundle(verified, party, grant, number, self._provider)
            else:
                if is_large(self._settings, model.plan):
                    await asyncio.get_running_loop().run_in_executor(self._offline, memory.release_freed)
                prepared = await prepare_bundle(model, party, grant, number, self._provider, self._offline)
        self._metrics.bundles.inc()
        if party == 1:
            self.fetched_bytes += grant.rows * model.plan.bundle_row_bytes
            self.fetched_rows += grant.rows
        return prepared

    async def _prepare_ahead(self, model: Model, verified: VerifiedLease, rows: PreparedRows) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._offline, verified.prepare_ahead, model.plan, rows)

    async def drop(self, peer: str, upload_id: str) -> None:
        """Throw away a pool's rows, and end its lease. Does nothing if there is no such pool."""
        old = self.by_pair.pop((peer, upload_id), None)
        if old is not None:
            await old.close()
            self.end_lease(old.lease_id)

    async def drop_model(self, upload_id: str) -> None:
        """Drop the model's pools, with all peers."""
        for peer, upload in list(self.by_pair):
            if upload == upload_id:
                await self.drop(peer, upload)

    def end_lease(self, lease_id: str) -> None:
        """Have the provider wipe the lease's key, soon. A lease of which the provider does not hear ends by its age."""
        task = asyncio.create_task(self._end_lease(lease_id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_lease(self, lease_id: str) -> None:
        try:
            await self._provider.end_lease(lease_id)
        except Problem as problem:
            log().warning("lease not ended", lease=lease_id, problem=problem.kind.name)

    # The runs and lanes that they serve

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a run, so that no pool is refilled beside it while half of its rows are there."""
        self._runs += 1
        try:
            with self._metrics.runs.track_inprogress():
                yield
        finally:
            self._runs -= 1

    def lane_opened(self, peer: str) -> None:
        self._lanes[peer] += 1
        self._metrics.lanes.inc()

    def lane_ended(self, peer: str) -> None:
        """When a peer's last lane ends, its pools are kept a moment longer."""
        self._lanes[peer] -= 1
        self._metrics.lanes.dec()
        if self._lanes[peer] == 0:
            del self._lanes[peer]
            task = asyncio.create_task(self._forget(peer))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _forget(self, peer: str) -> None:
        await asyncio.sleep(_UNLINKED_SECONDS)
        if peer not in self._lanes:
            for upload_id in self.with_peer(peer):
                await self.drop(peer, upload_id)
