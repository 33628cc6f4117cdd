"""What both parties have: a sealing key, the model store, the provider, and a pool for each served model."""

import asyncio
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import httpx

from moiety_party.bundles import prepare_bundle
from moiety_party.masking import read_shares
from moiety_party.pool import Pool
from moiety_party.provider import LeaseGrant, Provider
from moiety_party.settings import PartySettings
from moiety_party.store import Model, ModelStore
from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.graph import PreparedRows
from moiety_shared.ring import Array
from moiety_shared.sealing import PrivateKey
from moiety_shared.service import http
from moiety_shared.wire import unpack_upload, upload_context

P = ParamSpec("P")
T = TypeVar("T")

INLINE_BYTES = 1 << 20  # more than this is opened or sealed off the event loop
_MAX_BUNDLE_ROWS = 4096


def _step_back() -> None:
    """Preparation yields to predictions: on Linux, niceness is a thread's own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class Party:
    """Alice or bob, without the role's own part (leader.py, helper.py)."""

    def __init__(self, settings: PartySettings, provider: httpx.AsyncClient | None = None) -> None:
        """`provider` is the way to the crypto provider, by default the one that the settings name."""
        self.settings = settings
        self.boot = secrets.token_hex(8)
        folder = settings.private_dir()
        self.key = _load_key(folder / "sealing.key")
        self.store = ModelStore(folder)
        self.pools: dict[str, Pool] = {}
        self.bundle_bytes = 0  # received from the provider so far
        self.bundle_rows = 0
        self.online = ThreadPoolExecutor(settings.lanes, "online")
        self._offline = ThreadPoolExecutor(1, "offline", initializer=_step_back)
        self._http = provider or http.async_client(
            settings.provider_url, credential=settings.provider_credential.get_secret_value(), timeout=30
        )
        self.provider = Provider(self._http)

    async def close(self) -> None:
        for pool in self.pools.values():
            await pool.close()
        await self._http.aclose()
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

    async def read_upload(self, upload_id: str, body: bytes | bytearray) -> tuple[Plan, dict[str, Array]]:
        """The plan and this party's weight shares. What was read is let go of before the next copy is made."""
        if upload_id in self.store:
            raise Problem(ProblemType.UPLOAD_CONFLICT)
        plan, envelope = unpack_upload(body)
        context = upload_context(plan, bytes.fromhex(upload_id), self.settings.party)
        raw = await self.work(len(envelope), self.key.open, envelope, context)
        del body, envelope
        return plan, await self.away(read_shares, plan, raw)

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

    async def open_pool(self, model: Model, grant: LeaseGrant) -> Pool:
        """Start a pool under a new lease; the rows of the old one are thrown away."""
        await self.drop_pool(model.upload_id)

        async def make(number: int) -> PreparedRows:
            party = self.settings.party
            prepared = await prepare_bundle(model, party, grant, number, self.provider, self._offline)
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
        )
        self.pools[model.upload_id] = pool
        return pool

    async def drop_pool(self, upload_id: str) -> None:
        old = self.pools.pop(upload_id, None)
        if old is not None:
            await old.close()

    def pool(self, upload_id: str) -> Pool:
        """Raises RANDOMNESS_EXHAUSTED while the model has no lease."""
        if upload_id not in self.pools:
            raise Problem(ProblemType.RANDOMNESS_EXHAUSTED, "no lease yet")
        return self.pools[upload_id]


def _load_key(path: Path) -> PrivateKey:
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(PrivateKey.generate().raw)
    return PrivateKey(path.read_bytes())
