"""What the operator's address serves: `/metrics` and the health checks, for this role's own Prometheus.

The address is separate from the one that clients reach, and on loopback by default, because metrics tell how much is
asked. Being separate, it also answers while the public address is full.
"""

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moiety_service.http.app import Readiness
from moiety_service.http.gate import problem_response
from moiety_service.observability.metrics import CONTENT_TYPE, Metrics
from moiety_service.settings import ServiceSettings, is_loopback
from moiety_shared.problems import Problem


def build(app: FastAPI, settings: ServiceSettings) -> Starlette:
    """The operator's app, for an app that `create_app` made."""
    metrics: Metrics = app.state.metrics
    readiness: Readiness = app.state.readiness

    async def text(_: Request) -> Response:
        await _problem(readiness)  # sets `moiety_ready`
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(_: Request) -> Response:
        problem = await _problem(readiness)
        return JSONResponse({"status": "ready"}) if problem is None else problem_response(problem, "")

    # A web page could point its own name at loopback (DNS rebinding): requests under such a name are refused.
    hosts = ["localhost", "127.0.0.1", "[::1]"] if is_loopback(settings.metrics_host) else ["*"]
    return Starlette(
        routes=[Route("/metrics", text), Route("/health/live", live), Route("/health/ready", ready)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )


async def _problem(readiness: Readiness) -> Problem | None:
    try:
        await readiness.check()
    except Problem as problem:
        return problem
    return None
