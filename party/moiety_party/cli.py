"""`moiety party alice` and `moiety party bob`."""

from typing import Literal

import typer


def register(app: typer.Typer) -> None:
    app.command("party", rich_help_panel="Roles")(party)


def party(
    role: Literal["alice", "bob"] = typer.Argument(..., help="alice leads and faces the clients; bob helps."),
) -> None:
    """Run a computing party. Settings: MOIETY_PARTY_* (see docs/settings.md)."""
    from moiety_party.app import build
    from moiety_party.lane import MAX_MESSAGE
    from moiety_party.settings import PartySettings
    from moiety_shared.service import logs, memory, serving, tracing
    from moiety_shared.service.identity import Identity
    from moiety_shared.service.starting import refusing

    with refusing():
        settings = PartySettings(role=role)
        identity = Identity.load(settings.keys_dir / role, role)
        logs.configure(role, settings.log_format, settings.log_level)
        memory.keep_freed_pages()
        with tracing.exporting(role) as tracer:
            app = build(settings, identity, tracer)
            serving.serve(app, settings, tls=settings.tls(identity), max_message=MAX_MESSAGE)
