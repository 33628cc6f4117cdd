"""alice or bob on Ray Serve: `import_path: moiety_party.ray_app:deploy`, `args: {role: alice}`.

See docs/deployment.md, "On Ray Serve".
"""

from typing import Literal

from pydantic import BaseModel
from ray.serve import Application

from moiety_party.app import build
from moiety_party.settings import PartySettings
from moiety_service.ray_serve import application


class PartyArguments(BaseModel):
    """What Serve's config file says of the application."""

    role: Literal["alice", "bob"]


def deploy(arguments: PartyArguments) -> Application:
    """Replicas of one party. Their settings are those of `moiety party`: MOIETY_PARTY_* in each node's environment."""
    role = arguments.role
    return application("party", role, lambda: PartySettings(role=role), build)
