"""The `moiety` command. Each installed role contributes its own commands through an entry point."""

import os
import signal
import sys
from typing import Annotated

import typer

from moiety_service import disk
from moiety_service.cli.terminal import Exit, example, flowing, say
from moiety_service.http import healthcheck


def build(*, whole: bool = True) -> typer.Typer:
    """The command line. Unless `whole`, only the healthcheck, which runs every few seconds and so imports little."""
    app = typer.Typer(
        name="moiety",
        help="Private inference as a service: the owner keeps the model, the client keeps the data.",
        epilog=example("moiety demo     # all of it, on this machine", "moiety predict --help"),
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=True,
        rich_markup_mode="rich",
    )
    if whole:
        _register_all(app)
    else:
        app.callback()(lambda: None)  # keeps `healthcheck` a subcommand, though it is the only one
    healthcheck.register(app)
    _let_help_flow(app)
    return app


def _register_all(app: typer.Typer) -> None:
    from moiety_service import roles
    from moiety_service.cli import doctor, keys

    for role in roles.modules():
        role.register(app)
    app.callback()(_top)
    keys.register(app)
    doctor.register(app)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("moiety"))
        raise typer.Exit


def _top(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def _let_help_flow(app: typer.Typer) -> None:
    for command in app.registered_commands:
        command.help = flowing((command.callback and command.callback.__doc__) or "")
    for group in app.registered_groups:
        if group.typer_instance is not None:
            _let_help_flow(group.typer_instance)


def main() -> None:
    # The kernel ignores a signal that a container's first process has no handler for. Servers set their own handler.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    try:
        build(whole=sys.argv[1:2] != ["healthcheck"])(prog_name="moiety")
    except OSError as error:
        if not disk.is_full(error):
            raise
        say(disk.sentence(error))
        sys.exit(Exit.FAILED)
    except ModuleNotFoundError as error:
        if error.name is None or "." in error.name:
            raise
        say(f"this command needs {error.name}, which is not installed: pip install 'moiety[all]'")
        sys.exit(Exit.USAGE)


if __name__ == "__main__":
    main()
