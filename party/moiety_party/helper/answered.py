"""bob's memory: under one request id his share of a result leaves once, however often alice runs it."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from moiety_party.state import State
from moiety_service.observability.logs import log, where
from moiety_shared.problems import Problem, ProblemType

MAX_IDS = 1 << 19
"""Ids in memory at most, about 80 MB of them. Beyond that requests are refused: none is forgotten before its time."""
_WRITE_SECONDS = 1.0  # so often a process that is alone writes what is new: a crash forgets as much


class Answered:
    """The ids of requests that were answered, for `seconds` each: as long as such a request could be let in.

    A run that broke off before bob's share left may be run again, under the same id: it told alice nothing.
    """

    def __init__(self, state: State, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._state, self._seconds, self._clock = state, seconds, clock
        self._until: dict[bytes, float] = state.answered()  # by id, the oldest first
        self._fresh: dict[bytes, float] = {}  # of these, what is still to be written
        self._writing = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """All of them are on the disk when this returns."""
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        with contextlib.suppress(Problem):
            await self._write()

    def check(self, request_id: bytes) -> None:
        """Before anything of a run is opened. Raises Problem REQUEST_EXPIRED, or OVERLOADED where no more ids can be
        remembered."""
        now = self._clock()
        while self._until and (oldest := next(iter(self._until))) and self._until[oldest] < now:
            del self._until[oldest]
        if request_id in self._until:
            raise _answered()
        if len(self._until) >= MAX_IDS:
            raise Problem(ProblemType.OVERLOADED, "too many requests in a short time")

    async def note(self, request_id: bytes) -> None:
        """The answer to this request is about to leave. Raises Problem REQUEST_EXPIRED when one left before, here or
        at another replica."""
        self.check(request_id)
        until = self._until[request_id] = self._clock() + self._seconds
        if not self._state.shared:
            self._fresh[request_id] = until
        elif await asyncio.to_thread(self._state.note_answered, {request_id: until}) != 1:
            raise _answered()

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(_WRITE_SECONDS)
            try:
                await self._write()
            except Problem as problem:
                log().warning("not written", problem=problem.kind.name)
            except Exception as error:
                log().error("not written", where=where(error))

    async def _write(self) -> None:
        fresh, self._fresh = self._fresh, {}
        try:
            await asyncio.to_thread(self._state.note_answered, fresh)
        except BaseException:
            self._fresh = fresh | self._fresh  # once more: to write one twice does no harm
            raise


def _answered() -> Problem:
    return Problem(ProblemType.REQUEST_EXPIRED, "bob answered it before; his answer is not kept")
