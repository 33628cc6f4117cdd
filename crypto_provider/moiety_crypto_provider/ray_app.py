"""The crypto provider on Ray Serve: `import_path: moiety_crypto_provider.ray_app:deploy`. See docs/scaling.md."""

from pydantic import BaseModel
from ray.serve import Application

from moiety_crypto_provider.app import build
from moiety_crypto_provider.settings import ProviderSettings
from moiety_service.ray_serve import application


class ProviderArguments(BaseModel):
    """Serve's config file has nothing to say to this application."""


def deploy(_arguments: ProviderArguments) -> Application:
    """Replicas of the provider. Their settings are those of `moiety provider`: MOIETY_PROVIDER_* in each node's
    environment."""
    return application("crypto_provider", "crypto_provider", ProviderSettings, build)
