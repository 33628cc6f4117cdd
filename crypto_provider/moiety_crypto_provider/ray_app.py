"""The crypto provider on Ray Serve: `import_path: moiety_crypto_provider.ray_app:deploy`. See docs/deployment.md."""

from pydantic import BaseModel
from ray.serve import Application

from moiety_crypto_provider.app import build
from moiety_crypto_provider.settings import ProviderSettings
from moiety_service.ray_serve import application


class ProviderArguments(BaseModel):
    """This application takes no arguments from Serve's config file."""


def deploy(_arguments: ProviderArguments) -> Application:
    """Replicas of the provider. Each reads the settings of `moiety provider`, MOIETY_PROVIDER_*, on its node."""
    return application("crypto_provider", "crypto_provider", ProviderSettings, build)
