"""The command `moiety syft run`."""

from pathlib import Path
from typing import Annotated

import typer

from moiety_service.cli.terminal import example

_EXAMPLE = "moiety syft run part11.py DATA 10 200"


def register(app: typer.Typer) -> None:
    """Add `moiety syft` to the `moiety` command."""
    syft = typer.Typer(no_args_is_help=True, help="Run programs that were written for PySyft 0.2 (see docs/syft.md).")
    syft.callback()(lambda: None)
    everything = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
    syft.command("run", context_settings=everything, epilog=example(_EXAMPLE))(run)
    app.add_typer(syft, name="syft", rich_help_panel="All roles on this machine")


def run(
    program: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The program. It needs no changes.")],
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments of the program.")] = None,
) -> None:
    """Run a program that was written for PySyft 0.2 as it stands: `import syft as sy` gives the dialect.

    That holds in this process alone. moiety installs and changes nothing: another package called syft stays as it is.
    """
    from moiety_syft import program as programs

    raise typer.Exit(programs.run(program, arguments or []))
