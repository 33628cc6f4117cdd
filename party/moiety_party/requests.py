"""Requests happen once: the same id and digest get the stored sealed result; other content, other clients a 409."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from moiety_party.journal import Journal
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.wire import Binding

_MAX_KEPT_BYTES = 1 << 25


@dataclass
class _Entry:
    subject: str
    digest: bytes
    result: "asyncio.Future[bytes]"
    expires: float


class Requests:
    """Results of recent requests, still sealed to their clients, for `seconds` after they began."""

    def __init__(self, seconds: float, journal: Journal | None = None) -> None:
        """`journal` is where replicas agree on who runs what; without it, this process is alone."""
        self._seconds, self._journal = seconds, journal
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._kept = 0  # bytes of finished results

    async def once(self, binding: Binding, subject: str, run: Callable[[], Awaitable[bytes]]) -> bytes:
        """`run()`, or its result from before, for whoever asked first. A request that failed may be tried again."""
        self._forget_old()
        entry = self._entries.get(binding.request_id)
        if entry is not None:
            if (entry.subject, entry.digest) != (subject, binding.request_digest):
                raise Problem(ProblemType.REQUEST_CONFLICT)
            return await asyncio.shield(entry.result)
        result: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._entries[binding.request_id] = _Entry(
            subject, binding.request_digest, result, time.monotonic() + self._seconds
        )
        try:
            answer = await (self._journal.once(binding, subject, run) if self._journal else run())
            result.set_result(answer)
            self._kept += len(answer)
        except BaseException as error:
            self._entries.pop(binding.request_id, None)
            failure = error if isinstance(error, Problem) else Problem(ProblemType.INTERNAL)
            result.set_exception(failure)
            result.exception()  # whoever waits gets it; nobody need wait
            raise
        return result.result()

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._entries:
            oldest = next(iter(self._entries.values()))
            done = oldest.result.done()
            if not (done and (oldest.expires < now or self._kept > _MAX_KEPT_BYTES)):
                return
            self._entries.popitem(last=False)
            self._kept -= len(oldest.result.result())
