"""The one place that builds HTTP servers: problem documents, body limits, request ids, health."""

import asyncio
import gc
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType
from moiety_shared.service.http import SOCKET_BUFFER
from moiety_shared.service.logs import log, where
from moiety_shared.service.settings import ServiceSettings

BodyLimit = Callable[[str], int]
"""Bytes that a path takes at most."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def small_bodies(_path: str) -> int:
    """The limit where nothing large is expected: 1 MiB."""
    return 1 << 20


def create_app(
    title: str,
    *,
    lifespan: Callable[[], AbstractAsyncContextManager[None]] | None = None,
    body_limit: BodyLimit = small_bodies,
    ready: Callable[[], Awaitable[None]] | None = None,
) -> FastAPI:
    """A FastAPI app with the house's rules. `ready` raises a Problem while the service cannot do its work."""

    @asynccontextmanager
    async def run(_app: FastAPI) -> AsyncIterator[None]:
        if lifespan is None:
            yield
        else:
            async with lifespan():
                yield

    app = FastAPI(title=f"moiety {title}", version="1", lifespan=run)
    app.add_middleware(_Gate, body_limit=body_limit)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)

    @app.get("/health/live", tags=["health"], summary="The process answers")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get("/health/ready", tags=["health"], summary="The service can do its work")
    async def is_ready() -> dict[str, str]:
        if ready is not None:
            await ready()
        return {"status": "ready"}

    return app


def bearer(request: Request) -> str | None:
    """The credential that the caller presented, if any."""
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    return credential if scheme.lower() == "bearer" and credential else None


def problem_response(problem: Problem, request_id: str) -> Response:
    headers = {"retry-after": str(problem.retry_after)} if problem.retry_after is not None else {}
    if problem.kind is ProblemType.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(problem.document(request_id), problem.kind.status, headers, media_type=PROBLEM_JSON)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101  registered for this type alone
    request.state.problem = error.kind.name
    return problem_response(error, request.state.request_id)


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    kinds = {404: ProblemType.NOT_FOUND, 405: ProblemType.METHOD_NOT_ALLOWED}
    return await _on_problem(request, Problem(kinds.get(status, ProblemType.MALFORMED)))


async def _on_invalid(request: Request, error: Exception) -> Response:
    # FastAPI's own answer echoes the input; this one names the places only.
    places = []
    if isinstance(error, RequestValidationError):
        places = sorted({".".join(str(p) for p in e["loc"] if isinstance(p, str)) for e in error.errors()})
    return await _on_problem(request, Problem(ProblemType.INVALID_INPUT, "check: " + ", ".join(places)))


class _Gate:
    """Outermost: gives each request its id, refuses bodies before they are read, logs what happened."""

    def __init__(self, app: ASGIApp, body_limit: BodyLimit) -> None:
        self.app = app
        self.body_limit = body_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._check_body(scope)
            await self.app(scope, receive, answer)
        except Problem as problem:
            state["problem"] = problem.kind.name
            await problem_response(problem, request_id)(scope, receive, answer)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the last resort: say where, never what
            log().error("unexpected", request_id=request_id, where=where(error))
            if status == 0:
                await problem_response(Problem(ProblemType.INTERNAL), request_id)(scope, receive, answer)
        finally:
            if not scope["path"].startswith("/health/"):
                route = scope.get("route")
                log().info(
                    "request",
                    request_id=request_id,
                    method=scope["method"],
                    route=getattr(route, "path", "-"),
                    status=status,
                    milliseconds=round((time.perf_counter() - started) * 1e3, 2),
                    **({"problem": state["problem"]} if "problem" in state else {}),
                )

    def _check_body(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if headers.get("content-encoding", "identity") != "identity":
            raise Problem(ProblemType.ENCODING_REFUSED)
        if "transfer-encoding" in headers:
            raise Problem(ProblemType.LENGTH_REQUIRED)
        limit = self.body_limit(scope["path"])
        if int(headers.get("content-length", "0")) > limit:
            raise Problem(ProblemType.TOO_LARGE, f"at most {limit} bytes")


def serve(
    app: FastAPI, settings: ServiceSettings, *, tls: ssl.SSLContext | None = None, max_message: int = 1 << 20
) -> None:
    """Run until SIGINT or SIGTERM; requests under way get ten seconds to finish.

    `max_message` is the largest WebSocket message in bytes.
    """
    gc.collect()
    gc.freeze()  # what is imported stays: no collection walks half a million objects during a request
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ws_max_size=max_message,
        ws="websockets-sansio",  # half the round trip of the default here
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=75,
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )
    listener = config.bind_socket()
    listener.setsockopt(*SOCKET_BUFFER)  # accepted connections inherit it
    uvicorn.Server(config).run(sockets=[listener])
