"""`moiety provider`."""

import typer


def register(app: typer.Typer) -> None:
    app.command("provider", rich_help_panel="Roles")(provider)


def provider() -> None:
    """Run the crypto provider. Settings: MOIETY_PROVIDER_* (see docs/settings.md)."""
    from moiety_crypto_provider.app import build
    from moiety_crypto_provider.settings import ProviderSettings
    from moiety_shared.service import logs, serving

    settings = ProviderSettings()
    logs.configure("crypto_provider", settings.log_format)
    serving.serve(build(settings), settings)
