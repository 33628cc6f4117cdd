"""The outermost ASGI layer: it limits bodies, their time and the requests under way, and it logs and counts requests.

It decides before a body arrives, or while it arrives, so that a refused caller costs very little.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from opentelemetry.trace import Span, Tracer
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moiety_service import disk
from moiety_service.http.answers import has_arrived, send_together
from moiety_service.http.clients import whole_number
from moiety_service.observability import tracing
from moiety_service.observability.logs import log, where
from moiety_service.observability.metrics import Metrics
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType

BodyLimit = Callable[[str], int]
"""The most bytes of a body that a path takes."""

Guard = Callable[[Request], Awaitable[None]]
"""Raises a Problem for a caller who may not even send a body."""

Link = Callable[[str], str]
"""Who sends the requests for a path: a label of the metrics."""

MAX_REQUESTS = 256
"""The most requests under way at the same time. Those whose bodies are still arriving do not count."""

BODY_SECONDS = 10.0
BODY_RATE = 1 << 16
"""A body may take `BODY_SECONDS`, and one more second for each `BODY_RATE` bytes that it announces."""

HELD_BYTES = 1 << 25
"""The most bytes of bodies in memory at the same time, for each limit; always room for two bodies of that limit."""

SMALL_BODY = 1 << 16
SMALL_HELD_BYTES = 1 << 23
"""Extra room for bodies of `SMALL_BODY` bytes at most, which large bodies cannot take from them."""

_HEALTH = "/health/"
_DISCONNECTED = "DISCONNECTED"
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))


def problem_response(problem: Problem, request_id: str) -> Response:
    headers = {"retry-after": str(problem.retry_after)} if problem.retry_after is not None else {}
    if problem.kind is ProblemType.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if problem.kind is ProblemType.REQUEST_TIMEOUT:
        headers["connection"] = "close"
    return JSONResponse(problem.document(request_id), problem.kind.status, headers, media_type=PROBLEM_JSON)


class Gate:
    """Gives each request its id, refuses bodies before it reads them, and logs what happened."""

    def __init__(self, body_limit: BodyLimit, guard: Guard, link: Link, metrics: Metrics, tracer: Tracer) -> None:
        self._body_limit = body_limit
        self._guard = guard
        self._link = link
        self._metrics = metrics
        self._tracer = tracer
        self._requests = 0
        metrics.requests_in_flight.set_function(lambda: self._requests)
        self._reading = 0  # requests whose body still arrives, or whom the guard has not admitted yet
        self._held: Counter[int] = Counter()  # bytes of bodies in memory, by the limit of their paths

    def around(self, app: ASGIApp) -> ASGIApp:
        """The app behind this gate. All apps behind one gate share what it counts and limits."""

        async def gated(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            tracer = tracing.NOBODY if scope["path"].startswith(_HEALTH) else self._tracer
            span = tracing.begin(tracer, "HTTP", tracing.read(Headers(scope=scope).get(tracing.HEADER)))
            with tracing.doing(span):
                await self._answer(app, scope, receive, send, span)

        return gated

    async def _answer(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, span: Span) -> None:
        request_id = tracing.request_id(span.get_span_context())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started, status, sent = time.perf_counter(), 0, 0
        start: Message | None = None  # leaves with the first piece of the body

        async def answer(message: Message) -> None:
            nonlocal status, sent, start
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                start = message
                return
            sent += len(message.get("body", b""))
            if start is None:
                await send(message)
                return
            head, start = start, None
            status = head["status"]
            await send_together(send, head, message)

        body: GatedBody | None = None
        self._requests += 1
        try:
            self._admit(scope)
            body = await self._body(scope, receive)
            await app(scope, body, answer)
        except Problem as problem:
            state["problem"] = problem.kind.name
            if status == 0:
                await problem_response(problem, request_id)(scope, receive, answer)
        except ClientDisconnect:
            state["problem"] = _DISCONNECTED
        except asyncio.CancelledError:
            raise
        except Exception as error:  # the last resort: log the place, never the message
            log().error("unexpected", where=where(error))
            kind = ProblemType.DISK_FULL if disk.is_full(error) else ProblemType.INTERNAL
            state["problem"] = kind.name
            if status == 0:
                await problem_response(Problem(kind), request_id)(scope, receive, answer)
        finally:
            self._requests -= 1
            received = body.held if body is not None else 0
            if body is not None:
                self._let_go(body)
            if not scope["path"].startswith(_HEALTH):
                self._note(scope, status, time.perf_counter() - started, received, sent, span)

    def _note(self, scope: Scope, status: int, seconds: float, received: int, sent: int, span: Span) -> None:
        """Log and count a request whose answer is out, and complete its span."""
        route = getattr(scope.get("route"), "path", "-")  # as declared: the request's own path could hold anything
        problem = scope["state"].get("problem")
        log().info(
            "request",
            method=scope["method"],
            route=route,
            status=status,
            milliseconds=round(seconds * 1e3, 2),
            **({"problem": problem} if problem else {}),
        )
        metrics, link = self._metrics, self._link(scope["path"])
        metrics.requests.labels(route, str(status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        metrics.link_bytes.labels(link, "in").inc(received)
        metrics.link_bytes.labels(link, "out").inc(sent)
        if problem and problem != _DISCONNECTED:
            metrics.refused(problem)
        if span.is_recording():
            method = scope["method"] if scope["method"] in _METHODS else "HTTP"
            span.update_name(f"{method} {route}")
            span.set_attribute("http.request.method", method)
            span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            if problem:
                span.set_attribute("error.type", problem)

    def _admit(self, scope: Scope) -> None:
        """Raises OVERLOADED while too many requests are under way. Health checks are always answered."""
        if self._requests - self._reading > MAX_REQUESTS and not scope["path"].startswith(_HEALTH):
            raise Problem(ProblemType.OVERLOADED)

    async def _body(self, scope: Scope, receive: Receive) -> "GatedBody":
        """The `receive` from which the app reads the body. Raises a Problem for a body that is refused unread."""
        lengths = list[bytes]()
        for name, value in scope["headers"]:
            if name == b"content-length":
                lengths.append(value)
            elif name == b"content-encoding" and value.strip().lower() != b"identity":
                raise Problem(ProblemType.ENCODING_REFUSED)
            elif name == b"transfer-encoding":
                raise Problem(ProblemType.LENGTH_REQUIRED)
        length = whole_number((lengths or [b"0"])[0].decode("latin-1")) if len(lengths) < 2 else None
        if length is None:
            raise Problem(ProblemType.MALFORMED, "Content-Length must be one whole number")
        limit = self._body_limit(scope["path"])
        if length > limit:
            raise Problem(ProblemType.TOO_LARGE, f"at most {limit} bytes")
        if length:
            self._reading += 1
            try:
                await self._guard(Request(scope))
            finally:
                self._reading -= 1
        return GatedBody(self, scope, receive, length, limit)

    def _hold(self, body: "GatedBody", size: int) -> None:
        """Account for the bytes of a body that arrived. Raises OVERLOADED when all bodies take too much memory."""
        room = max(HELD_BYTES, 2 * body.limit) + (SMALL_HELD_BYTES if body.length <= SMALL_BODY else 0)
        if self._held[body.limit] + size > room:
            raise Problem(ProblemType.OVERLOADED, "too many bodies are arriving")
        self._held[body.limit] += size
        body.held += size

    def _let_go(self, body: "GatedBody") -> None:
        if body.held:
            self._held[body.limit] -= body.held
            self._held += Counter()  # drops what is zero

    async def receive(self, body: "GatedBody") -> Message:
        """The next message of a body that is not complete yet."""
        if has_arrived(body.source):  # no deadline to set: that takes as long as all the rest of this
            message = await body.source()
        else:
            message = await self._wait_for(body)
        if message["type"] == "http.request":
            self._hold(body, len(message.get("body", b"")))
            if body.held > body.length:
                raise Problem(ProblemType.MALFORMED, "the body is longer than its Content-Length")
            body.complete = not message.get("more_body", False)
            if body.complete:
                self._admit(body.scope)
        return message

    async def _wait_for(self, body: "GatedBody") -> Message:
        self._reading += 1
        try:
            async with asyncio.timeout_at(body.deadline):
                return await body.source()
        except TimeoutError:
            raise Problem(ProblemType.REQUEST_TIMEOUT, "the body arrives too slowly") from None
        finally:
            self._reading -= 1


class GatedBody:
    """One request's `receive`. It has a deadline until the body is complete, and none after that."""

    def __init__(self, gate: Gate, scope: Scope, source: Receive, length: int, limit: int) -> None:
        self._gate = gate
        self.scope, self.source, self.length, self.limit = scope, source, length, limit
        self.deadline = asyncio.get_running_loop().time() + BODY_SECONDS + length / BODY_RATE
        self.held = 0
        self.complete = False

    async def __call__(self) -> Message:
        return await (self.source() if self.complete else self._gate.receive(self))

    async def whole(self) -> bytes:
        """The body, once all of it is here. Raises ClientDisconnect when its sender goes before."""
        pieces = list[bytes]()
        while not self.complete:
            message = await self._gate.receive(self)
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pieces.append(message.get("body", b""))
        return b"".join(pieces)
