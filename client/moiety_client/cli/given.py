"""What somebody names on the command line for a model to answer: files, folders of them, and texts."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from moiety_client.cli import showing
from moiety_service.cli.terminal import Exit, ended

if TYPE_CHECKING:
    from moiety_shared.messages.catalogue import Entry
    from moiety_shared.tabular import Others

_STACKS, _LINES = (".npy", ".npz", ".csv"), (".txt",)  # files of several inputs; a folder's .txt files are none
_LABELS = 1 << 27  # bytes of a text file: enough for some ten million labels


def found(files: list[str]) -> list[Path | str]:
    """Return the files, and those in the folders, sorted by name. What is no file may be a text."""
    from moiety_client.pictures import SUFFIXES

    found: list[Path | str] = []
    for given in files:
        path = Path(given)
        if _is(path.is_dir):
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in (*SUFFIXES, *_STACKS))
            if not inside:
                raise ended(Exit.USAGE, f"{path} contains no pictures, arrays or tables")
            found.extend(inside)
        elif _is(path.is_file):
            found.append(path)
        elif path.suffix.lower() in (*SUFFIXES, *_STACKS, *_LINES):
            raise ended(Exit.USAGE, f"{path} does not exist")
        else:
            found.append(given)
    return found


def _is(kind: Callable[[], bool]) -> bool:
    """Whether a path is of a kind. A text that is too long for a path is of none."""
    try:
        return kind()
    except OSError:
        return False


class GivenInputs:
    """The inputs, read one file after another, and the place of each: a file or a text, or a row of a file.

    If a file is not there, the command ends before it asks the parties.
    """

    def __init__(self, entry: "Entry", found: list[Path | str], columns: str) -> None:
        self._entry, self._found, self._others = entry, found, others(columns)
        self.places: deque[showing.Place] = deque()
        for text in found:
            if isinstance(text, str) and entry.tokens is None:
                raise ended(
                    Exit.USAGE, f"{text} does not exist: name pictures, .npy, .npz or .csv files, or folders of them"
                )

    def __iter__(self) -> Iterator[Any]:
        from moiety_client import inputs

        for path in self._found:
            rows = inputs.rows(self._entry, path, self._others)
            self.places.extend((path, at if _is_stack(path) else None) for at in range(len(rows)))
            yield rows

    def __length_hint__(self) -> int:
        """Return how many inputs there are, or 0 if that is not known before they are read."""
        return 0 if any(map(_is_stack, self._found)) else len(self._found)

    def taken(self, count: int) -> list[showing.Place]:
        """Return the places of the next `count` inputs, and forget them."""
        return [self.places.popleft() for _ in range(count)]


def _is_stack(path: Path | str) -> bool:
    return isinstance(path, Path) and path.suffix.lower() in (*_STACKS, *_LINES)


def others(text: str) -> "Others":
    """Return what becomes of columns that the model does not take. Another text ends the command."""
    if text not in ("strict", "ignore"):
        raise typer.BadParameter("choose strict or ignore", param_hint="--columns")
    return "ignore" if text == "ignore" else "strict"


def read_labels(path: Path) -> Any:
    from moiety_service import files

    try:
        if path.suffix.lower() == ".npy":
            return files.array(path)
        lines = files.content(path, _LABELS).decode().split("\n")
        return [text.strip() for text in lines if text.strip()]
    except (OSError, ValueError) as error:
        text = f"{path} cannot be read as labels ({error}): pass .npy, or a text file with one label on each line"
        raise ended(Exit.USAGE, text) from None
