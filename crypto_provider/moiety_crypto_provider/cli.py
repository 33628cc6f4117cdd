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
    """Run the crypto provider. Its settings are MOIETY_PROVIDER_* (see docs/settings.md)."""
    gc.disable()  # until it serves: the imports below make half a million objects, and none is garbage

    from moiety_crypto_provider.app import build
    from moiety_crypto_provider.settings import ProviderSettings
    from moiety_service import service

    service.run("crypto_provider", ProviderSettings, build)


def patients() -> list["Patient"]:
    """How the crypto provider describes itself to `moiety doctor`."""
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
