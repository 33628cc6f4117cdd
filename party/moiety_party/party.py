"""What both parties have: a sealing key, the model store, the provider, and a pool for each served model."""

import asyncio
import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from moiety_party.pool import Pool
from moiety_party.provider import LeaseGrant, Provider
from moiety_party.settings import PartySettings
from moiety_party.store import Model, ModelStore
from moiety_shared.prg import Stream
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.protocols.graph import PreparedRows
from moiety_shared.sealing import PrivateKey
from moiety_shared.service import http

P = ParamSpec("P")
T = TypeVar("T")

INLINE_BYTES = 1 << 20  # more than this is opened or sealed off the event loop
_MAX_BUNDLE_ROWS = 4096


def _step_back() -> None:
    """Preparation yields to predictions: on Linux, niceness is a thread's own."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class Party:
    """Alice or bob, without the role's own part (leader.py, helper.py)."""

    def __init__(self, settings: PartySettings) -> None:
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
        self._http = http.async_client(
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
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.online, lambda: function(*args, **kwargs))

    def bundle_rows_for(self, model: Model) -> int:
        """Rows of a bundle of about `bundle_bytes`: a power of two, so that usual batches divide it."""
        rows = self.settings.bundle_bytes // max(1, graph.bundle_bytes(model.plan, 1))
        return max(1, min(1 << max(rows, 1).bit_length() - 1, _MAX_BUNDLE_ROWS))

    async def open_pool(self, model: Model, grant: LeaseGrant) -> Pool:
        """Start a pool under a new lease; the rows of the old one are thrown away."""
        await self.drop_pool(model.upload_id)

        async def make(number: int) -> PreparedRows:
            corrections = {}
            if self.settings.party == 1:
                length = graph.bundle_bytes(model.plan, grant.rows)
                raw = await self.provider.bundle(grant.lease_id, number, length)
                self.bundle_bytes += length
                self.bundle_rows += grant.rows
                corrections = graph.read_bundle(model.plan, grant.rows, raw)
            return await asyncio.get_running_loop().run_in_executor(
                self._offline,
                graph.prepare,
                model.plan,
                self.settings.party,
                grant.rows,
                Stream(grant.seed, "bundle", number),
                corrections,
                model.weights,
            )

        pool = Pool(grant.lease_id, grant.rows, self.settings.pool_rows, make)
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
