"""Follows what the other replicas of this party do: models that come and go, tokens that are revoked."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from moiety_party.state import CLAIM_SECONDS, State
from moiety_party.store import Model, ModelStore, UnreadableModel
from moiety_service.observability.logs import log, where
from moiety_shared.problems import Problem

LOOK_SECONDS = 1.0
"""How often a replica looks into the database."""
_LEAST_SECONDS = 0.25  # between two looks, however many ask for models that nobody knows
_ALIVE_SECONDS = CLAIM_SECONDS / 3


class Replicas:
    """Looks into the party's database once a second, and when somebody asks for a model that is not known here."""

    def __init__(
        self, replica: str, state: State, store: ModelStore, on_deleted: Callable[[str], Awaitable[None]]
    ) -> None:
        """`replica` names this process. `on_deleted` is called with the upload of each model that others deleted."""
        self._replica, self._state, self._store, self._on_deleted = replica, state, store, on_deleted
        self._unreadable: set[str] = set()
        self._looking = asyncio.Lock()
        self._began = 0.0
        self._problem: Problem | None = None
        self._said_alive = 0.0
        self._following: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def model(self, upload_id: str) -> Model:
        """A model, even if it reached another replica a moment ago.

        Raises Problem UNKNOWN_MODEL, UNSUPPORTED_VERSION for a model that another release stored, or STATE_UNAVAILABLE.
        """
        if upload_id not in self._store:
            await self.look()
        return self._store.get(upload_id)

    async def look(self) -> None:
        """Learn what was done before this call. All who wait share one look.

        Raises Problem STATE_UNAVAILABLE when the database does not answer.
        """
        asked = time.monotonic()
        async with self._looking:
            if self._began < asked:
                await asyncio.sleep(self._began + _LEAST_SECONDS - asked)
                self._began, self._problem = time.monotonic(), None
                try:
                    await self._look()
                except Problem as problem:
                    self._problem = problem
            if self._problem is not None:
                raise Problem(self._problem.kind) from self._problem

    async def _look(self) -> None:
        for upload_id, deleted in (await asyncio.to_thread(self._state.refresh)).items():
            if deleted and upload_id in self._store:
                self._store.drop(upload_id)
                await self._on_deleted(upload_id)
                log().info("deleted elsewhere", upload=upload_id)
            elif not deleted and upload_id not in self._store and upload_id not in self._unreadable:
                await self._load(upload_id)

    async def _load(self, upload_id: str) -> None:
        try:
            if await asyncio.to_thread(self._store.load, upload_id):
                log().info("uploaded elsewhere", upload=upload_id)
        except UnreadableModel:
            self._unreadable.add(upload_id)
            log().error("unreadable", upload=upload_id)

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
                if self._state.shared and time.monotonic() > self._said_alive + _ALIVE_SECONDS:
                    await asyncio.to_thread(self._state.alive, self._replica)
                    self._said_alive = time.monotonic()
            except Problem as problem:
                log().warning("not fresh", problem=problem.kind.name)
            except Exception as error:
                log().error("not fresh", where=where(error))
            await asyncio.sleep(LOOK_SECONDS)
