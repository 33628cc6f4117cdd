"""The one place that builds HTTP apps: problem documents, body limits, request ids, health."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from moiety_service.http.draining import Drain, Draining
from moiety_service.http.gate import BodyLimit, Gate, GatedBody, Guard, Link, problem_response
from moiety_service.http.openapi import document_problems
from moiety_service.http.origins import admitting
from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_service.observability.metrics import Metrics
from moiety_shared.problems import Problem, ProblemType

API_VERSION = "1"
_READY_SECONDS = 1.0
_ASKING_SECONDS = 5.0
_MAX_PLACES = 20


def small_bodies(_path: str) -> int:
    """A limit of 1 MiB, for paths where no large body is expected."""
    return 1 << 20


async def anybody(_request: Request) -> None:
    """A guard that lets every caller send a body."""


def create_app(
    title: str,
    *,
    lifespan: Callable[[], AbstractAsyncContextManager[None]] | None = None,
    body_limit: BodyLimit = small_bodies,
    ready: Callable[[], Awaitable[None]] | None = None,
    guard: Guard = anybody,
    link: Link = lambda _: "client",
    origins: tuple[str, ...] = (),
    metrics: Metrics | None = None,
    tracer: Tracer = tracing.NOBODY,
) -> "GatedApp":
    """A FastAPI app that follows the rules of every service.

    `ready` raises a Problem while the service cannot do its work. `guard` raises one for a request whose body the app
    must not read; it runs before FastAPI's own dependencies. `link` says who sends the requests for a path. Pages of
    `origins` may read its answers. The app counts into `metrics`, which belong to it alone. `app.state` has these
    metrics for the operator's address, see operations.py, and as `drain` the work that the service still has to finish
    when it stops.
    """
    metrics = metrics or Metrics(title, CollectorRegistry())

    @asynccontextmanager
    async def run(_app: FastAPI) -> AsyncIterator[None]:
        if lifespan is None:
            yield
        else:
            try:
                async with lifespan():
                    yield
            except Exception as error:  # uvicorn would log only that there was one
                log().error("start or stop failed", where=where(error))
                raise

    gate = Gate(body_limit, guard, link, metrics, tracer)
    app = GatedApp(gate, origins, title=f"moiety {title}", lifespan=run)
    document_problems(app)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)

    readiness = Readiness(ready, metrics)
    app.state.metrics, app.state.readiness = metrics, readiness

    @app.get("/health/live", tags=["health"], summary="The process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", tags=["health"], summary="The service can do its work")
    async def is_ready() -> dict[str, str]:
        await readiness.check()
        return {"status": "ready"}

    return app


class GatedApp(FastAPI):
    """A FastAPI app behind a gate, which drains when it stops.

    A request for a busy address goes from the gate straight to its endpoint, past FastAPI's own layers: for a small
    request they take as long as all that a party does for it.
    """

    def __init__(self, gate: Gate, origins: tuple[str, ...], **options: Any) -> None:
        super().__init__(version=API_VERSION, **options)
        self._gate, self._origins = gate, origins
        self._busy: dict[tuple[str, str], ASGIApp] = {}
        self.state.drain = Drain()
        self.add_middleware(Draining, drain=self.state.drain)
        self.add_middleware(lambda app: admitting(gate.around(app), origins))

    def busy(self, path: str, endpoint: Callable[[Request], Awaitable[Response]], **options: Any) -> None:
        """Serve POST requests for `path` by `endpoint`, which may raise a Problem. `options` are for its documentation,
        as FastAPI takes them."""
        self.post(path, **options)(endpoint)
        route = _Documented(path)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["route"] = route
            request = Request(scope, receive, send)
            assert isinstance(receive, GatedBody)  # noqa: S101  the gate is around this
            request._body = await receive.whole()  # Starlette's own way there takes several times as long
            response = await endpoint(request)
            await response(scope, receive, send)

        self._busy["POST", path] = admitting(self._gate.around(Draining(answer, self.state.drain)), self._origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._busy.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (super().__call__ if found is None else found)(scope, receive, send)


@dataclass(frozen=True)
class _Documented:
    """A route as the gate's log names it."""

    path: str


def bearer(request: Request) -> str | None:
    """The credential that the caller presented, if any."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    return credential if scheme.lower() == "bearer" and credential else None


def documented_bearer() -> Any:
    """A dependency that documents in OpenAPI the header that `bearer` reads. It refuses nobody."""
    return Depends(HTTPBearer(scheme_name="bearer", auto_error=False))


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101  registered for this type alone
    request.state.problem = error.kind.name
    return problem_response(error, request.state.request_id)


async def _on_http_error(request: Request, error: Exception) -> Response:
    if isinstance(error.__cause__, Problem):  # FastAPI wraps what is raised while it reads the body
        return await _on_problem(request, error.__cause__)
    status = error.status_code if isinstance(error, HTTPException) else 500
    kinds = {404: ProblemType.NOT_FOUND, 405: ProblemType.METHOD_NOT_ALLOWED}
    response = await _on_problem(request, Problem(kinds.get(status, ProblemType.MALFORMED)))
    response.headers.update(getattr(error, "headers", None) or {})  # Allow
    return response


async def _on_invalid(request: Request, error: Exception) -> Response:
    # FastAPI's own answer echoes the input. This one names only the places of the errors.
    places: set[str] = set()
    if isinstance(error, RequestValidationError):
        places = {_place(e) for e in error.errors()[:_MAX_PLACES]}
    return await _on_problem(request, Problem(ProblemType.INVALID_INPUT, "check: " + ", ".join(sorted(places))))


def _place(error: dict[str, Any]) -> str:
    """The place of an error in the body. An unknown member's name is left out: it is the caller's own text."""
    known = error["loc"][:-1] if error["type"] == "extra_forbidden" else error["loc"]
    return ".".join(part for part in known if isinstance(part, str) and re.fullmatch(r"[\w-]{1,64}", part))


class Readiness:
    """Whether a service is ready.

    Anybody may ask, and the check costs work. So it runs once a second at most, and all callers share the result.
    """

    def __init__(self, ready: Callable[[], Awaitable[None]] | None, metrics: Metrics) -> None:
        self._ready = ready
        self._metrics = metrics
        self._asking = asyncio.Lock()
        self._until = 0.0
        self._problem: Problem | None = None

    async def check(self) -> None:
        """Raises the Problem that the last check found; that check may be `_READY_SECONDS` old."""
        async with self._asking:
            if time.monotonic() > self._until:
                self._problem = await self._ask()
                self._metrics.ready.set(self._problem is None)
                self._until = time.monotonic() + _READY_SECONDS
            if self._problem is not None:
                raise Problem(self._problem.kind, self._problem.detail, retry_after=self._problem.retry_after)

    async def _ask(self) -> Problem | None:
        try:
            async with asyncio.timeout(_ASKING_SECONDS):
                if self._ready is not None:
                    await self._ready()
        except Problem as problem:
            return problem
        except TimeoutError:
            return Problem(ProblemType.OVERLOADED, "its own check takes too long")
        return None
