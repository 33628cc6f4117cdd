"""The filler of a pool: it decides when the next bundle is made, and makes a bundle again that it could not get."""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable

from moiety_party.rows import Rows
from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.preparation import PreparedRows

Make = Callable[[int], Awaitable[PreparedRows]]
"""Prepares the bundle of that number."""

_RETRY_SECONDS = 1.0
_QUIET_SECONDS = 0.2
_LOOK_SECONDS = 0.02


class Filler:
    """Adds bundles to a pool's rows until `target` rows are ready, and beyond while somebody waits for more.

    It makes bundles in moments without runs, and at once when half of the target is gone. `alone` says that one row is
    larger than a pool should be: then the filler makes none beside a run, so that two are not in memory. It changes
    `rows` under `changed`, and notifies that of every bundle.
    """

    def __init__(
        self,
        lease_id: str,
        rows: Rows,
        changed: asyncio.Condition,
        make: Make,
        *,
        target: int,
        failed: Callable[[str], None],
        busy: Callable[[], bool],
        alone: bool = False,
    ) -> None:
        """The filler calls `failed` with the problem's name when it cannot get a bundle. `busy` says whether a run is
        under way."""
        self.lost = False  # the provider forgot the lease: no more bundles will come
        self.failing = False  # the filler could not get the last bundle, and asks for it again
        self._lease_id = lease_id
        self._rows = rows
        self._changed = changed
        self._make = make
        self._target = target
        self._failed = failed
        self._busy = busy
        self._alone = alone
        self._wanted = 0  # somebody waits for the rows below this one
        self._wanting: contextvars.Context | None = None  # the context of whoever waits, for traces
        self._last_use = 0.0
        self._task = asyncio.create_task(self._fill(), context=contextvars.Context())  # part of nobody's trace

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def full(self) -> bool:
        return self._rows.ahead + self._rows.bundle_rows > self._target and not self._short

    @property
    def _short(self) -> bool:
        return self._rows.made < self._wanted

    @property
    def quiet(self) -> bool:
        """Whether now is a moment without runs."""
        return not self._busy() and time.monotonic() >= self._last_use + _QUIET_SECONDS

    def want_until(self, end: int) -> None:
        """Have the rows below `end` made. The caller holds `changed`."""
        if end > self._wanted:
            self._wanted = end
            self._wanting = contextvars.copy_context()
            self._changed.notify_all()

    def used(self) -> None:
        """A run takes rows now."""
        self._last_use = time.monotonic()

    async def _fill(self) -> None:
        while not self.lost:
            async with self._changed:
                await self._changed.wait_for(lambda: not self.full)
            while not self.full and not self.lost:
                await self._quiet()
                await tracing.on_behalf(self._wanting if self._short else None, self._add_bundle())

    async def _quiet(self) -> None:
        """Return in a moment without runs, or as soon as half of the rows are gone, or somebody waits for more.

        A run of a large model takes longer than the pause between two small ones: it counts until it has ended.
        """
        while (self._alone or self._rows.ahead > self._target // 2) and not self._short:
            if self.quiet:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _add_bundle(self) -> None:
        number = self._rows.bundles_made
        prepared: PreparedRows | None = None
        gone = False  # issued before, to an attempt that broke off or arrived changed: it will never come again
        pause = False
        try:
            prepared = await self._make(number)
        except Problem as problem:
            self.lost = problem.kind is ProblemType.UNKNOWN_LEASE
            gone = problem.kind in (ProblemType.ALREADY_ISSUED, ProblemType.MALFORMED)
            pause = problem.kind is not ProblemType.ALREADY_ISSUED and not self.lost
            log().warning("bundle failed", lease=self._lease_id, bundle=number, problem=problem.kind.name)
            self._failed(problem.kind.name)
        except Exception as error:
            pause = True
            log().error("bundle failed", lease=self._lease_id, bundle=number, where=where(error))
            self._failed(ProblemType.INTERNAL.name)
        async with self._changed:
            if prepared is not None:
                self._rows.add(prepared)
            elif gone:
                self._rows.give_up()
            self.failing = prepared is None and not gone
            self._rows.pass_gaps()
            self._changed.notify_all()
        if pause:
            await asyncio.sleep(_RETRY_SECONDS)
