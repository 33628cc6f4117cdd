"""bob's memory of the requests that he answered: his share of a result leaves once, however often alice runs it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

from moiety_party.state import State
from moiety_service.observability.logs import log, where
from moiety_shared.problems import Problem, ProblemType

MAX_IDS = 1 << 19
"""The most ids in memory, about 80 MB of them. With more, bob refuses requests: he forgets no id before its time."""
_WRITE_SECONDS = 1.0  # how often a process that is alone writes new ids: a crash forgets those of the last second


class Answered:
    """Remembers the id of each answered request for `seconds`, as long as bob could let the request in again.

    A run that broke off before bob's share left told alice nothing, so it may be run again under the same id.
    """

    def __init__(self, state: State, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._state, self._seconds, self._clock = state, seconds, clock
        self._until: dict[bytes, float] = state.answered()  # by id, the oldest first
        self._fresh: dict[bytes, float] = {}  # of these, what is still to be written
        self._writing = asyncio.create_task(self._write_on())

    async def close(self) -> None:
        """Write all ids to the database."""
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        with contextlib.suppress(Problem):
            await self._write()

    def check(self, request_id: bytes) -> None:
        """Check an id before a run opens anything.

        Raises Problem REQUEST_EXPIRED if bob answered it, OVERLOADED if he can remember no more ids.
        """
        now = self._clock()
        while self._until and (oldest := next(iter(self._until))) and self._until[oldest] < now:
            del self._until[oldest]
        if request_id in self._until:
            raise _answered()
        if len(self._until) >= MAX_IDS:
            raise Problem(ProblemType.OVERLOADED, "bob answered too many in a short time")

    async def note(self, request_ids: Sequence[bytes]) -> dict[int, Problem]:
        """Remember ids, just before their answers leave. Returns the problem of each that may not leave, by its place:
        an answer left before, here, at another replica, or for an earlier place."""
        refused, fresh = dict[int, Problem](), dict[bytes, float]()
        for place, request_id in enumerate(request_ids):
            try:
                self.check(request_id)
            except Problem as problem:
                refused[place] = problem
            else:
                fresh[request_id] = self._until[request_id] = self._clock() + self._seconds
        if not self._state.shared:
            self._fresh |= fresh
            return refused
        new = await asyncio.to_thread(self._state.note_answered, fresh)
        elsewhere = {place for place, request_id in enumerate(request_ids) if request_id in fresh.keys() - new}
        return dict.fromkeys(elsewhere, _answered()) | refused

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
    return Problem(ProblemType.REQUEST_EXPIRED, "bob answered it before and did not keep his answer")
