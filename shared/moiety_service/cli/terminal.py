"""What all `moiety` commands share: how they end, and what they print where.

Data goes to stdout, everything else to stderr. Data is a table for people. With `--json` it is JSON lines, one object
a line, so that a program can read the results of a long run while it goes on. Text that others wrote, such as a
catalogue's descriptions or a model's names, is printed with its control characters escaped.
"""

import inspect
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety_shared.text import printable

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 1000  # columns where no terminal sets the width: nothing is wrapped


class Exit(IntEnum):
    """How a command ended. `meaning` says it in words."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> "Exit":
        made = int.__new__(cls, code)
        made._value_, made.meaning = code, meaning
        return made

    OK = 0, "The command succeeded."
    FAILED = 1, "The command failed or was refused. The last line on stderr says why, and what to do."
    USAGE = 2, "The command, a setting, a file or an input is wrong. Correct it first."
    UNAVAILABLE = 3, "A service does not answer, or cannot now. Run the same command again later."
    INACCURATE = 4, "The plan's answers differ too much from the model's. stderr names the layer that costs most."
    DISHONEST = 5, "An audit did not find all runs honest. stdout says who lied or does not answer, and in which run."
    INTERRUPTED = 130, "Ctrl-C."


Json = Annotated[bool, typer.Option("--json", help="Print JSON lines on stdout: one object a line.")]


def example(*lines: str) -> str:
    """The end of a command's help: examples of its use."""
    return "\n".join(("Example:", *(f"  {line}" for line in lines)))


def flowing(text: str) -> str:
    """A docstring as a command's help: each paragraph becomes one line, which the terminal wraps."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def say(text: object) -> None:
    """Print a message for people, on stderr."""
    print(printable(str(text), lines=True), file=sys.stderr)


def ended(code: Exit, text: object = "") -> typer.Exit:
    """Print why the command ends. Returns the exception that ends it with that code, for the caller to raise."""
    if text:
        say(text)
    return typer.Exit(code)


def line(data: Mapping[str, Any]) -> None:
    """Print one object of `--json`, without buffering."""
    print(json.dumps(data), flush=True)


def lines(data: Iterable[Mapping[str, Any]]) -> None:
    for one in data:
        line(one)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool = True, whole: str = "") -> None:
    """Print a table for people. Long cells wrap and are never cut off; those of the column `whole` do not wrap."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(show_header=header, box=box.SIMPLE_HEAD if header else None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=bool(whole) and column == whole)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(printable(str(cell), lines=True)) for cell in row))
    console().print(made)


def console() -> "Console":
    """A console on stdout, as wide as the terminal or as COLUMNS says; without either, wide enough for any row."""
    from rich.console import Console

    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else _WIDE, highlight=False)
