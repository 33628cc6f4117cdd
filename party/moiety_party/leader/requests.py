"""Each request runs once: a repetition gets the stored result, and another use of its id is refused.

alice remembers an id as long as she could let in a request under it. Its result may go earlier, to make room.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from moiety_party.leader.journal import Journal
from moiety_shared.messages.wire import Binding
from moiety_shared.problems import Problem, ProblemType

_MAX_KEPT_BYTES = 1 << 25


@dataclass
class _Entry:
    subject: str
    digest: bytes
    result: "asyncio.Future[bytes] | None"  # None once it went to make room
    expires: float


class Requests:
    """Remembers requests for `seconds` after they began, with their results, sealed to their clients."""

    def __init__(self, seconds: float, journal: Journal | None = None) -> None:
        """In `journal`, replicas agree on which of them runs what. Without it, this process is alone."""
        self._seconds, self._journal = seconds, journal
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._finished: deque[_Entry] = deque()  # the entries with results, in the order of their results
        self._kept = 0  # bytes of these results

    async def once(self, binding: Binding, subject: str, run: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the result of `run()`, or the stored result if this client's request ran before.

        A request that failed may be tried again. Raises Problem REQUEST_CONFLICT when another client or other content
        used the id, REQUEST_EXPIRED when the result went to make room.
        """
        self._forget_old()
        entry = self._entries.get(binding.request_id)
        if entry is not None:
            if (entry.subject, entry.digest) != (subject, binding.request_digest):
                raise Problem(ProblemType.REQUEST_CONFLICT)
            if entry.result is not None:
                return await asyncio.shield(entry.result)
            if self._journal is None:
                raise Problem(
                    ProblemType.REQUEST_EXPIRED, "it ran, but alice dropped its answer to make room for others"
                )
        result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        entry = _Entry(subject, binding.request_digest, result, time.monotonic() + self._seconds)
        self._entries[binding.request_id] = entry
        self._entries.move_to_end(binding.request_id)
        try:
            answer = await (self._journal.once(binding, subject, run) if self._journal else run())
            result.set_result(answer)
            self._kept += len(answer)
            self._finished.append(entry)
        except BaseException as error:
            self._entries.pop(binding.request_id, None)
            failure = error if isinstance(error, Problem) else Problem(ProblemType.INTERNAL)
            result.set_exception(failure)
            result.exception()  # marks it as seen: perhaps nobody waits for it
            raise
        return result.result()

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._finished and (self._kept > _MAX_KEPT_BYTES or self._finished[0].expires < now):
            entry = self._finished.popleft()
            if entry.result is not None:
                self._kept -= len(entry.result.result())
                entry.result = None
        while self._entries:
            oldest = next(iter(self._entries.values()))
            if oldest.result is not None or oldest.expires >= now:
                return
            self._entries.popitem(last=False)
