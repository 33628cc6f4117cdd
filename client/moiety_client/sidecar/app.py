"""Puts the sidecar together: the guard, the protocol's routes, the page and what it shows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import FastAPI
from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from moiety_client.settings import ClientSettings
from moiety_client.sidecar import demonstration, messages, page, protocol
from moiety_client.sidecar.guard import Guard, check_bind
from moiety_client.sidecar.metrics import ClientMetrics
from moiety_client.sidecar.upstream import Upstream
from moiety_service.http.app import create_app
from moiety_service.observability import tracing

_MAX_BODY = 1 << 26
_DECODED_AT_ONCE = 2  # picture files: each may have 50 million pixels
# FastAPI's own documentation pages load scripts from other sites. The sidecar serves no such page.
_FOREIGN_PAGES = {"/docs", "/docs/oauth2-redirect", "/redoc"}


def build(
    upstream: Upstream,
    settings: ClientSettings,
    metrics: ClientMetrics | None = None,
    tracer: Tracer = tracing.NOBODY,
) -> FastAPI:
    """Build the sidecar's app. It closes `upstream` at its end.

    Raises Exposed if the sidecar would listen to other machines and the settings do not allow that.
    """
    check_bind(settings)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with upstream:
            yield

    async def ready() -> None:
        await upstream.names()

    app = create_app(
        "client sidecar",
        lifespan=lifespan,
        body_limit=lambda _: _MAX_BODY,
        ready=ready,
        link=lambda _: "application",
        metrics=metrics or ClientMetrics(CollectorRegistry()),
        tracer=tracer,
    )
    # The guard is innermost, so that the app answers and logs what it refuses like any other problem.
    app.user_middleware.append(Middleware(Guard, hosts=settings.hosts))
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", "") not in _FOREIGN_PAGES]
    decoding = CapacityLimiter(_DECODED_AT_ONCE)
    app.include_router(protocol.routes(upstream, decoding))
    app.include_router(demonstration.routes(upstream, decoding))
    page.serve(app)
    messages.describe(app)
    return app
