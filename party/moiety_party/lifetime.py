"""A party's process, from its start to its end. alice's app and bob's share it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

import torch
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry

from moiety_party.metrics import PartyMetrics
from moiety_party.party import Party
from moiety_party.settings import PartySettings
from moiety_service import memory
from moiety_service.security.identity import Identity
from moiety_shared.problems import Problem, ProblemType


class PartyRole(Protocol):
    """Leader or Helper."""

    async def ready(self) -> None: ...

    async def close(self) -> None: ...


R = TypeVar("R", bound=PartyRole)


def create_party(settings: PartySettings, identity: Identity, tracer: Tracer) -> Party:
    """The one party of this process."""
    torch.set_num_threads(1)  # a machine of two cores carries several processes
    memory.keep_freed_pages()
    metrics = PartyMetrics(settings.role, CollectorRegistry())
    metrics.certificate(identity, settings)
    return Party(settings, identity, metrics=metrics, tracer=tracer)


class Lifetime(Generic[R]):
    """Starts a party's role when the app starts, and closes the role and the party when the app stops."""

    def __init__(self, party: Party, start: Callable[[], R]) -> None:
        self._party = party
        self._start = start
        self._role: R | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._role = self._start()
        try:
            async with self._party.identity.keyring.wiping():
                yield
        finally:
            await self._role.close()
            await self._party.close()

    @property
    def role(self) -> R:
        """Raises Problem OVERLOADED before the app has started."""
        if self._role is None:
            raise Problem(ProblemType.OVERLOADED, "starting")
        return self._role

    async def ready(self) -> None:
        """Raises a Problem while the role cannot do its work."""
        await self.role.ready()
