"""Decides who may use the sidecar: programs on this machine, and the sidecar's own page, but no page of another site.

A page of another site can make a browser send requests to loopback. The sidecar stops it in three ways. It refuses an
Origin that is not its own. It refuses a Host that is not one of its names, so that a name which the site points to
loopback (DNS rebinding) does not help. And no answer carries CORS headers, so the page could not read one.
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moiety_client.settings import ClientSettings
from moiety_service.http.page import safety
from moiety_service.settings import is_loopback
from moiety_shared.problems import Problem, ProblemType

_SAFE = ("GET", "HEAD", "OPTIONS")
_HEADERS = safety()


class Exposed(ValueError):
    """The sidecar would answer other machines, in plaintext and without asking who they are."""


def check_bind(settings: ClientSettings) -> None:
    """Raise Exposed if other machines could connect and the settings do not allow that."""
    if not settings.expose and not is_loopback(settings.host):
        raise Exposed(
            f"{settings.host!r} is not a loopback address: whoever can connect there can use this sidecar, in "
            "plaintext. If only you can reach it, as inside a container, set MOIETY_CLIENT_EXPOSE=true"
        )


class Guard:
    """Checks the Host and the Origin of each request, and adds security headers to each answer."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._hosts = frozenset(name.lower() for name in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if not self._is_ours(host):
            raise Problem(ProblemType.WRONG_HOST)
        if scope["method"] not in _SAFE and not _same_origin(headers, host):
            raise Problem(ProblemType.CROSS_ORIGIN)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                mutable = MutableHeaders(scope=message)
                mutable.update(_HEADERS)
                mutable.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, answer)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return is_loopback(name) or name in self._hosts


def _same_origin(headers: Headers, host: str) -> bool:
    """Whether a request comes from the sidecar's own page, or from a program that is no browser.

    A browser says where a request comes from. Other programs say nothing, and the sidecar lets them in.
    """
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, _, authority = origin.lower().partition("://")
    return scheme in ("http", "https") and authority == host
