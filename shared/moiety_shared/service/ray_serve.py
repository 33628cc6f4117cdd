"""A role's app on Ray Serve: every replica builds its own, from its own node's settings and secrets.

Nothing of a role goes through Ray but the app's requests and answers: secrets stay in the folders of the nodes, state
in the role's database and store.
"""

from collections.abc import Callable

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp, Receive, Scope, Send

from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service.gate import problem_response

_ENCRYPTED = ("https", "wss")
_POLICY_VIOLATION = 1008


def application(name: str, build: Callable[[], ASGIApp]) -> Application:
    """The deployment `name`; `build` is called in each of its replicas."""

    def replica() -> ASGIApp:
        return EncryptedOnly(build())

    class Replica:
        """What Serve makes one of for each replica."""

    deployment: serve.Deployment = serve.deployment(serve.ingress(replica)(Replica), name=name)  # type: ignore[assignment]
    return deployment.bind()


class EncryptedOnly:
    """Serves nothing to whoever came over a plain connection: Serve's proxy speaks TLS only if it is told to.

    TLS may end before the proxy, on the proxy's own machine, where X-Forwarded-Proto says so.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["scheme"] in _ENCRYPTED:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            refused = Problem(ProblemType.FORBIDDEN, "this service answers over TLS only: set Serve's ssl_certfile")
            await problem_response(refused, "")(scope, receive, send)
