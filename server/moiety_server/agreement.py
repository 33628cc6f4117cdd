"""Compares what is served with the fitted model that it was made of: on the calibration rows, and on what they may not
show but a client may send, a missing value and a category that the model does not know."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.meaning import Meaning
from moiety_server.compiler.origin import shown
from moiety_server.fitted import FittedRows, booster, own_answers, own_labels
from moiety_server.source import ModelSource
from moiety_shared.fixed_point import finish
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.tabular import encode

_MOST_ROWS = 4096  # a forest of a hundred trees answers them in a second
_PROBES = 4  # rows for each column: of one row, few trees may read the column
_BATCH = 512  # rows at once: of 64,000 leaves they take 131 MB
_TOLERATED = {"bins": 1e-3, "others": 1e-2}  # of the outputs' spread: libsvm finds probabilities to 0.0025 only
_TIED = 1e-6  # scores that float32 does not tell apart
Array = npt.NDArray[Any]
Columns = Mapping[str, Array]


@dataclass(frozen=True)
class Agreement:
    """A fitted model, and what is served of it. `columns` are the calibration rows as pandas reads them, those on which
    the model was fitted, in its order. `rounded` says that the model, too, is given numbers of float32."""

    model: Any
    source: ModelSource
    columns: Columns
    rounded: bool = False

    def checked(self) -> ModelSource:
        """Return what is served, which refuses categories that the model refuses. Raises NotServable if it answers
        otherwise than the model."""
        rows = FittedRows.of(self.columns, _MOST_ROWS)
        columns = dict(zip(rows.names, rows.columns, strict=True))
        spread = float(np.std(self._own(columns)[0]))
        self._compare(columns, spread, lambda at: f"in row {rows.places[at]} of the calibration rows")
        changed = tuple(self._probed(column, columns, spread) for column in self.table.columns)
        return replace(self.source, preprocessing=self.table.model_copy(update={"columns": changed}))

    def _probed(self, column: Column, columns: Columns, spread: float) -> Column:
        """Return the column as it is to be declared."""
        places = np.unique(np.linspace(0, len(columns[column.name]) - 1, _PROBES).astype(np.intp))
        few = {name: values[places] for name, values in columns.items()}
        own, name = few[column.name], shown(column.name)
        texts = own.dtype.kind == "O"
        if column.missing == "flag":
            few[column.name] = np.full(len(own), np.nan, dtype=object if texts else np.float64)
            if not self._takes(few, spread, f"where {name} is missing"):
                raise NotServable(
                    f"the model takes no row in which {name} is missing. Instead: fill it first (SimpleImputer), "
                    'or declare that it never is (--columns, "missing": "refuse")'
                )
        if column.kind == "category" and column.unknown == "zeros":
            other = max((one for one in column.categories if isinstance(one, int)), default=0) + 1
            few[column.name] = np.full(len(own), "(unknown)" if texts else other, dtype=own.dtype)
            if not self._takes(few, spread, f"where {name} is a category that the model does not know"):
                return column.model_copy(update={"unknown": "refuse"})
        return column

    def _takes(self, columns: Columns, spread: float, where: str) -> bool:
        """Return whether the model takes rows, after they are compared if it does."""
        try:
            self._own(columns)
        except Exception:  # a model refuses rows in its own way
            return False
        self._compare(columns, spread, lambda _: where)
        return True

    def _own(self, columns: Columns) -> tuple[Array, Array | None]:
        """Return the model's own answers (rows, outputs), and its labels."""
        rows = FittedRows.of(columns, len(next(iter(columns.values()))))
        rows = rows.rounded() if self.rounded else rows
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows without names, which were fitted with names
            answers = own_answers(self.model, rows)
            return answers.reshape(len(answers), -1), own_labels(self.model, rows)

    def _served(self, columns: Columns) -> Array:
        """Return the served outputs before their last function, (rows, outputs)."""
        graph = self.source.model
        assert isinstance(graph, ir.Graph)  # noqa: S101  of a table
        rows = torch.from_numpy(encode(self.table, columns, others="ignore", dtype=np.float32))
        parts = [graph.run(part)[graph.output].double().numpy() for part in torch.split(rows, _BATCH)]
        return np.concatenate([part.reshape(len(part), -1) for part in parts])

    def _compare(self, columns: Columns, spread: float, where: Callable[[int], str]) -> None:
        own, labels = self._own(columns)
        outputs, meaning = self._served(columns), self.source.meaning
        off = np.zeros(len(outputs))
        if own.dtype.kind == "f" and self._is_probable == _is_probable(meaning):
            served = finish(meaning.final or "none", outputs)
            own = own[:, -1:] if meaning.task == "binary" else own
            if own.shape != served.shape:
                raise self._differs(where(0))
            off = np.abs(served - own).max(axis=1)
            kind = "bins" if any(column.kind == "bins" for column in self.table.columns) else "others"
            if not off.max() <= _TOLERATED[kind] * max(spread, 1e-9):
                raise self._differs(where(int(off.argmax())))
        if labels is not None and self.source.classes:
            known = {label: place for place, label in enumerate(self.model.classes_.tolist())}
            threshold = 0.0 if meaning.threshold is None else meaning.threshold
            places = outputs[:, 0] > threshold if meaning.task == "binary" else outputs.argmax(axis=1)
            best = np.sort(
                np.column_stack([outputs, np.full(len(outputs), threshold)]) if meaning.task == "binary" else outputs
            )
            clear = best[:, -1] - best[:, -2] > 2 * off + _TIED
            wrong = np.flatnonzero((places != [known[label] for label in labels.tolist()]) & clear)
            if len(wrong):
                raise self._differs(where(int(wrong[0])))

    @property
    def table(self) -> Tabular:
        """The columns that clients send."""
        assert isinstance(self.source.preprocessing, Tabular)  # noqa: S101  it was made of rows of a table
        return self.source.preprocessing

    @property
    def _is_probable(self) -> bool:
        """Whether the model's own answers are probabilities."""
        return hasattr(self.model, "predict_proba") or (bool(booster(self.model)) and _is_probable(self.source.meaning))

    def _differs(self, where: str) -> NotServable:
        return NotServable(
            f"what would be served does not answer as {type(self.model).__name__} does {where}. Instead: fit trees "
            "without a scaler in front, because files hold float32 and trees need no scaler; leave out steps that have "
            "no counterpart in ONNX"
        )


def _is_probable(meaning: Meaning) -> bool:
    return meaning.final in ("softmax", "sigmoid", "ovr") or meaning.unit == "probabilities"
