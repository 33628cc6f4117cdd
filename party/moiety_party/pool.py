"""The pool: prepared rows of randomness for one model under one lease, each handed out once.

Rows are numbered through: row n is row n % R of bundle n // R. bob's pool is filled by bundles from the provider,
alice's from her seed, in the same order. alice `take`s the next rows and names the first; bob `claim`s the same ones,
or `burn`s them when he refuses the run. Whichever it is, a row leaves the pool for good: there is no way to put it
back, so a run that fails has burnt its rows at both.
"""

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.graph import PreparedRows, cut, stack

Make = Callable[[int], Awaitable[PreparedRows]]
"""Prepares the bundle of that number."""

_RETRY_SECONDS = 1.0
_WAIT_SECONDS = 5.0  # for the next rows: whoever asked can come again
_QUIET_SECONDS = 0.2
_LOOK_SECONDS = 0.02


@dataclass
class _Bundle:
    prepared: PreparedRows
    unused: npt.NDArray[np.bool_]


class Pool:
    """Keeps up to `target` rows ready, in bundles of `bundle_rows`; refills in quiet moments, and always below half.

    It grows beyond the target while somebody waits for more. Runs side by side name rows at most `spread` apart. A
    claim waits `claim_seconds` at most: the leader's rows are burnt if it fails.
    """

    def __init__(
        self,
        lease_id: str,
        check: bytes,
        bundle_rows: int,
        make: Make,
        *,
        target: int,
        spread: int,
        claim_seconds: float,
        failed: Callable[[str], None] = lambda _: None,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """`failed` is told the problem's name when a bundle cannot be had; `busy` says whether a run is under way."""
        self.lease_id = lease_id
        self.check = check  # the key of the lease's transcripts
        self.bundle_rows = bundle_rows
        self.lost = False  # the provider forgot the lease: what is left can be used, no more will come
        self.gaps: list[int] = []  # bundles that were issued but did not arrive
        self.target = max(target, bundle_rows)
        self.spread = max(self.target, spread)
        self._claim_seconds = claim_seconds
        self._make = make
        self._failed = failed
        self._busy = busy
        self._bundles: dict[int, _Bundle] = {}
        self._burnt: dict[int, npt.NDArray[np.bool_]] = {}  # rows of bundles that are still to come, by bundle
        self._position = 0  # only rises
        self._made = 0  # bundles made or given up so far
        self._wanted = 0  # somebody waits for the rows below this one
        self._wanting: contextvars.Context | None = None  # whose work that is
        self._failing = False  # the last bundle could not be had, and is asked for again
        self._last_use = 0.0
        self._changed = asyncio.Condition()
        self._filler = asyncio.create_task(self._fill(), context=contextvars.Context())  # nobody's work

    @property
    def stock(self) -> int:
        """Rows ready at or after the position."""
        first = self._position // self.bundle_rows
        return sum(int(b.unused.sum()) for number, b in self._bundles.items() if number >= first)

    @property
    def position(self) -> int:
        """No row below it is handed out in order again."""
        return self._position

    @property
    def made(self) -> int:
        """Rows below this one were made, or given up."""
        return self._made * self.bundle_rows

    @property
    def full(self) -> bool:
        return self._ahead + self.bundle_rows > self.target and not self._short

    @property
    def _ahead(self) -> int:
        return self.made - self._position

    @property
    def _short(self) -> bool:
        return self.made < self._wanted

    async def close(self) -> None:
        self._filler.cancel()
        await asyncio.gather(self._filler, return_exceptions=True)
        async with self._changed:
            self.lost = True
            self._bundles.clear()
            self._changed.notify_all()

    async def take(self, count: int) -> tuple[int, PreparedRows]:
        """The next `count` rows and the number of the first. Waits a little for the filler.

        Raises RANDOMNESS_EXHAUSTED when they do not come.
        """
        async with self._changed:
            await self._wait_for(lambda: self._next_run(count) is not None or self._want(count), _WAIT_SECONDS)
            first = self._next_run(count)
            if first is None:
                raise Problem(ProblemType.RANDOMNESS_EXHAUSTED)
            return first, self._remove(first, count)

    async def want(self, count: int) -> int:
        """Have the next `count` rows made. Returns where they end."""
        async with self._changed:
            self._want(count)
            return self._end(count)

    async def want_until(self, end: int) -> None:
        """Have the rows made that the leader is about to name."""
        async with self._changed:
            if end <= self._position + 2 * self.spread:
                self._want_until(end)

    async def claim(self, first: int, count: int) -> PreparedRows:
        """The rows that the leader named. Raises ROW_USED, and removes nothing, unless all are here and unused;
        RANDOMNESS_EXHAUSTED when they are still to be made and do not come."""
        async with self._changed:
            end = first + count
            if first < 0 or count < 1 or end > self._position + 2 * self.spread:
                raise Problem(ProblemType.ROW_USED)
            self._want_until(end)
            await self._wait_for(lambda: self.made >= end, _WAIT_SECONDS)
            await self._wait_for(lambda: self.made >= end or self._failing, self._claim_seconds)
            if self.made < end:
                raise Problem(ProblemType.RANDOMNESS_EXHAUSTED)
            if not all(self._available(*piece) for piece in self._pieces(first, count)):
                raise Problem(ProblemType.ROW_USED)
            return self._remove(first, count)

    async def burn(self, first: int, count: int) -> None:
        """The leader named these rows and they will not be used: they are as gone here as they are there, made or not.

        Rows that are further ahead than any run of an honest leader are left alone.
        """
        async with self._changed:
            if first < 0 or count < 1 or first + count > min(self._position, self.made) + 2 * self.spread:
                return
            for number, start, stop in self._pieces(first, count):
                if number >= self._made:
                    self._burnt.setdefault(number, np.zeros(self.bundle_rows, dtype=np.bool_))[start:stop] = True
                elif number in self._bundles:
                    self._bundles[number].unused[start:stop] = False
            self._pass(first + count)

    def skip(self, bundles: list[int]) -> None:
        """Drop bundles that the other party never got."""
        for number in bundles:
            self._bundles.pop(number, None)
        self._pass_gaps()

    def _want(self, count: int) -> bool:
        """False, so that it can stand in a condition."""
        self._want_until(self._end(count))
        return False

    def _want_until(self, end: int) -> None:
        if end > self._wanted:
            self._wanted = end
            self._wanting = contextvars.copy_context()
            self._changed.notify_all()

    def _end(self, count: int) -> int:
        """Where the next `count` rows end, if they begin at or after the last gap."""
        number, oldest = self._made, self._position // self.bundle_rows
        while number > oldest and number - 1 in self._bundles:
            number -= 1
        return max(number * self.bundle_rows, self._position) + count

    def _pass_gaps(self) -> None:
        """Move the position over bundles that never came, so that others are made in their place."""
        while self._position < self.made and self._position // self.bundle_rows not in self._bundles:
            self._position = (self._position // self.bundle_rows + 1) * self.bundle_rows

    async def _wait_for(self, condition: Callable[[], bool], seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait_for(lambda: condition() or self.lost)

    def _pieces(self, first: int, count: int) -> list[tuple[int, int, int]]:
        """The rows by bundle: (bundle, start, stop)."""
        size, end = self.bundle_rows, first + count
        return [
            (number, max(first - number * size, 0), min(end - number * size, size))
            for number in range(first // size, (end - 1) // size + 1)
        ]

    def _available(self, number: int, start: int, stop: int) -> bool:
        return number in self._bundles and bool(self._bundles[number].unused[start:stop].all())

    def _next_run(self, count: int) -> int | None:
        """Where the next `count` rows without a gap begin. A gap is a bundle that could not be had."""
        starts = [self._position, *(n * self.bundle_rows for n in self._bundles)]
        for first in sorted(start for start in starts if start >= self._position):
            if all(self._available(*piece) for piece in self._pieces(first, count)):
                return first
        return None

    def _remove(self, first: int, count: int) -> PreparedRows:
        self._last_use = time.monotonic()
        parts = []
        for number, start, stop in self._pieces(first, count):
            bundle = self._bundles[number]
            bundle.unused[start:stop] = False
            parts.append(cut(bundle.prepared, start, stop))
        self._pass(first + count)
        return stack(parts)

    def _pass(self, end: int) -> None:
        """The rows below this one were named."""
        self._position = max(self._position, end)
        # Runs on other lanes may still name rows a little below the position; what is further back was lost.
        oldest = self._position - self.spread
        for number in list(self._bundles):
            if not self._bundles[number].unused.any() or (number + 1) * self.bundle_rows <= oldest:
                del self._bundles[number]
        self._changed.notify_all()

    async def _fill(self) -> None:
        while not self.lost:
            async with self._changed:
                await self._changed.wait_for(lambda: not self.full)
            while not self.full and not self.lost:
                await self._quiet()
                await tracing.on_behalf(self._wanting if self._short else None, self._add_bundle())

    async def _quiet(self) -> None:
        """Return in a moment without runs, or as soon as half of the rows are gone.

        A run of a large model takes longer than the pause between two small ones: it counts until it has ended.
        """
        while self._ahead > self.target // 2 and not self._short:
            if not self._busy() and time.monotonic() >= self._last_use + _QUIET_SECONDS:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _add_bundle(self) -> None:
        number = self._made
        prepared: PreparedRows | None = None
        gone = False  # issued before, on an attempt that broke off or came changed: it will never come again
        pause = False
        try:
            prepared = await self._make(number)
        except Problem as problem:
            self.lost = problem.kind is ProblemType.UNKNOWN_LEASE
            gone = problem.kind in (ProblemType.ALREADY_ISSUED, ProblemType.MALFORMED)
            pause = problem.kind is not ProblemType.ALREADY_ISSUED and not self.lost
            log().warning("bundle failed", lease=self.lease_id, bundle=number, problem=problem.kind.name)
            self._failed(problem.kind.name)
        except Exception as error:
            pause = True
            log().error("bundle failed", lease=self.lease_id, bundle=number, where=where(error))
            self._failed(ProblemType.INTERNAL.name)
        async with self._changed:
            if prepared is not None:
                burnt = self._burnt.pop(number, np.zeros(self.bundle_rows, dtype=np.bool_))
                self._bundles[number] = _Bundle(prepared, ~burnt)
            if gone:
                self._burnt.pop(number, None)
                self.gaps.append(number)
            self._made = number + int(prepared is not None or gone)
            self._failing = self._made == number
            self._pass_gaps()
            self._changed.notify_all()
        if pause:
            await asyncio.sleep(_RETRY_SECONDS)
