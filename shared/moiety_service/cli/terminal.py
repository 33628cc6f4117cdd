"""What all `moiety` commands have in common: how they end, and what they print where.

Whatever others wrote, a catalogue's descriptions, a model's names, is shown with what a terminal obeys written out.
Data goes to stdout, everything else to stderr. Data is a table for people; with `--json` it is JSON lines, one object a
line for each thing there is, so that a long run can be read while it goes on.
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

_WIDE = 1000  # where nobody looks on, nothing is cut


class Exit(IntEnum):
    """How a command ended; `meaning` says it in words."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> "Exit":
        made = int.__new__(cls, code)
        made._value_, made.meaning = code, meaning
        return made

    OK = 0, "It is done."
    FAILED = 1, "It failed, or was refused; the last line on stderr says why and what to do."
    USAGE = 2, "The command, a setting, a file or an input is wrong: fix that first."
    UNAVAILABLE = 3, "Somebody does not answer, or not now. The same command may be given again."
    INTERRUPTED = 130, "Ctrl-C."


Json = Annotated[bool, typer.Option("--json", help="Print JSON lines on stdout: one object a line.")]


def example(*lines: str) -> str:
    """The end of a command's help: how it is called."""
    return "\n".join(("Example:", *(f"  {line}" for line in lines)))


def flowing(text: str) -> str:
    """A docstring as help: paragraphs that break where the terminal does."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))


def say(text: object) -> None:
    """A line for whoever looks on."""
    print(printable(str(text), lines=True), file=sys.stderr)


def ended(code: Exit, text: object = "") -> typer.Exit:
    """To be raised: says why, and ends with that code."""
    if text:
        say(text)
    return typer.Exit(code)


def line(data: Mapping[str, Any]) -> None:
    """One object of `--json`, at once."""
    print(json.dumps(data), flush=True)


def lines(data: Iterable[Mapping[str, Any]]) -> None:
    for one in data:
        line(one)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, header: bool = True, whole: str = "") -> None:
    """For people. Nothing is cut off; what is in the column `whole` is not broken either."""
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
    """stdout; as wide as the terminal or as COLUMNS says, and where there is neither as wide as need be."""
    from rich.console import Console

    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else _WIDE, highlight=False)
