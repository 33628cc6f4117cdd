"""Requests of all replicas of alice: one id runs at one of them, and every other one hands out its sealed result."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from moiety_party.state import State
from moiety_shared.messages.wire import Binding
from moiety_shared.problems import Problem

_POLL_SECONDS = 0.05


class Journal:
    """In the party's database, where replicas share it. Results are kept for `seconds`, sealed as they are.

    A replica that ends in the middle of a run holds its claim for `CLAIM_SECONDS` more; then the request may run again,
    under other masks.
    """

    def __init__(self, state: State, replica: str, seconds: float) -> None:
        self._state, self._replica, self._seconds = state, replica, seconds

    async def once(self, binding: Binding, subject: str, run: Callable[[], Awaitable[bytes]]) -> bytes:
        """`run()`, or its result at whichever replica. A request that failed may be tried again.

        Raises REQUEST_CONFLICT for an id that was used otherwise, STATE_UNAVAILABLE.
        """
        request_id, digest = binding.request_id, binding.request_digest
        while True:
            found = await asyncio.to_thread(self._state.claim, request_id, subject, digest, self._replica)
            if isinstance(found, bytes):
                return found
            if found:
                break
            await asyncio.sleep(_POLL_SECONDS)
        try:
            answer = await run()
        except BaseException:
            with contextlib.suppress(Problem):
                await asyncio.shield(asyncio.to_thread(self._state.release, request_id, self._replica))
            raise
        with contextlib.suppress(Problem):  # it ran, and who asked here gets it
            await asyncio.to_thread(self._state.keep, request_id, self._replica, answer, self._seconds)
        return answer
