"""The `moiety` command. Each installed role contributes its own commands through an entry point."""

from importlib.metadata import entry_points

import typer

from moiety_shared.service import keys_cli


def build() -> typer.Typer:
    app = typer.Typer(
        name="moiety",
        help="Private inference as a service: the owner keeps the model, the client keeps the data.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=True,
    )
    for entry in sorted(entry_points(group="moiety.commands"), key=lambda e: e.name):
        try:
            register = entry.load()
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("moiety_"):
                raise
            continue  # a role whose extra is not installed offers no commands
        register(app)
    keys_cli.register(app)
    return app


def main() -> None:
    build()()


if __name__ == "__main__":
    main()
