"""A role's app on Ray Serve: every replica builds its own, from its own node's settings and secrets.

Nothing of a role goes through Ray but the app's requests and answers: secrets stay in the folders of the nodes, state
in the role's database and store.
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
    """The deployment `name` of a role; settings are read, and the app is built, in each of its replicas."""

    def replica() -> ASGIApp:
        found = settings()
        identity = Identity.load(found.keys_dir / role, role)
        running = ExitStack()
        atexit.register(running.close)  # when the replica's process ends
        return EncryptedOnly(build(found, identity, running.enter_context(begun(role, found))))

    class Replica:
        """What Serve makes one of for each replica."""

    deployment: serve.Deployment = serve.deployment(serve.ingress(replica)(Replica), name=name)  # type: ignore[assignment]
    return deployment.bind()
