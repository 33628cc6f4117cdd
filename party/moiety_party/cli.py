"""`moiety party alice` and `moiety party bob`."""

import gc
from typing import TYPE_CHECKING, Literal

import typer

from moiety_service.cli.terminal import example

if TYPE_CHECKING:
    from moiety_service.cli.diagnosis import Patient


def register(app: typer.Typer) -> None:
    app.command("party", rich_help_panel="Roles", epilog=example("moiety party alice"))(party)


def party(
    role: Literal["alice", "bob"] = typer.Argument(
        ..., help="alice leads each run and answers the clients. bob computes with her."
    ),
) -> None:
    """Run a computing party. Settings: MOIETY_PARTY_* (see docs/settings.md)."""
    gc.disable()  # until it serves: the imports below make half a million objects, and none is garbage

    from moiety_party.app import build
    from moiety_party.lane import MAX_MESSAGE
    from moiety_party.settings import PartySettings
    from moiety_service import service

    service.run(role, lambda: PartySettings(role=role), build, max_message=MAX_MESSAGE)


def patients() -> list["Patient"]:
    """For `moiety doctor`."""
    from moiety_party.settings import PartySettings
    from moiety_service.cli.diagnosis import Patient, Service

    def calls(settings: PartySettings) -> list[Service]:
        ca = settings.keys_dir / settings.role / "tls" / "ca.pem"
        trusted = ca if ca.exists() else None
        title, start = "moiety crypto provider", "moiety provider"
        provider = Service("crypto_provider", title, settings.provider_url, trusted, "MOIETY_PARTY_PROVIDER_URL", start)
        if settings.role == "bob":
            return [provider]
        url = settings.peer_url.replace("ws", "http", 1)
        return [provider, Service("bob", "moiety party bob", url, trusted, "MOIETY_PARTY_PEER_URL", "moiety party bob")]

    def one(role: Literal["alice", "bob"]) -> Patient:
        return Patient(
            role=role,
            title=f"moiety party {role}",
            extra="party",
            start=f"moiety party {role}",
            settings=lambda: PartySettings(role=role),
            keys=lambda settings: settings.keys_dir / role,
            present=lambda settings: (settings.keys_dir / role).is_dir(),
            calls=calls,
        )

    return [one("alice"), one("bob")]
