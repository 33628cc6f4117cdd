"""Turns the columns of a table into what a model takes, as `messages/table.py` declares it.

Whoever encodes rows calls this: a client before it splits them, a server with the rows that it measures a model on.

A column is a NumPy array of one axis. It holds numbers, booleans, or objects: text, numbers, and None for a missing
value. NaN is a missing value too, and so are a masked element and empty text, unless "" is a category. Text stands for
the number that it spells, and a category may be given as text or as the number that its text spells.
"""

from collections.abc import Hashable, Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from itertools import repeat
from types import NoneType
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from moiety_shared.fixed_point import RingArray, clipped, ring_dtype
from moiety_shared.messages.table import Column, Tabular

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Others = Literal["strict", "ignore"]
"""What becomes of columns that the model does not take: they are refused, or left out."""

_READ = (str, bool, int, float, Decimal, NoneType, np.bool_, np.integer, np.floating)
"""What a number is read from. numpy itself would also read a date, as the number of its days."""
_WRONG_KINDS = {"M": "dates", "m": "durations", "c": "complex numbers", "S": "bytes", "V": "records"}
_NAMED = 6


class BadColumn(ValueError):
    """A column does not fit what a table declares. The text says which column and row, and never contains a value.

    - `what` is the text without the row.
    - `column` is the column's name, or None where the columns as such are wrong.
    - `rows` are the places of all rows that do not fit, an array of ints from 0; `row` is the first, or None.
    - `value` is what is in that row. `beyond` is how far a number is out of the range, in the column's own unit: below
      it if negative, above it if positive. Both belong to whoever holds the table: no log may have them.
    """

    def __init__(
        self,
        what: str,
        *,
        column: str | None = None,
        rows: npt.NDArray[np.intp] | None = None,
        value: Any = None,
        beyond: float | None = None,
    ) -> None:
        self.rows = np.empty(0, dtype=np.intp) if rows is None else rows
        self.row = int(self.rows[0]) if len(self.rows) else None
        super().__init__(what if self.row is None else f"row {self.row}, {what}")
        self.what, self.column, self.value, self.beyond = what, column, value, beyond


def encode(
    table: Tabular,
    columns: Mapping[str, Values],
    *,
    others: Others = "strict",
    dtype: type[np.float32] | type[np.float64] = np.float64,
) -> npt.NDArray[Any]:
    """Return the elements of each row, (rows, table.size), as floats between -1 and 1. Raises BadColumn."""
    chosen, count = _chosen(table, columns, others)
    out = np.zeros((count, table.size), dtype=dtype)
    _write(table, chosen, out, 1.0)
    return out


def encode_ring(
    table: Tabular, columns: Mapping[str, Values], *, frac_bits: int, ring_bits: int, others: Others = "strict"
) -> RingArray:
    """Return the elements of each row as ring elements, (rows, table.size). Raises BadColumn.

    They are what `encode` returns, times 2^frac_bits and rounded to nearest."""
    chosen, count = _chosen(table, columns, others)
    out: RingArray = np.zeros((count, table.size), dtype=ring_dtype(ring_bits))
    _write(table, chosen, out, 2.0**frac_bits)
    return out


def _chosen(table: Tabular, columns: Mapping[str, Values], others: Others) -> tuple[list[Values], int]:
    """Return the columns that the table declares, in its order, and the number of rows. Raises BadColumn."""
    check_names(table, columns, others)
    chosen = [columns[column.name] for column in table.columns]
    for column, values in zip(table.columns, chosen, strict=True):
        if values.ndim != 1:
            raise BadColumn(f"column {column.name!r} has {values.ndim} axes: a column has one", column=column.name)
    if len(set(map(len, chosen))) > 1:
        lengths = ", ".join(f"{c.name} {len(v)}" for c, v in zip(table.columns[:_NAMED], chosen, strict=False))
        raise BadColumn(f"the columns have different lengths: {lengths}{_more(len(chosen))}")
    return chosen, len(chosen[0])


def check_names(table: Tabular, names: Iterable[str], others: Others = "strict") -> None:
    """Raise BadColumn unless `names` are those of the table's columns, in any order."""
    given, declared = list(names), {column.name for column in table.columns}
    extra = [name for name in given if name not in declared]
    missing = [column.name for column in table.columns if column.name not in set(given)]
    if missing:
        hints = [_hinted(name, extra) for name in missing[:_NAMED]]
        raise BadColumn(f"missing columns: {', '.join(hints)}{_more(len(missing))}")
    if extra and others == "strict":
        shown = ", ".join(map(str, extra[:_NAMED])) + _more(len(extra))
        raise BadColumn(
            f'the model takes no columns {shown}: drop them, or leave them out (columns="ignore", or --columns ignore)'
        )


def _hinted(name: str, extra: list[str]) -> str:
    """Name a missing column, and beside it the given one that may be meant."""
    folded = {str(one).casefold(): one for one in reversed(extra)}
    near = get_close_matches(name.casefold(), folded, 1)
    return f"{name} (is it {folded[near[0]]!r}?)" if near else name


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""


def _write(table: Tabular, columns: list[Values], out: Values, one: float) -> None:
    """Write each column's elements times `one` into its block of `out`, which holds zeros."""
    at = 0
    for column, values in zip(table.columns, columns, strict=True):
        block = out[:, at : at + column.size]
        at += column.size
        missing = _category(column, values, block, one) if column.kind == "category" else None
        if missing is None:
            missing = _numeric(column, values, table.precision, block, one)
        if column.missing == "flag":
            block[missing] = 0
            block[missing, -1] = one


# Numbers and bins


def _numeric(column: Column, values: Values, precision: str, block: Values, one: float) -> Mask:
    """Write the elements of a number or of bins, and return which rows are missing."""
    own = np.ma.getdata(values)
    x = _read(column, own)
    missing = np.isnan(x) | np.ma.getmaskarray(values)
    stand_in = _stand_in(column, missing, own)
    x = np.where(missing, stand_in, x)
    x = _in_range(column, x, own)
    if column.kind == "number":
        low, high = column.range
        middle, half = low / 2 + high / 2, high / 2 - low / 2
        block[:, 0] = _rounded(((x - middle) / half).clip(-1, 1) * one, block.dtype)
        return missing
    with np.errstate(over="ignore"):
        x = x.astype(precision).astype(np.float64)
    count = np.searchsorted(np.array(column.edges), x)  # so many edges are below x
    np.multiply(count[:, None] > np.arange(len(column.edges)), block.dtype.type(one), out=block[:, : len(column.edges)])
    return missing


def _rounded(x: npt.NDArray[np.float64], dtype: npt.DTypeLike) -> npt.NDArray[np.float64]:
    return x if np.issubdtype(dtype, np.floating) else np.rint(x)


def _read(column: Column, values: Values) -> npt.NDArray[np.float64]:
    """Return a column as numbers, with NaN where a value is missing."""
    _check_kind(column, values)
    if values.dtype.kind in "fiub":
        return values.astype(np.float64)
    _check_types(column, values)
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = [_number(value) for value in values.tolist()]
    wrong = [at for at, number in enumerate(numbers) if number is None]
    if wrong:
        _refuse(column, np.array(wrong), values, "is no number")
    return np.array(numbers, dtype=np.float64)


def _check_kind(column: Column, values: Values) -> None:
    wrong = _WRONG_KINDS.get(values.dtype.kind)
    if wrong:
        wanted = "text or whole numbers" if column.kind == "category" else "numbers"
        raise BadColumn(f"column {column.name!r} holds {wrong}: the model takes {wanted} there", column=column.name)


def _check_types(column: Column, values: Values) -> None:
    """Raise BadColumn if an object is of a type that stands for no number."""
    foreign = tuple(kind for kind in set(map(type, values.tolist())) if not issubclass(kind, _READ))
    if foreign:
        wrong = np.array([at for at, value in enumerate(values.tolist()) if isinstance(value, foreign)])
        _refuse(column, wrong, values, "is no number")


def _number(value: Any) -> float | None:
    """Return a number, NaN if it is missing, or None if it is text that spells no number."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf
    except ValueError:
        return None


def _in_range(column: Column, x: npt.NDArray[np.float64], own: Values) -> npt.NDArray[np.float64]:
    """Return the numbers within the column's range. Raises BadColumn for those outside, and for infinite ones."""
    infinite = np.flatnonzero(np.isinf(x))
    if len(infinite):
        _refuse(column, infinite, own, "is infinite")
    low, high = column.range
    inside = x.clip(low, high) if column.outside == "clip" else clipped(x, low, high, *_ends(column, own))
    wrong = np.flatnonzero(inside != inside.clip(low, high))
    if len(wrong):
        first = x[wrong[0]]
        beyond = float(first - (low if first < low else high))
        unit = f" {column.unit}" if column.unit else ""
        side = f"is {'below' if beyond < 0 else 'above'} the range {low:g} to {high:g}{unit}"
        _refuse(column, wrong, own, side, beyond)
    return inside


def _ends(column: Column, own: Values) -> tuple[float, float]:
    """Return the ends of the range as the type of a column has them."""
    if own.dtype.kind != "f":
        return column.range
    with np.errstate(over="ignore"):
        low, high = (float(own.dtype.type(end)) for end in column.range)
    return low, high


# Categories


def _category(column: Column, values: Values, block: Values, one: float) -> Mask:
    """Write the elements of a category, and return which rows are missing."""
    own = np.ma.getdata(values)
    _check_kind(column, own)
    index = _spellings(column)
    if own.dtype.kind in "fiub":
        distinct, inverse = np.unique(own, return_inverse=True)
        at = _places(index, distinct.tolist())[inverse]
    else:
        at = _places(index, own.tolist())
    missing: Mask = (at == _MISSING) | np.ma.getmaskarray(values)
    fill = _stand_in(column, missing, own)
    at[missing] = index.get(fill, _UNKNOWN) if column.missing == "fill" else _UNKNOWN
    unknown = np.flatnonzero((at == _UNKNOWN) & ~missing)
    if len(unknown) and column.unknown == "refuse":
        shown = ", ".join(map(str, column.categories[:_NAMED])) + _more(len(column.categories))
        _refuse(column, unknown, own, f"is none of {shown}")
    known = np.flatnonzero(at >= 0)
    block[known, at[known]] = one
    return missing


_UNKNOWN, _MISSING = -1, -2


def _spellings(column: Column) -> dict[Hashable, int]:
    """Return the place of each category under all that stands for it.

    A number stands for the text that it is written as, and text for the number, so "3" and 3.0 are 3, and "03" is not.
    True and False stand for 1 and 0, or for their names.
    """
    index: dict[Hashable, int] = {category: at for at, category in enumerate(column.categories)}
    for at, category in enumerate(column.categories):
        text = str(category)
        if text in ("True", "False"):
            index.setdefault(text == "True", at)
        elif text.removeprefix("-").isdecimal() and text == str(int(text)):
            for same in (int(text), text, f"{text}.0"):
                index.setdefault(same, at)
    return index


def _places(index: Mapping[Hashable, int], values: list[Any]) -> npt.NDArray[np.intp]:
    """Return which category each value is. Most are known, so the others alone are looked at."""
    try:
        at = np.fromiter(map(index.get, values, repeat(_UNKNOWN)), np.intp, len(values))
    except TypeError:  # a value that is no key, such as a list
        values = [value if _is_key(value) else type(value) for value in values]
        at = np.fromiter(map(index.get, values, repeat(_UNKNOWN)), np.intp, len(values))
    others = np.flatnonzero(at == _UNKNOWN)
    at[others] = [_MISSING if _is_absent(values[other]) else _UNKNOWN for other in others.tolist()]
    return at


def _is_key(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_absent(value: Any) -> bool:
    """Whether a value that is no category is None, empty text or NaN."""
    return value is None or value == "" or (isinstance(value, float | Decimal | np.floating) and value != value)


# What all columns have in common


def _stand_in(column: Column, missing: Mask, values: Values) -> Any:
    """Return what stands for missing values. Raises BadColumn if there are some and the column takes none."""
    if column.missing == "refuse" and missing.any():
        _refuse(column, np.flatnonzero(missing), values, "is missing, and the model needs it")
    if column.missing == "fill":
        return column.fill
    return 0.0 if column.low is None else column.low


def _refuse(
    column: Column, rows: npt.NDArray[np.intp], values: Values, what: str, beyond: float | None = None
) -> NoReturn:
    more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
    (value,) = values[rows[:1]].tolist()
    raise BadColumn(f"column {column.name!r} {what}{more}", column=column.name, rows=rows, value=value, beyond=beyond)
