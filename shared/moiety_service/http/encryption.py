"""Refuses plain connections where another server than ours terminates TLS, and may be configured without it."""

from starlette.types import ASGIApp, Receive, Scope, Send

from moiety_service.http.gate import problem_response
from moiety_shared.problems import Problem, ProblemType

_SCHEMES = ("https", "wss")
_POLICY_VIOLATION = 1008


class EncryptedOnly:
    """An ASGI layer that refuses every request over a plain connection.

    Ray Serve's proxy says which kind of connection it was. Where TLS ends before the proxy, on the proxy's own machine,
    the proxy believes the header X-Forwarded-Proto.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["scheme"] in _SCHEMES:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            refused = Problem(ProblemType.FORBIDDEN, "this service answers over TLS only: set Serve's ssl_certfile")
            await problem_response(refused, "")(scope, receive, send)
