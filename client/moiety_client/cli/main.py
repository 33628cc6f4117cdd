"""The command `moiety sidecar`. The client's other commands are in `requests.py`."""

from typing import TYPE_CHECKING

import typer

from moiety_client.cli import requests
from moiety_service.cli.terminal import Exit, ended, example

if TYPE_CHECKING:
    from moiety_service.cli.diagnosis import Patient


def register(app: typer.Typer) -> None:
    """Add the client's commands to the `moiety` command."""
    requests.register(app)
    app.command("sidecar", rich_help_panel="Roles", epilog=example("moiety sidecar"))(sidecar)


def sidecar() -> None:
    """Run the client's local REST sidecar. It reads the settings MOIETY_CLIENT_* (see docs/settings.md)."""
    from prometheus_client import CollectorRegistry

    from moiety_client.errors import AccessFileError, InsecureAddress
    from moiety_client.settings import ClientSettings
    from moiety_client.sidecar import ClientMetrics, Exposed, Upstream, build
    from moiety_service.http import serving
    from moiety_service.service import begun
    from moiety_service.startup import refusing

    with refusing():
        settings = ClientSettings()
        metrics = ClientMetrics(CollectorRegistry())
        with begun("client", settings) as tracer:
            try:
                telemetry = metrics.telemetry(tracer, settings.withhold_trace)
                upstream = Upstream.from_access(settings.access_file, timeout=settings.timeout, telemetry=telemetry)
                built = build(upstream, settings, metrics, tracer)
            except (AccessFileError, InsecureAddress, Exposed) as error:
                raise ended(Exit.USAGE, error) from None
            serving.serve(built, settings)


def patients() -> list["Patient"]:
    """Return what `moiety doctor` examines of a client."""
    from moiety_client.cli.diagnosis import access_file
    from moiety_client.settings import ClientSettings
    from moiety_service.cli.diagnosis import Patient

    return [
        Patient(
            role="client",
            title="moiety client sidecar",
            extra="client",
            start="moiety sidecar",
            settings=ClientSettings,
            keys=lambda _: None,
            present=lambda settings: settings.access_file.exists(),
            own=access_file,
        )
    ]
