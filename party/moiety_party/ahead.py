"""Prepares the rows of verified runs before runs take them.

A pool keeps such rows as they were dealt, because prepared ones are about three times as large. Those of the next
bundles are prepared too, and lie beside them. So a row is used once for the same reason as ever: it leaves the pool
once, and what was prepared of it goes with it.
"""

import asyncio
from collections.abc import Awaitable, Callable

from moiety_party.rows import Rows
from moiety_party.verified import is_prepared
from moiety_service.observability.logs import log, where
from moiety_shared.protocols.preparation import PreparedRows

Prepare = Callable[[PreparedRows], Awaitable[None]]
"""Prepares the rows of a bundle, and leaves them beside what was dealt."""

BUNDLES = 4
"""So many of the next bundles are kept prepared."""
_LOOK_SECONDS = 0.02


class Ahead:
    """Keeps the next bundles of a pool prepared.

    It prepares a bundle in a moment without runs, and at once when half of these bundles are not prepared. It waits
    for `changed`, which the pool notifies whenever `rows` change. It ends when a bundle cannot be prepared.
    """

    def __init__(self, rows: Rows, changed: asyncio.Condition, prepare: Prepare, quiet: Callable[[], bool]) -> None:
        """`quiet` says whether now is a moment without runs."""
        self._rows, self._changed, self._prepare, self._quiet = rows, changed, prepare, quiet
        self._task = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def done(self) -> bool:
        """Whether no more bundles are prepared for now: the next ones are, or one could not be."""
        return self._task.done() or not self._missing()

    def _missing(self) -> list[PreparedRows]:
        """Those of the next bundles that are not prepared, the next one first."""
        return [rows for rows in self._rows.next_bundles(BUNDLES) if not is_prepared(rows)]

    async def _go_on(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(self._missing)
            await self._moment()
            for rows in self._missing()[:1]:
                try:
                    await self._prepare(rows)
                except Exception as error:  # the run that takes these rows prepares them, and tells whoever asked
                    log().error("not prepared", where=where(error))
                    return

    async def _moment(self) -> None:
        """Return in a moment without runs, or as soon as half of the next bundles are not prepared."""
        while len(self._missing()) < BUNDLES // 2:
            if self._quiet():
                return
            await asyncio.sleep(_LOOK_SECONDS)
