"""A role's app on Ray Serve. Every replica builds its own app from the settings and secrets of its node.

Only the app's requests and answers go through Ray. Secrets stay in the nodes' folders, and state stays in the role's
database and store.
"""

import atexit
from collections.abc import Callable
from contextlib import ExitStack

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from moiety_service.http.encryption import EncryptedOnly
from moiety_service.security.identity import Identity
from moiety_service.service import Build, S, begun


def application(name: str, role: str, settings: Callable[[], S], build: Build[S]) -> Application:
    """The deployment `name` of a role. Each of its replicas reads the settings and builds the app."""

    def replica() -> ASGIApp:
        found = settings()
        identity = Identity.load(found.keys_dir / role, role)
        running = ExitStack()
        atexit.register(running.close)  # when the replica's process ends
        return EncryptedOnly(build(found, identity, running.enter_context(begun(role, found))))

    class Replica:
        """The class of which Serve makes one instance for each replica."""

    deployment: serve.Deployment = serve.deployment(serve.ingress(replica)(Replica), name=name)  # type: ignore[assignment]
    return deployment.bind()
