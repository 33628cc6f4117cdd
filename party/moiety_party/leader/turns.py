"""Whose turn it is to run a verified model: one run of it goes on at a time, at all of alice's replicas together.

So only one of them is past its coins, and so is only one of bob's. A replica takes its turn before its run begins: if
each party chose by itself whose coins are next, two runs could wait for one another, past their coins at one party.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from moiety_party.party import Party
from moiety_party.standings import TURN_SECONDS
from moiety_party.store import Model
from moiety_party.verified import PATIENCE_SECONDS, POLL_SECONDS, VerifiedLease
from moiety_shared.problems import Problem, ProblemType


class Turns:
    """Takes this replica's turns. A process that is alone needs none: its queue begins one run at a time."""

    def __init__(self, party: Party) -> None:
        self._party = party

    @asynccontextmanager
    async def turn(self, model: Model, lease: VerifiedLease | None) -> AsyncIterator[None]:
        """While the block runs, no other run of the model is past its coins. A model without a lease for verified runs
        needs no turn.

        Raises Problem OVERLOADED when others take long, CHEATING_DETECTED when the upload has ended.
        """
        if lease is None:
            yield
            return
        async with self._taken(model.upload_id) if self._party.state.shared else contextlib.nullcontext():
            await self._party.checks.settled(model, lease)
            yield

    @asynccontextmanager
    async def _taken(self, upload_id: str) -> AsyncIterator[None]:
        await self._take(upload_id)
        renewing = asyncio.create_task(self._renew(upload_id))
        try:
            yield
        finally:
            renewing.cancel()
            with contextlib.suppress(Problem):  # it is over by itself, a little later
                await asyncio.shield(
                    asyncio.to_thread(self._party.state.standings.release, upload_id, self._party.boot)
                )

    async def _take(self, upload_id: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not await asyncio.to_thread(self._party.state.standings.take, upload_id, self._party.boot):
            if time.monotonic() > until:
                raise Problem(ProblemType.OVERLOADED, "other replicas run this model")
            await asyncio.sleep(POLL_SECONDS)

    async def _renew(self, upload_id: str) -> None:
        while True:
            await asyncio.sleep(TURN_SECONDS / 3)
            with contextlib.suppress(Problem):
                await asyncio.to_thread(self._party.state.standings.renew, upload_id, self._party.boot)
