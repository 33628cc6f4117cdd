"""The crypto provider on Ray Serve: `import_path: moiety_crypto_provider.ray_app:deploy`. See docs/scaling.md."""

from fastapi import FastAPI
from pydantic import BaseModel
from ray.serve import Application

from moiety_crypto_provider.app import build
from moiety_crypto_provider.settings import ProviderSettings
from moiety_service.observability import logs, tracing
from moiety_service.ray_serve import application, until_exit
from moiety_service.security.identity import Identity


class Arguments(BaseModel):
    """Serve's config file has nothing to say to this application."""


def deploy(_arguments: Arguments) -> Application:
    """Replicas of the provider. Their settings are those of `moiety provider`: MOIETY_PROVIDER_* in each node's
    environment."""

    def replica() -> FastAPI:
        settings = ProviderSettings()
        identity = Identity.load(settings.keys_dir / "crypto_provider", "crypto_provider")
        logs.configure("crypto_provider", settings.log_format, settings.log_level)
        return build(settings, identity, until_exit(tracing.exporting("crypto_provider")))

    return application("crypto_provider", replica)
