"""`moiety provider`."""

import gc
from typing import TYPE_CHECKING

import typer

from moiety_service.cli.terminal import example

if TYPE_CHECKING:
    from moiety_service.cli.diagnosis import Patient


def register(app: typer.Typer) -> None:
    app.command("provider", rich_help_panel="Roles", epilog=example("moiety provider"))(provider)


def provider() -> None:
    """Run the crypto provider. Settings: MOIETY_PROVIDER_* (see docs/settings.md)."""
    gc.disable()  # until it serves: half a million objects are imported, and none is garbage

    from moiety_crypto_provider.app import build
    from moiety_crypto_provider.settings import ProviderSettings
    from moiety_service.http import serving
    from moiety_service.observability import logs, tracing
    from moiety_service.security.identity import Identity
    from moiety_service.startup import refusing

    with refusing():
        settings = ProviderSettings()
        identity = Identity.load(settings.keys_dir / "crypto_provider", "crypto_provider")
        logs.configure("crypto_provider", settings.log_format, settings.log_level)
        with tracing.exporting("crypto_provider") as tracer:
            serving.serve(build(settings, identity, tracer), settings, tls=settings.tls(identity))


def patients() -> list["Patient"]:
    """For `moiety doctor`."""
    from moiety_crypto_provider.settings import ProviderSettings
    from moiety_service.cli.diagnosis import Patient

    return [
        Patient(
            role="crypto_provider",
            title="moiety crypto provider",
            extra="crypto-provider",
            start="moiety provider",
            settings=ProviderSettings,
            keys=lambda settings: settings.keys_dir / "crypto_provider",
            present=lambda settings: (settings.keys_dir / "crypto_provider").is_dir(),
        )
    ]
