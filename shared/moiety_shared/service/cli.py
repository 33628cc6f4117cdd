"""The `moiety` command. Each installed role contributes its own commands through an entry point."""

import os
import signal
import sys
from importlib.metadata import entry_points

import typer

from moiety_shared.service import healthcheck, keys_cli


def build(*, roles: bool = True) -> typer.Typer:
    """The command line; without the roles' commands it is there in no time."""
    app = typer.Typer(
        name="moiety",
        help="Private inference as a service: the owner keeps the model, the client keeps the data.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=True,
    )
    for entry in sorted(entry_points(group="moiety.commands"), key=lambda e: e.name) if roles else ():
        try:
            register = entry.load()
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing.startswith("moiety_") and missing != entry.module.partition(".")[0]:
                raise
            continue  # a role that is not here, or whose extra is not installed, offers no commands
        register(app)
    keys_cli.register(app)
    healthcheck.register(app)
    return app


def main() -> None:
    # The first process of a container is not ended by a signal that it does not handle; servers set their own handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    build(roles=sys.argv[1:2] != ["healthcheck"])()


if __name__ == "__main__":
    main()
