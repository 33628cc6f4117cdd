"""alice or bob on Ray Serve: `import_path: moiety_party.ray_app:deploy`, `args: {role: alice}`. See docs/scaling.md."""

from typing import Literal

from fastapi import FastAPI
from pydantic import BaseModel
from ray.serve import Application

from moiety_party.app import build
from moiety_party.settings import PartySettings
from moiety_service import memory
from moiety_service.observability import logs, tracing
from moiety_service.ray_serve import application, until_exit
from moiety_service.security.identity import Identity


class Arguments(BaseModel):
    """What Serve's config file says of the application."""

    role: Literal["alice", "bob"]


def deploy(arguments: Arguments) -> Application:
    """Replicas of one party. Their settings are those of `moiety party`: MOIETY_PARTY_* in each node's environment."""
    role = arguments.role

    def replica() -> FastAPI:
        settings = PartySettings(role=role)
        identity = Identity.load(settings.keys_dir / role, role)
        logs.configure(role, settings.log_format, settings.log_level)
        memory.keep_freed_pages()
        return build(settings, identity, until_exit(tracing.exporting(role)))

    return application("party", replica)
