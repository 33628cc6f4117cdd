"""Turns tables, in the forms that people have them, into the columns that a model of a table takes.

pandas DataFrame                 a row for each input; the answer keeps its index
pandas Series                    one row, whose index names the columns
dictionary                       of columns by name, or of one row's values by name
list of dictionaries             a row each
NumPy array, nested lists        rows of all columns, in the order that the model declares them; or a structured array
.csv file, .npy file             the first line names the columns; an array as above

Only those who pass what pandas made need pandas.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from moiety_client.errors import InvalidInput
from moiety_service import csv_file, files
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.table import Tabular
from moiety_shared.plan.plan import Plan
from moiety_shared.tabular import BadColumn, Others, Values, check_names, encode_ring

CSV, _NPY = ".csv", ".npy"
_SHOWN = 4


@dataclass(frozen=True)
class TableRows:
    """Rows of a table: a column for each that the model takes, by name.

    `index` is the index of the DataFrame that the rows came from, if they came from one.
    """

    columns: Mapping[str, Values]
    index: Any = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, rows: slice) -> "TableRows":
        index = None if self.index is None else self.index[rows]
        return TableRows({name: values[rows] for name, values in self.columns.items()}, index)

    @classmethod
    def joined(cls, parts: "Sequence[TableRows]") -> "TableRows":
        """Put rows that follow each other into one table."""
        if len(parts) == 1:
            return parts[0]
        columns = {name: _end_to_end([part.columns[name] for part in parts]) for name in parts[0].columns}
        return cls(columns, joined_index([part.index for part in parts]))

    def encode(self, table: Tabular, plan: Plan, start: int) -> RingArray:
        """Encode the rows as ring elements, (n, input size). `start` is the place of the first among all of a call.

        Raises InvalidInput.
        """
        with _refusing(start):
            return encode_ring(table, self.columns, frac_bits=plan.input.frac_bits, ring_bits=plan.ring_bits)


def joined_index(parts: Sequence[Any]) -> Any:
    """Put the indices of DataFrames end to end. Returns None if one of the parts has none."""
    return None if any(part is None for part in parts) else parts[0].append(list(parts[1:]))


def _end_to_end(parts: list[Values]) -> Values:
    masked = any(isinstance(part, np.ma.MaskedArray) for part in parts)
    joined: Values = np.ma.concatenate(parts) if masked else np.concatenate(parts)  # type: ignore[no-untyped-call]
    return joined


@contextmanager
def _refusing(start: int = 0) -> Iterator[None]:
    """Turn a BadColumn into InvalidInput. `start` is the place of the first row among all rows of a call."""
    try:
        yield
    except BadColumn as error:
        rows = (error.rows + start).tolist()
        text = f"row {rows[0]}, {error.what}" if rows else error.what
        raise InvalidInput(text, rows=rows, column=error.column, value=error.value, beyond=error.beyond) from None


def read(table: Tabular, given: Any, others: Others = "strict") -> TableRows:
    """Read the rows of a table. `given` has any of the forms that this module's text lists, or is a list of them.

    `others` says what becomes of columns that the model does not take. Raises InvalidInput, whose text never contains a
    value.
    """
    if isinstance(given, TableRows):
        return given
    if isinstance(given, list | tuple) and given and all(map(_is_whole, given)):
        return TableRows.joined([read(table, part, others) for part in given])
    return _chosen(table, _columns(table, given), _index(given), others)


def read_with(table: Tabular, given: Any, target: str, others: Others = "strict") -> tuple[TableRows, Values]:
    """Read the rows of a table, and one more column of it, which is no column of the model. Raises InvalidInput."""
    if isinstance(given, list | tuple) and given and all(map(_is_whole, given)):
        parts = [read_with(table, part, target, others) for part in given]
        return TableRows.joined([rows for rows, _ in parts]), np.concatenate([labels for _, labels in parts])
    columns = dict(_columns(table, given))
    if target not in columns:
        near = get_close_matches(target, list(columns), 1)
        raise InvalidInput(f"there is no column {target!r}" + (f" (is it {near[0]!r}?)" if near else ""), column=target)
    labels = _values(target, columns.pop(target))
    return _chosen(table, columns, _index(given), others), labels


def _chosen(table: Tabular, columns: Mapping[str, Any], index: Any, others: Others) -> TableRows:
    with _refusing():
        check_names(table, columns, others)
    chosen = {column.name: _values(column.name, columns[column.name]) for column in table.columns}
    lengths = {name: len(values) for name, values in chosen.items()}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} {length}" for name, length in list(lengths.items())[:_SHOWN])
        raise InvalidInput(f"the columns have different lengths: {text}{', ...' if len(lengths) > _SHOWN else ''}")
    return TableRows(chosen, index)


def is_table(given: Any) -> bool:
    """Whether `given` is a whole table, or a row of one, by its names."""
    if isinstance(given, list | tuple) and given:
        return all(isinstance(row, Mapping) for row in given)
    return isinstance(given, TableRows | Mapping) or _is_pandas("DataFrame", given) or _is_pandas("Series", given)


def _is_whole(given: Any) -> bool:
    """Whether `given` is a whole table or a file of one."""
    is_file = isinstance(given, str) and Path(given).suffix.lower() in (CSV, _NPY)
    return is_file or isinstance(given, Path | TableRows) or _is_pandas("DataFrame", given)


def _index(given: Any) -> Any:
    return given.index if _is_pandas("DataFrame", given) else None


def _is_pandas(kind: str, given: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, getattr(pandas, kind))


def _columns(table: Tabular, given: Any) -> Mapping[str, Any]:
    """Return all columns by name. Each is a sequence, or the value of the only row."""
    if isinstance(given, str | Path):
        return _file(table, Path(given))
    if _is_pandas("DataFrame", given):
        return _named([(name, given.iloc[:, at]) for at, name in enumerate(given.columns)])
    if isinstance(given, Mapping) or _is_pandas("Series", given):
        return _named(list(given.items()))
    if isinstance(given, list | tuple) and given and all(isinstance(row, Mapping) for row in given):
        return _records(given)
    if isinstance(given, np.ndarray) and given.dtype.names:
        return {name: np.atleast_1d(given[name]) for name in given.dtype.names}
    return _in_order(table, given)


def _named(pairs: list[tuple[Any, Any]]) -> Mapping[str, Any]:
    columns = {str(name): values for name, values in pairs}
    if len(columns) < len(pairs):
        raise InvalidInput("two columns have one name: keep the one that the model takes")
    return columns


def _records(given: Sequence[Mapping[Any, Any]]) -> Mapping[str, Any]:
    names = list(given[0])
    for at, row in enumerate(given):
        if row.keys() != given[0].keys():
            odd = ", ".join(sorted(map(str, row.keys() ^ given[0].keys())))
            raise InvalidInput(f"row {at} has other columns than row 0: {odd}", rows=[at])
    return _named([(name, [row[name] for row in given]) for name in names])


def _in_order(table: Tabular, given: Any) -> Mapping[str, Any]:
    """Name the columns of rows in the order in which the model declares them."""
    names = [column.name for column in table.columns]
    rows = _array(given) if hasattr(given, "__array__") else given
    if isinstance(rows, list | tuple):
        if rows and any(hasattr(row, "__array__") and np.ndim(row) for row in rows):
            rows = np.stack([_array(row) for row in rows]) if len({np.shape(row) for row in rows}) == 1 else rows
        elif rows and all(isinstance(row, list | tuple) for row in rows):
            if all(len(row) == len(names) for row in rows):
                return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        else:
            rows = _objects(list(rows))
    if isinstance(rows, np.ndarray) and rows.ndim == 1 and len(rows) == len(names) > 1:
        rows = rows[None]
    elif isinstance(rows, np.ndarray) and rows.ndim == 1 and len(names) == 1:
        rows = rows[:, None]
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != len(names):
        size = " x ".join(map(str, rows.shape)) if isinstance(rows, np.ndarray) else f"a {type(given).__name__}"
        order = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise InvalidInput(
            f"the model takes {len(names)} columns, this is {size}: pass rows of {order} in this order, or a table "
            "with names, such as a DataFrame"
        )
    return {name: rows[:, at] for at, name in enumerate(names)}


def _file(table: Tabular, path: Path) -> Mapping[str, Any]:
    suffix = path.suffix.lower()
    if suffix not in (CSV, _NPY):
        raise InvalidInput(f"{path} is no table that can be read: pass a {CSV} file, or a {_NPY} file of rows")
    try:
        categories = {column.name: column.categories for column in table.columns}
        return csv_file.read(path, categories) if suffix == CSV else _in_order(table, files.array(path))
    except OSError as error:
        raise InvalidInput(f"{path} is no {suffix} file that can be read: {error.strerror}") from None
    except (csv_file.BadTable, files.TooLarge) as error:
        raise InvalidInput(f"{path} {error}") from None
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{path} is no {suffix} file that can be read: {error}") from None


# One column


def _values(name: str, given: Any) -> Values:
    """Return a column as an array of one axis, with texts as objects and missing values as None, NaN or masked."""
    if _is_pandas("Index", given) or _is_pandas("Categorical", given):
        given = sys.modules["pandas"].Series(given)
    if _is_pandas("Series", given):
        return _of_series(given)
    if isinstance(given, str | bytes) or not (hasattr(given, "__len__") or hasattr(given, "__array__")):
        return _objects([given])
    if not hasattr(given, "__array__"):
        return _objects(list(given))
    array = np.atleast_1d(_array(given))
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InvalidInput(f"column {name!r} has {array.ndim} axes: a column has one", column=name)
    return _objects(array.tolist()) if array.dtype.kind in "UOT" else array


def _array(given: Any) -> Values:
    """Return a tensor or whatever else becomes an array."""
    if hasattr(given, "detach"):
        given = given.detach().cpu()
        given = given.float() if given.is_floating_point() and given.element_size() == 2 else given
    array: Values = given if isinstance(given, np.ma.MaskedArray) else np.asarray(given)
    return array


def _objects(values: list[Any]) -> Values:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    pandas = sys.modules.get("pandas")
    if pandas is not None:  # its NA is neither None nor NaN
        array[np.fromiter((value is pandas.NA for value in values), bool, len(values))] = None
    return array


def _of_series(series: Any) -> Values:
    """Return a column of pandas as an array. Its types that know missing values become masked arrays."""
    kind = series.dtype.kind
    if kind in "iufb" and not isinstance(series.dtype, np.dtype):
        values = series.to_numpy(dtype=bool if kind == "b" else f"{kind}8", na_value=0)
        masked: Values = np.ma.array(values, mask=series.isna().to_numpy(dtype=bool))
        return masked
    if kind in "Mm":
        return np.empty(len(series), dtype=f"{kind}8[s]")  # the encoder refuses dates, in whatever time zone
    array: Values = series.to_numpy(dtype=object, na_value=None) if kind == "O" else series.to_numpy()
    return array
