"""The requests of all replicas of alice: one replica runs a request, and the others hand out its sealed result."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from moiety_party.state import State
from moiety_shared.messages.wire import Binding
from moiety_shared.problems import Problem

_POLL_SECONDS = 0.05


class Journal:
    """Keeps claims and results in the database that the replicas share: results for `seconds`, sealed to the client.

    A replica that ends in the middle of a run keeps its claim for `CLAIM_SECONDS`. Then the request may run again,
    under other masks.
    """

    def __init__(self, state: State, replica: str, seconds: float) -> None:
        self._state, self._replica, self._seconds = state, replica, seconds

    async def once(self, binding: Binding, subject: str, run: Callable[[], Awaitable[bytes]]) -> bytes:
        """Return the result of `run()`, or the stored result if any replica ran the request.

        A request that failed may be tried again. Raises Problem REQUEST_CONFLICT when another client or other content
        used the id, STATE_UNAVAILABLE when the database does not answer.
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
        with contextlib.suppress(Problem):  # the request ran, so its client gets the answer all the same
            await asyncio.to_thread(self._state.keep, request_id, self._replica, answer, self._seconds)
        return answer
