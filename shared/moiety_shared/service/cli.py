"""The `moiety` command. Each installed role contributes its own commands through an entry point."""

from importlib.metadata import entry_points, version
from typing import Annotated

import typer

from moiety_shared.service import doctor_cli, keys_cli
from moiety_shared.service.terminal import example, flowing


def build() -> typer.Typer:
    app = typer.Typer(
        name="moiety",
        help="Private inference as a service: the owner keeps the model, the client keeps the data.",
        epilog=example("moiety demo     # all of it, on this machine", "moiety predict --help"),
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=True,
        rich_markup_mode="rich",
    )
    for entry in sorted(entry_points(group="moiety.commands"), key=lambda e: e.name):
        try:
            register = entry.load()
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("moiety_"):
                raise
            continue  # a role whose extra is not installed offers no commands
        register(app)
    app.callback()(_top)
    keys_cli.register(app)
    doctor_cli.register(app)
    _let_help_flow(app)
    return app


def _print_version(asked: bool) -> None:
    if asked:
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
    build()(prog_name="moiety")


if __name__ == "__main__":
    main()
