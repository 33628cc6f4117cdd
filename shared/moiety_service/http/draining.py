"""How a service stops: it finishes the work under way, begins none, and tells new callers to come again."""

import asyncio
import contextlib
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moiety_service.http.gate import problem_response
from moiety_shared.problems import Problem, ProblemType

SECONDS = 7.0
"""How long the work under way may take to finish."""

_LIVE = "/health/live"
_CLOSE = (b"connection", b"close")


class Drain:
    """The work that is under way in one service."""

    def __init__(self) -> None:
        self.stopping = False
        self._under_way = 0
        self._ended = asyncio.Event()

    @contextlib.contextmanager
    def work(self, refusal: ProblemType = ProblemType.STOPPING) -> Iterator[None]:
        """The block is work that a stop waits for. Raises the Problem `refusal` when the service is stopping."""
        if self.stopping:
            raise Problem(refusal, "it is stopping")
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._ended.set()

    async def finish(self, seconds: float = SECONDS) -> None:
        """Refuse new work, and wait for the work under way, `seconds` at most."""
        self.stopping = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._under_way:
                    self._ended.clear()
                    await self._ended.wait()


class Draining:
    """The ASGI layer inside of the Gate. Every request but `/health/live` is work."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == _LIVE:
            await self._app(scope, receive, send)
            return

        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            if message["type"] == "http.response.start" and self._drain.stopping:
                message["headers"] = [*message["headers"], _CLOSE]
            await send(message)

        try:
            with self._drain.work():
                await self._app(scope, receive, answer)
        except (Problem, asyncio.CancelledError) as error:
            if begun or not self._drain.stopping:
                raise
            # Cancelled: the request did not finish in the time it was given, and is cut off.
            problem = error if isinstance(error, Problem) else Problem(ProblemType.STOPPING)
            if problem.kind is not ProblemType.STOPPING:
                raise
            scope["state"]["problem"] = problem.kind.name
            await problem_response(problem, scope["state"]["request_id"])(scope, receive, answer)
