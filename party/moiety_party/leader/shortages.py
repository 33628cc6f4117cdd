"""Models whose next rows are not ready: their requests wait in the queue, and hold no lane."""

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Sequence

from moiety_party.leader.lanes import Lanes
from moiety_party.leader.leases import Leases
from moiety_party.leader.queue import Queue, Waiting
from moiety_party.store import Model
from moiety_service.observability.logs import log, where
from moiety_shared.problems import Problem, ProblemType

_WAIT_SECONDS = 5.0  # for the next rows: whoever asked can come again
_SOON_SECONDS, _POLL_SECONDS = 0.01, 0.1  # until bob is asked again how far he is: at first, and after a while


class Shortages:
    """Holds a model's requests in the queue until its next rows are ready at both parties.

    A lane is needed only for the moment of asking bob. So other models' requests go on, however long a large model's
    rows take.
    """

    def __init__(
        self,
        queue: Queue,
        lanes: Lanes,
        leases: Leases,
        failed: Callable[[Sequence[Waiting], Exception], Awaitable[None]],
        over: Callable[[], None],
    ) -> None:
        """Requests whose rows do not come in time go to `failed`. `over` is called when a model's may begin again."""
        self._queue, self._lanes, self._leases = queue, lanes, leases
        self._failed, self._over = failed, over
        self._watching: dict[str, asyncio.Task[None]] = {}  # by upload

    async def close(self) -> None:
        watching = list(self._watching.values())
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)

    def begin(self, batch: Sequence[Waiting]) -> None:
        """Put back requests for which there are no rows. From now on all of their model wait, until there are."""
        model, rows = batch[0].model, sum(waiting.request.rows for waiting in batch)
        self._queue.hold(model.upload_id)
        self._queue.again(list(batch))
        if model.upload_id not in self._watching:
            task = asyncio.create_task(
                self._watch(model, rows), context=contextvars.Context()
            )  # part of nobody's trace
            self._watching[model.upload_id] = task

    async def _watch(self, model: Model, rows: int) -> None:
        """Wait for these rows. Who is next meets whatever ends the wait, such as a broken lane."""
        upload_id = model.upload_id
        try:
            while not await self._come(model, rows):
                await self._failed(self._queue.clear(upload_id), Problem(ProblemType.RANDOMNESS_EXHAUSTED))
        except Problem:
            pass
        except Exception as error:
            log().error("unexpected", where=where(error))
        del self._watching[upload_id]
        self._queue.release(upload_id)
        self._over()

    async def _come(self, model: Model, rows: int) -> bool:
        """Whether the rows come in time. It ends as well when nobody waits for them any more."""
        deadline, pause = time.monotonic() + _WAIT_SECONDS, _SOON_SECONDS
        while self._queue.waits_for(model.upload_id):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS)
            async with self._lanes.lend(prefer=lambda lane: self._leases.stock(lane, model)) as lane:
                if await self._leases.has(lane, model, await self._leases.pool(lane, model), rows):
                    return True
            if time.monotonic() > deadline:
                return False
        return True
