"""A CSV file of real rows, on which a model of a table is calibrated, and what the file shows of its columns."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_service import csv_file, files
from moiety_service.csv_file import BadTable
from moiety_shared.messages.table import Column
from moiety_shared.text import printable

WIDENED = (
    0.1  # of the width that a file shows, on each side: what comes later is seldom further out, and clients refuse it
)
_DIGITS = 3  # of a guessed range's ends: no end is a value of a row
_MOST_CATEGORIES = 1000  # a text of more kinds is a name or an id; each kind is an element of every row
_MOST_COLUMNS_FILE = 1 << 24  # bytes: sixteen thousand columns, or a thousand with as many categories each
_NAMED = 6
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CalibrationRows:
    """The rows of a file. `cells` holds a column's texts, (rows,), with None where a cell is missing; of an array its
    numbers, with NaN.

    `target` holds the cells of the column that the model predicts. It is no input.
    """

    file: str
    cells: Mapping[str, Array]
    target: Array | None = None

    @classmethod
    def read(cls, path: Path, target: str | None = None, declared: Sequence[Column] | None = None) -> "CalibrationRows":
        """Read a file. `declared` says which columns have categories: "NA" is one where it is declared, else a missing
        value. Raises NotServable, with what to do."""
        name = shown(path.name)
        try:
            cells = csv_file.read(path, {column.name: column.categories for column in declared or ()})
        except OSError as error:
            raise NotServable(f"{name} cannot be read: {error.strerror}") from None
        except (BadTable, files.TooLarge) as error:
            raise NotServable(f"{name}: {error}") from None
        if target is None:
            return cls(name, cells)
        if target not in cells:
            raise NotServable(f"{name} has no column {_nearest(target, cells)} for --target")
        wanted = cells.pop(target)
        if not cells:
            raise NotServable(f"{name} has no columns but the target")
        if any(value is None for value in wanted):
            raise NotServable(f"{name} has rows without a {shown(target)}: leave them out, or take no --target")
        return cls(name, cells, wanted)

    @classmethod
    def of_array(cls, path: Path, array: Array) -> "CalibrationRows":
        """Take rows from an array (rows, columns) of numbers. The columns are called x0, x1, and so on."""
        return cls(shown(path.name), {f"x{at}": column for at, column in enumerate(array.T.astype(np.float64))})

    def guessed(self) -> tuple[Column, ...]:
        """Say what the file shows of each column: a number with a range, or a category. Raises NotServable."""
        return tuple(self._column(name, cells) for name, cells in self.cells.items())

    def _column(self, name: str, cells: Array) -> Column:
        known = _known(cells)
        if not known:
            raise NotServable(f"{self.file}: the column {shown(name)} is empty. Instead: leave it out")
        missing = "flag" if len(known) < len(cells) else "refuse"
        numbers = numbers_of(known)
        kinds = [] if numbers is not None else sorted(set(known))
        if any(text != printable(text) for text in (name, *kinds)):
            raise NotServable(
                f"{self.file}: the column {shown(name)} has line ends or control characters in its name or its texts. "
                "Instead: write them without"
            )
        if numbers is not None:
            low, high = widened(min(numbers), max(numbers))
            return Column(name=name, kind="number", low=low, high=high, missing=missing)
        if len(kinds) > _MOST_CATEGORIES:
            raise NotServable(f"{self.file}: the column {shown(name)} {_many(known, len(kinds))}")
        return Column(name=name, kind="category", categories=tuple(kinds), missing=missing)

    def chosen(self, names: Iterable[str], whose: str) -> dict[str, Array]:
        """Return these columns. Raises NotServable for one that the file lacks; `whose` says who names it."""
        wanted = list(names)
        lost = [_nearest(name, self.cells) for name in wanted if name not in self.cells]
        if lost:
            more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
            raise NotServable(f"{self.file} lacks columns that {whose}: {', '.join(lost[:_NAMED])}{more}")
        return {name: self.cells[name] for name in wanted}

    def typed(self) -> dict[str, Array]:
        """Return the columns as pandas reads them: int64, float64 with NaN where a cell is missing, or texts."""
        return {name: typed(cells) for name, cells in self.cells.items()}


def _known(cells: Array) -> list[Any]:
    """Return the cells that are not missing. NaN alone differs from itself."""
    return [cell for cell in cells.tolist() if cell is not None and cell == cell]


def numbers_of(texts: Iterable[Any]) -> list[float] | None:
    """Return texts or numbers as finite numbers, or None if one is no such number."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def typed(cells: Array) -> Array:
    """Return a column as pandas reads it: int64, float64 with NaN where a cell is missing, or texts with NaN."""
    if cells.dtype.kind == "f":
        return cells
    numbers = numbers_of(_known(cells))
    if numbers is None:
        return np.array([np.nan if text is None else text for text in cells], dtype=object)
    try:
        return np.array([int(text) for text in cells.tolist()], dtype=np.int64)
    except (TypeError, ValueError, OverflowError):  # missing, with a decimal point, or of more than 64 bits
        return np.array([np.nan if text is None else float(text) for text in cells])


def widened(low: float, high: float) -> tuple[float, float]:
    """Return a range that is wider than what was seen, with ends of few digits.

    A tenth of the width is added on each side. Where nothing is below 0, the range does not go there.
    """
    more = WIDENED * ((high - low) or max(abs(low), 1.0))
    step = 10.0 ** (math.floor(math.log10(high - low + 2 * more)) - _DIGITS + 1)
    # Rounded first: 12.7 is 126.99999999999999 steps of 0.1.
    ends = math.floor(round((low - more) / step, 6)) * step, math.ceil(round((high + more) / step, 6)) * step
    return _short(0.0 if low >= 0 > ends[0] else ends[0]), _short(ends[1])


def _short(number: float) -> float:
    """Return a number without the digits that come of binary fractions: 0.30000000000000004."""
    return float(f"{number:.12g}")


def _many(known: Sequence[str], kinds: int) -> str:
    if sum(text.replace(",", ".", 1).lstrip("-").replace(".", "", 1).isdigit() for text in known) > len(known) // 2:
        return "holds numbers with a decimal comma, or texts among numbers. Instead: write numbers with a decimal point"
    return (
        f"holds {kinds:,} different texts, where {_MOST_CATEGORIES:,} categories are served. Instead: leave it out if "
        "it is a name or an id"
    )


def _nearest(name: str, known: Iterable[str]) -> str:
    """Name a column, and the one that may be meant."""
    folded = {one.casefold(): one for one in known}
    near = get_close_matches(name.casefold(), folded, 1)
    return shown(name) + (f" (is it {shown(folded[near[0]])!r}?)" if near else "")


# Columns that the owner declares


def read_columns(path: Path) -> tuple[Column, ...]:
    """Read a JSON list of columns, as `write_columns` writes it and the catalogue has it. Raises NotServable."""
    name = shown(path.name)
    try:
        columns = TypeAdapter(tuple[Column, ...]).validate_json(files.content(path, _MOST_COLUMNS_FILE))
    except OSError as error:
        raise NotServable(f"{name} cannot be read: {error.strerror}") from None
    except files.TooLarge as error:
        raise NotServable(f"{name}: {error}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = " of column ".join(str(part) for part in reversed(first["loc"][:2]))
        raise NotServable(
            f"{name} is no list of columns: {shown(f'{where}: ' if where else '')}{first['msg']}"
        ) from None
    if not columns:
        raise NotServable(f"{name} declares no column")
    return columns


def write_columns(path: Path, columns: Sequence[Column]) -> None:
    """Write columns as a JSON list for the owner to edit: one line for each. Raises OSError."""
    lines = (json.dumps(_edited(column), ensure_ascii=False) for column in columns)
    path.write_text("[\n  " + ",\n  ".join(lines) + "\n]\n")


def _edited(column: Column) -> dict[str, Any]:
    """Return what an owner may want to change of a column."""
    always = {"name", "kind", "missing", "unit", "description"}
    always |= {"unknown"} if column.kind == "category" else {"low", "high", "outside"}
    stated = column.model_dump(mode="json", exclude_defaults=True)
    return {name: value for name, value in column.model_dump(mode="json").items() if name in always or name in stated}


def described(columns: Sequence[Column]) -> Iterator[tuple[str, str]]:
    """Yield each column's name, and in words what clients send of it."""
    for column in columns:
        words = [f"{column.low:g} to {column.high:g}"] if column.low is not None and column.high is not None else []
        if column.kind == "bins":
            words.append("one edge" if len(column.edges) == 1 else f"{len(column.edges):,} edges")
        if column.kind == "category":
            more = f", ... ({len(column.categories):,} in all)" if len(column.categories) > _NAMED else ""
            words.append(", ".join(map(str, column.categories[:_NAMED])) + more)
        if column.missing != "refuse":
            words.append("may be missing")
        yield column.name, "; ".join(words) or "any number"
