"""A role's app on Ray Serve: every replica builds its own, from its own node's settings and secrets.

Nothing of a role goes through Ray but the app's requests and answers: secrets stay in the folders of the nodes, state
in the role's database and store.
"""

import atexit
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import TypeVar

from ray import serve
from ray.serve import Application
from starlette.types import ASGIApp

from moiety_service.http.encryption import EncryptedOnly

T = TypeVar("T")


def application(name: str, build: Callable[[], ASGIApp]) -> Application:
    """The deployment `name`; `build` is called in each of its replicas."""

    def replica() -> ASGIApp:
        return EncryptedOnly(build())

    class Replica:
        """What Serve makes one of for each replica."""

    deployment: serve.Deployment = serve.deployment(serve.ingress(replica)(Replica), name=name)  # type: ignore[assignment]
    return deployment.bind()


def until_exit(context: AbstractContextManager[T]) -> T:
    """Enters it. It is left when the replica's process ends."""
    entered = ExitStack()
    atexit.register(entered.close)
    return entered.enter_context(context)
