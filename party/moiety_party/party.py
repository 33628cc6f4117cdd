"""What both parties have: their secrets, the model store, the provider, and the pools.

A pool belongs to a pair, one process of alice and one of bob, and to a model: where several processes of a party share
an address, each may be linked with any of the other's, and has a pool for each of those.
"""

import asyncio
import os
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import httpx
from opentelemetry.trace import SpanKind, Tracer
from prometheus_client import CollectorRegistry

from moiety_party.admission import Admission
from moiety_party.arriving import Body, read_head, read_weights
from moiety_party.bundles import prepare_bundle
from moiety_party.metrics import PartyMetrics, Stock
from moiety_party.objects import objects
from moiety_party.pool import Pool
from moiety_party.provider import LeaseGrant, Provider
from moiety_party.replicas import Replicas
from moiety_party.settings import PartySettings
from moiety_party.state import State
from moiety_party.store import Model, ModelStore
from moiety_service.database import location
from moiety_service.http import clients
from moiety_service.observability import tracing
from moiety_service.observability.audit import Audit
from moiety_service.observability.logs import log
from moiety_service.observability.metrics import timed
from moiety_service.security.identity import Identity
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.graph import PreparedRows

P = ParamSpec("P")
T = TypeVar("T")

INLINE_BYTES = 1 << 20  # more than this is opened or sealed off the event loop
_MAX_BUNDLE_ROWS = 4096
_ENDING_SECONDS = 2.0  # so long a party that stops waits for the provider to hear that its leases are over
_UNLINKED_SECONDS = 10.0  # so long the pools of a peer without any lane are kept: it may only have lost its lanes


def _step_back() -> None:
    """Preparation yields to predictions: on Linux, niceness is a thread's own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class Party:
    """Alice or bob, without the role's own part (leader.py, helper.py)."""

    def __init__(
        self,
        settings: PartySettings,
        identity: Identity,
        provider: httpx.AsyncClient | None = None,
        metrics: PartyMetrics | None = None,
        tracer: Tracer = tracing.NOBODY,
    ) -> None:
        """`provider` is the way to the crypto provider, by default the one that the settings name."""
        self.settings = settings
        self.identity = identity
        self.metrics = metrics or PartyMetrics(settings.role, CollectorRegistry())
        self.tracer = tracer
        self.boot = secrets.token_hex(8)
        folder = settings.private_dir()
        self.state = State(location(settings, settings.role, "state.sqlite"), settings.role)
        known = self.state.refresh()
        deleted = {upload_id for upload_id, gone in known.items() if gone}
        self.store = ModelStore(objects(settings.store_url, folder), identity.storage_key, deleted)
        for model in self.store.all():
            if model.upload_id not in known:  # of release 0.1.0, or put by a process that ended before it said so
                self.state.stored(model.upload_id)
        self.replicas = Replicas(self.boot, self.state, self.store, self.drop_pools_of)
        self.admission = Admission(self.state)
        self.audit = Audit(folder / "audit.jsonl")
        self.pools: dict[tuple[str, str], Pool] = {}  # by the peer's boot and upload
        self.arrived = asyncio.Event()  # a model did
        self._lanes = Counter[str]()  # by the peer's boot
        self._leaving: set[asyncio.Task[None]] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self.bundle_bytes = 0  # received from the provider so far
        self.bundle_rows = 0
        self.online = ThreadPoolExecutor(settings.lanes, "online")
        self._offline = ThreadPoolExecutor(1, "offline", initializer=_step_back)
        self.tls = clients.tls_context(identity.ca_file)
        self._http = provider or clients.async_client(
            settings.provider_url,
            credential=identity.credential("crypto_provider"),
            timeout=30,
            ca=identity.ca_file,
        )
        self.provider = Provider(self._http, self._provider_bytes)
        self.metrics.watch(self._stocks)
        self._runs = 0

    async def close(self) -> None:
        await self.replicas.close()
        for task in self._leaving:
            task.cancel()
        for peer, upload_id in list(self.pools):
            await self.drop_pool(peer, upload_id)
        if self._ending:
            await asyncio.wait(self._ending, timeout=_ENDING_SECONDS)
        for task in self._ending:
            task.cancel()
        await self._http.aclose()
        await self.admission.close()
        self.state.close()
        self.audit.close()
        self.online.shutdown(wait=False, cancel_futures=True)
        self._offline.shutdown(wait=False, cancel_futures=True)

    async def work(self, size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it here if `size` bytes are few, else in a thread."""
        if size <= INLINE_BYTES:
            return function(*args, **kwargs)
        return await self.away(function, *args, **kwargs)

    async def away(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.online, lambda: function(*args, **kwargs))

    async def receive(self, upload_id: str, source: AsyncIterator[bytes], length: int) -> None:
        """Take the owner's upload: checked, known to the provider, and durable when this returns.

        Raises UPLOAD_CONFLICT for an id that was used before, also if it is deleted while it arrives.
        """
        if upload_id in self.store:
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        body = Body(source, length)
        head = await read_head(body, upload_id, self.settings.party)
        upload = await read_weights(body, head, self.identity.keyring, self.away)
        await self.provider.register(upload_id, head.plan, head.dealer_envelope)
        await self.away(self.store.put, upload)
        if not await self.away(self.state.stored, upload_id):
            await self._wipe(upload_id)
            raise Problem(ProblemType.UPLOAD_CONFLICT, "it was deleted before it had arrived")
        self.arrived.set()

    async def delete_model(self, upload_id: str) -> None:
        """Wipe a model, its randomness, and what the provider keeps of it. May be repeated."""
        await self.away(self.state.forget, upload_id)  # first: from now on no replica reads it again
        await self._wipe(upload_id)

    async def _wipe(self, upload_id: str) -> None:
        self.store.drop(upload_id)
        await self.drop_pools_of(upload_id)
        await self.away(self.store.delete, upload_id)
        await self.provider.forget_upload(upload_id)

    def max_rows(self, plan: Plan) -> int:
        """Inputs of one request: all of its rows are in memory."""
        return min(self.settings.max_rows, self._affordable_rows(plan))

    def bundle_rows_for(self, plan: Plan) -> int:
        """Rows of a bundle of about `bundle_bytes`: a power of two, so that usual batches divide it, and two bundles at
        least in a pool of more than one row."""
        rows = min(self.settings.bundle_bytes // max(plan.bundle_row_bytes, 1), self._pool_rows(plan) // 2)
        return min(1 << max(rows, 1).bit_length() - 1, _MAX_BUNDLE_ROWS)

    def _pool_rows(self, plan: Plan) -> int:
        return min(self.settings.pool_rows, self._affordable_rows(plan))

    def _affordable_rows(self, plan: Plan) -> int:
        return max(self.settings.pool_bytes // max(plan.bundle_row_bytes, 1), 1)

    def link(self, peer: str) -> None:
        """A lane to this peer is open now."""
        self._lanes[peer] += 1
        self.metrics.lanes.inc()

    def unlink(self, peer: str) -> None:
        """It is closed. The pools of a peer whose last lane ended are kept a moment longer."""
        self._lanes[peer] -= 1
        self.metrics.lanes.dec()
        if self._lanes[peer] == 0:
            del self._lanes[peer]
            task = asyncio.create_task(self._forget(peer))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _forget(self, peer: str) -> None:
        await asyncio.sleep(_UNLINKED_SECONDS)
        if peer not in self._lanes:
            for upload_id in self.pools_with(peer):
                await self.drop_pool(peer, upload_id)

    async def open_pool(self, peer: str, model: Model, grant: LeaseGrant) -> Pool:
        """Start a pool with a peer under a new lease; the rows of the old one are thrown away.

        Raises UNKNOWN_MODEL when the model was deleted meanwhile.
        """
        self.store.get(model.upload_id)

        async def make(number: int) -> PreparedRows:
            party = self.settings.party
            context = tracing.current()
            span = tracing.begin(self.tracer, "bundle", context if context.is_valid else None, SpanKind.INTERNAL)
            with tracing.doing(span), timed(self.metrics.bundle_seconds):
                prepared = await prepare_bundle(model, party, grant, number, self.provider, self._offline)
            self.metrics.bundles.inc()
            if party == 1:
                self.bundle_bytes += grant.rows * model.plan.bundle_row_bytes
                self.bundle_rows += grant.rows
            return prepared

        pool = Pool(
            grant.lease_id,
            grant.check,
            grant.rows,
            make,
            target=self._pool_rows(model.plan),
            spread=self.settings.lanes * self.max_rows(model.plan),
            claim_seconds=self.settings.run_seconds / 2,
            failed=lambda problem: self.metrics.bundle_failures.labels(problem).inc(),
            busy=lambda: self._runs > 0,
        )
        # Nothing is waited for since the store was asked: who deletes the model finds this pool, or no pool comes up.
        old, self.pools[peer, model.upload_id] = self.pools.get((peer, model.upload_id)), pool
        if old is not None:
            await old.close()
        return pool

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a run, so that pools are not refilled beside it while they need not be."""
        self._runs += 1
        try:
            with self.metrics.runs.track_inprogress():
                yield
        finally:
            self._runs -= 1

    async def drop_pool(self, peer: str, upload_id: str) -> None:
        """Its rows are thrown away, and its lease is over."""
        old = self.pools.pop((peer, upload_id), None)
        if old is not None:
            await old.close()
            self.end_lease(old.lease_id)

    def end_lease(self, lease_id: str) -> None:
        """Have the provider wipe the lease's key, soon: if it does not hear of it, the lease ends by its age."""
        task = asyncio.create_task(self._end_lease(lease_id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_lease(self, lease_id: str) -> None:
        try:
            await self.provider.end_lease(lease_id)
        except Problem as problem:
            log().warning("lease not ended", lease=lease_id, problem=problem.kind.name)

    async def drop_pools_of(self, upload_id: str) -> None:
        """A model's, with all peers."""
        for peer, upload in list(self.pools):
            if upload == upload_id:
                await self.drop_pool(peer, upload)

    def pools_with(self, peer: str) -> dict[str, Pool]:
        """The pools that one peer shares, by upload."""
        return {upload_id: pool for (of, upload_id), pool in self.pools.items() if of == peer}

    def is_prepared(self, upload_id: str) -> bool:
        """Whether a model has rows here. A replica of bob's needs none while no replica of alice has a lane to it."""
        unused = self.settings.role == "bob" and not self._lanes
        return unused or any(pool.stock for pool in self.pools_of(upload_id))

    def pools_of(self, upload_id: str) -> list[Pool]:
        """A model's pools, with all peers."""
        return [pool for (_, upload), pool in self.pools.items() if upload == upload_id]

    async def check_stock(self, upload_ids: Iterable[str]) -> None:
        """Raises a Problem unless each of these models has rows in stock with some peer; of no models, unless the
        provider answers."""
        stocks = [any(pool.stock for pool in self.pools_of(upload_id)) for upload_id in upload_ids]
        if not all(stocks):
            raise Problem(ProblemType.RANDOMNESS_EXHAUSTED)
        if not stocks:
            await self.provider.check()

    def _stocks(self) -> Iterator[Stock]:
        for model in self.store.all():
            if pools := self.pools_of(model.upload_id):
                stock, target = sum(pool.stock for pool in pools), sum(pool.target for pool in pools)
                yield Stock(model.manifest.name, model.manifest.version, stock, target)

    def _provider_bytes(self, sent: int, received: int) -> None:
        self.metrics.link_bytes.labels("provider", "out").inc(sent)
        self.metrics.link_bytes.labels("provider", "in").inc(received)
