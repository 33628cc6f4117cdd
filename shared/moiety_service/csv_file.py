"""Reads tables from CSV files: the rows that an owner calibrates on, and those that a client asks about.

The first line names the columns. Cells are separated by commas, semicolons or tabs, whichever the first line has most
of. Numbers have a decimal point. A cell that is empty, or holds what pandas writes and reads for it, is missing, unless
this is a category of its column.
"""

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moiety_service import files

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_BYTES = 1 << 26  # a million rows of twelve short numbers; as Python's texts they take some 1 GB
_MOST_COLUMNS = 1 << 14  # as many as a catalogue entry declares
_MOST_CELL = 200  # characters of a cell or a name: the longest category and name that a catalogue entry declares
_SEPARATORS = ",;\t"
_MISSING = frozenset(("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "-nan", "-NaN", "NULL", "null", "None"))
"""The texts for a missing value that `pandas.read_csv` knows, but for those that only Excel's errors have."""


class BadTable(ValueError):
    """A file holds no table. The text names a line, counted from 1, or a column, and never contains a value."""


def read(path: Path, categories: Mapping[str, Collection[object]] | None = None) -> "dict[str, npt.NDArray[Any]]":
    """Return the columns by name, in the file's order: arrays of objects, (rows,), each a text or None where a cell is
    missing. `categories` are those of columns that have some: "NA" is one where it is among them.

    Raises BadTable; OSError if the file cannot be read; files.TooLarge if it has more than MOST_BYTES.
    """
    import numpy as np

    try:
        text = files.content(path, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadTable("is no text in UTF-8: save it as CSV in UTF-8") from None
    lines = _lines(text)
    try:
        _, names = next(lines, (1, []))
        _check_names(names)
        known = categories or {}
        missing = [_MISSING.difference(known.get(name, ())) for name in names]
        rows = [_cells(at, line, missing) for at, line in lines]
    except csv.Error as error:
        raise BadTable(f"is no CSV file: {error}") from None
    if not rows:
        raise BadTable("has no rows below the names of its columns")
    return {name: np.array(cells, dtype=object) for name, cells in zip(names, zip(*rows, strict=True), strict=True)}


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is not empty, and its cells without the blanks around them."""
    first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    for cells in reader:
        if cells:
            yield reader.line_num, [cell.strip() for cell in cells]


def _check_names(names: Sequence[str]) -> None:
    if not 1 <= len(names) <= _MOST_COLUMNS:
        raise BadTable(f"has {len(names):,} columns, where 1 to {_MOST_COLUMNS:,} are read")
    if any(not 1 <= len(name) <= _MOST_CELL for name in names):
        raise BadTable(f"has a column whose name is empty or longer than {_MOST_CELL} characters")
    if len(set(names)) < len(names):
        raise BadTable("has two columns of one name")
    if all(_is_number(name) for name in names):
        raise BadTable("has numbers in its first line, which has to name the columns")


def _cells(at: int, line: Sequence[str], missing: Sequence[frozenset[str]]) -> list[str | None]:
    if len(line) != len(missing):
        raise BadTable(f"line {at} has {len(line):,} cells, and the first line names {len(missing):,} columns")
    if any(len(cell) > _MOST_CELL for cell in line):
        raise BadTable(f"line {at} has a cell of more than {_MOST_CELL} characters")
    return [None if cell in absent else cell for cell, absent in zip(line, missing, strict=True)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
