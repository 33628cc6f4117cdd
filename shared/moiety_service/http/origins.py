"""Which pages may use a service from a browser: those of the sites that its operator lists (CORS, the Fetch standard).

A page of any other site can read no answer. Nor can it send a request that does more than read: a browser says in
`Origin` whose page sends it. Programs that are no browsers send no Origin, and are not concerned.
"""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp

from moiety_service.observability import tracing
from moiety_service.settings import Names, is_loopback
from moiety_shared.problems import Problem, ProblemType

_METHODS = ("GET", "POST")
_ASKED = ("authorization", "content-type", tracing.HEADER)
_TOLD = ("moiety-rounds", "moiety-online-bytes", "retry-after", "server-timing", "x-request-id")
_PREFLIGHT_SECONDS = 7200  # Chromium's limit; a prediction in two hours then costs one request, and not two


def _checked(origins: tuple[str, ...]) -> tuple[str, ...]:
    for origin in origins:
        parts = urlsplit(origin)
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
        bare = f"{parts.scheme}://{parts.netloc}".lower()
        if not safe or not parts.hostname or "@" in origin or origin != bare:
            raise ValueError(
                f"{origin!r} is not an origin, such as https://app.example or https://app.example:8443: in lower "
                "case, without a path, and with https:// unless it is this machine"
            )
    return origins


Origins = Annotated[Names, AfterValidator(_checked)]
"""A setting: origins of pages, separated by commas."""


def admitting(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """Return the app with answers that listed pages may read. Cookies and client certificates are never asked for."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=_ASKED,
        allow_credentials=False,
        expose_headers=_TOLD,
        max_age=_PREFLIGHT_SECONDS,
    )


def check(request: Request, origins: tuple[str, ...]) -> None:
    """Raises Problem CROSS_ORIGIN for a request from a page that is not listed."""
    origin = request.headers.get("origin")
    if origin is not None and origin not in origins:
        raise Problem(ProblemType.CROSS_ORIGIN)
