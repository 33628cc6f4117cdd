"""A role's start-up, from its settings and secrets to its app: the same for every role, under any server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from fastapi import FastAPI
from opentelemetry.trace import Tracer

from moiety_service.http import serving
from moiety_service.observability import logs, tracing
from moiety_service.security.identity import Identity
from moiety_service.settings import RoleSettings, ServiceSettings
from moiety_service.startup import refusing

S = TypeVar("S", bound=RoleSettings)
Build = Callable[[S, Identity, Tracer], FastAPI]


def run(role: str, settings: Callable[[], S], build: Build[S], *, max_message: int = 1 << 20) -> None:
    """Serve a role's app over TLS until the process is told to end.

    `build` makes the app. `max_message` is the largest WebSocket message in bytes. If settings or secrets are wrong,
    this ends the command with `Exit.USAGE`, after a sentence on stderr.
    """
    with refusing():
        found = settings()
        identity = Identity.load(found.keys_dir / role, role)
        with begun(role, found) as tracer:
            app = build(found, identity, tracer)
            serving.serve(app, found, tls=found.tls(identity), max_message=max_message)


@contextmanager
def begun(role: str, settings: ServiceSettings) -> Iterator[Tracer]:
    """Set up logs and traces for this process as its settings say."""
    logs.configure(role, settings.log_format, settings.log_level)
    with tracing.exporting(role) as tracer:
        yield tracer
