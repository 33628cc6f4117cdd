"""Fitted models of scikit-learn, XGBoost and LightGBM as their owner has them: what they are made of, the rows on which
they are asked, and their own answers."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import without_paths

_MOST_ROWS = 256  # on which files are compared: onnx's evaluator walks trees in Python, and takes seconds
_WITH_GAPS = 4  # of these for each column that has gaps, wherever in the frame they are
_SINGLE = "X"  # the name of the one input that has all columns
Array = npt.NDArray[Any]


def parts(model: Any) -> Iterator[Any]:
    """Yield a model, what is in it if it is a pipeline or a search, and last the estimator that predicts."""
    yield model
    for inner in (getattr(model, "best_estimator_", None), *(step for _, step in getattr(model, "steps", ()))):
        if inner is not None and not isinstance(inner, str):
            yield from parts(inner)


def booster(model: object) -> str:
    """Return the library of a booster, which is no estimator, or ""."""
    return next((name for name in libraries(model) if type(model).__name__ == "Booster"), "")


def libraries(model: object) -> list[str]:
    """Return the names of the packages from which the object's classes are."""
    return [kind.__module__.split(".")[0] for kind in type(model).__mro__]


@dataclass(frozen=True)
class FittedRows:
    """Rows as a model was fitted on them. `given` is what the model is called with, and `places` says which rows of the
    frame they are.

    The columns of an array have no names of their own, and are not `named`."""

    names: tuple[str, ...]
    columns: tuple[Array, ...]
    given: Any
    named: bool
    places: Array

    @classmethod
    def of(cls, frame: Any, most: int = _MOST_ROWS) -> "FittedRows":
        """Take up to `most` rows from a DataFrame, an array (rows, columns), or a mapping: from all parts of it, and
        some in which a value is missing, for each column that has such rows. Raises NotServable."""
        if hasattr(frame, "iloc") and hasattr(frame, "columns"):
            names = tuple(map(str, frame.columns))
            columns = tuple(np.asarray(frame.iloc[:, at]) for at in range(len(names)))
            places = _spread(columns, most)
            return cls(names, tuple(c[places] for c in columns), frame.iloc[places], True, places)
        if isinstance(frame, Mapping):
            names, columns = tuple(map(str, frame)), tuple(np.asarray(values) for values in frame.values())
            places = _spread(columns, most)
            columns = tuple(column[places] for column in columns)
            return cls(names, columns, _table(names, columns), True, places)
        given = np.asarray(frame)
        if given.ndim != 2:
            raise NotServable(f"rows to compare a model on are an array (rows, columns), not {given.shape}")
        places = _spread(tuple(given.T), most)
        names = tuple(f"x{at}" for at in range(given.shape[1]))
        return cls(names, tuple(given[places].T), given[places], False, places)

    def rounded(self) -> "FittedRows":
        """Return the rows with their numbers rounded to float32, which files hold."""
        columns = tuple(column.astype(np.float32) if column.dtype.kind == "f" else column for column in self.columns)
        if hasattr(self.given, "iloc"):
            return replace(self, columns=columns, given=_table(self.names, columns))
        given = self.given.astype(np.float32) if self.given.dtype.kind == "f" else self.given
        return replace(self, columns=columns, given=given)

    def inputs(self) -> Iterator[dict[str, Array]]:
        """Yield the inputs that a file may have, in the order of trying: one of all columns; one for each column, of
        which whole numbers may be categories; and one for each column, of which whole numbers are numbers."""
        if all(column.dtype.kind in "fiub" for column in self.columns):
            yield {_SINGLE: np.column_stack([column.astype(np.float32) for column in self.columns])}
        for whole in (np.int64, np.float32):
            yield {name: _input(column, whole) for name, column in zip(self.names, self.columns, strict=True)}


def _spread(columns: Sequence[Array], most: int) -> Array:
    """Return the places of up to `most` rows, rising. Raises NotServable where there are none."""
    count = len(columns[0]) if columns else 0
    if not count:
        raise NotServable("a model is compared on rows, and there are none")
    if count <= most:
        return np.arange(count)
    gaps = (np.flatnonzero(column != column)[-_WITH_GAPS:] for column in columns)  # NaN alone differs from itself
    chosen = np.unique(np.concatenate([*gaps, np.array([], dtype=np.intp)]))[: most // 2]
    return np.unique(np.concatenate([chosen, np.linspace(0, count - 1, most - len(chosen)).astype(np.intp)]))


def _input(column: Array, whole: type) -> Array:
    """Return a column as one input (rows, 1) of a file: of float32, `whole` for whole numbers, or texts."""
    kind = column.dtype.kind
    if kind in "fiub":
        return column.astype(np.float32 if kind == "f" else whole)[:, None]
    return np.array(["" if value is None or value != value else str(value) for value in column], dtype=object)[:, None]


def _table(names: Sequence[str], columns: Sequence[Array]) -> Any:
    """Return columns as a DataFrame, or as an array where pandas is not installed."""
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        return np.column_stack(columns)
    return pandas.DataFrame(dict(zip(names, columns, strict=True)))


def own_answers(model: Any, rows: FittedRows) -> Array:
    """Return what the model itself makes of the rows: probabilities, else scores, else values or labels. Raises
    NotServable, also for rows that the model refuses."""
    if booster(model) == "xgboost":
        matrix = importlib.import_module("xgboost").DMatrix(rows.given)
        return _asked(model, model.predict, matrix)
    for name in ("predict_proba", "decision_function", "predict"):
        if hasattr(model, name):
            return _asked(model, getattr(model, name), _as_fitted(model, rows))
    raise NotServable(f"{type(model).__name__} predicts nothing: there is nothing to serve")


def own_labels(model: Any, rows: FittedRows) -> Array | None:
    """Return the labels that the model itself gives the rows, or None where it has no classes. Raises NotServable."""
    return _asked(model, model.predict, _as_fitted(model, rows)) if hasattr(model, "classes_") else None


def _asked(model: Any, method: Callable[[Any], Any], rows: Any) -> Array:
    try:
        return np.asarray(method(rows))
    except Exception as error:  # an estimator refuses rows with almost anything
        reason = without_paths(str(error)).split("\n")[0]
        raise NotServable(
            f"{type(model).__name__} itself refuses the rows ({type(error).__name__}: {reason}). Instead: give rows as "
            "it was fitted on; where cells are empty, fill them, or fit the model behind an imputer"
        ) from error


def _as_fitted(model: Any, rows: FittedRows) -> Any:
    return rows.given if hasattr(model, "feature_names_in_") else np.asarray(rows.given)
