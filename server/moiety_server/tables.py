"""Models of tables: from a file, or from a model in the owner's own program, and rows to what is compiled.

The rows say what clients may send. What the file does with each column decides how they send it: as a number, as bins,
or as a category.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moiety_server.agreement import Agreement
from moiety_server.calibration import CalibrationRows
from moiety_server.compiler import ir
from moiety_server.compiler.compilation import load_onnx
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_server.compiler.tabular.network import over_columns
from moiety_server.compiler.trace import trace
from moiety_server.sklearn import COLUMNS, convert
from moiety_server.source import ModelSource
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.tabular import BadColumn, encode

_ML = "ai.onnx.ml"


def of_file(
    path: Path, rows: CalibrationRows, declared: Sequence[Column] | None = None, *, edges: str = "own"
) -> ModelSource:
    """Read an ONNX file. `declared` are the columns if the rows are not to say what they are; others are left out.

    Raises NotServable, with what to do.
    """
    from moiety_server.compiler.tabular.reading import read_tabular  # the extra `onnx`

    columns = tuple(declared or rows.guessed())
    named = _named_columns(path)
    if named is not None:
        columns = _in_order(columns, named)
    rows.chosen([column.name for column in columns], "the model takes")
    try:
        model = read_tabular(path, columns, edges=edges)
    except NotServable as error:
        return _of_network(path, columns, rows, declared, error)
    table = model.table if declared or edges.startswith("grid") else _without_ranges(model.table)
    return ModelSource(
        path.stem.lower(),
        model.graph,
        encoded(table, rows),
        model.low,
        model.high,
        table,
        tuple(map(str, model.classes)),
        f"from {path.name}",
        rows.target,
        _tells(table, declared, model.tells),
        model.meaning,
    )


def of_model(
    name: str, model: Any, rows: CalibrationRows, declared: Sequence[Column] | None = None, *, edges: str = "own"
) -> ModelSource:
    """Convert a model of scikit-learn, XGBoost or LightGBM, and read what comes of it. Raises NotServable."""
    typed = rows.typed()
    columns = {key: typed[key] for key in rows.chosen(_fitted_on(model, rows, declared), "the model was fitted on")}
    made = convert(model, columns)
    with tempfile.TemporaryDirectory() as folder:
        found = of_file(made.save(Path(folder) / "model.onnx"), rows, declared, edges=edges)
    if not edges.startswith("grid"):  # which moves thresholds, so some answers are not the model's
        found = Agreement(model, found, columns, made.rounded).checked()
    rounded = (
        "The model answers as in your program where that, too, gives it numbers of float32: a "
        "number that float32 rounds across a threshold gets another leaf.",
    )
    tells = (*found.tells, *rounded) if made.rounded else found.tells
    return replace(found, name=name, description="", tells=tells)


def of_module(
    name: str, module: nn.Module, rows: CalibrationRows, declared: Sequence[Column] | None = None
) -> ModelSource:
    """Trace a network that takes a row's numbers, (columns,). Raises NotServable."""
    columns = tuple(declared or rows.guessed())
    return _over(name, "", trace(module, torch.zeros(2, len(columns))), columns, rows, declared)


def has_table_operators(path: Path) -> bool:
    """Whether an ONNX file is of a model of tables, as scikit-learn's are: by its operators, or its several columns."""
    from moiety_server.compiler.onnx import file  # the extra `onnx`

    graph = file.read(path).model.graph
    return any(node.domain == _ML for node in graph.node)


def encoded(table: Tabular, rows: CalibrationRows) -> Tensor:
    """Return what a client sends of the rows, float32 (rows, elements). Raises NotServable by row and column."""
    try:
        return torch.from_numpy(encode(table, rows.cells, others="ignore")).float()
    except BadColumn as error:
        raise NotServable(f"{rows.file}: {error}. Instead: mend the row, or declare the column (--columns)") from None


def _of_network(
    path: Path,
    columns: Sequence[Column],
    rows: CalibrationRows,
    declared: Sequence[Column] | None,
    why: NotServable,
) -> ModelSource:
    """Read a network as PyTorch exports it, which may have operators that no model of tables has."""
    if has_table_operators(path):
        raise why
    try:
        graph = load_onnx(path, torch.zeros(2, len(columns)))
    except NotServable:
        raise why from None
    return _over(path.stem.lower(), f"from {path.name}", graph, columns, rows, declared)


def _over(
    name: str,
    description: str,
    graph: ir.Graph,
    columns: Sequence[Column],
    rows: CalibrationRows,
    declared: Sequence[Column] | None,
) -> ModelSource:
    mapped, table = over_columns(graph, columns), Tabular(columns=tuple(columns), precision="float64")
    told, inputs = _tells(table, declared), encoded(table, rows)
    return ModelSource(name, mapped, inputs, -1.0, 1.0, table, (), description, rows.target, told)


def _tells(table: Tabular, declared: Sequence[Column] | None, of_edges: str = "") -> tuple[str, ...]:
    """Say what everybody learns from the table."""
    guessed = declared is None and any(column.low is not None for column in table.columns)
    ranges = (
        "A range that nobody declared is what the calibration file shows, a tenth wider on each side: it discloses the "
        "extremes of that file. Look at the ranges, and declare others with --columns."
    )
    return (*((of_edges,) if of_edges else ()), *((ranges,) if guessed else ()))


def _without_ranges(table: Tabular) -> Tabular:
    """Return the table without the ranges of bins that nobody stated: trees take any number, and a range would show
    where the least and the largest value of the rows lie."""
    columns = (
        column.model_copy(update={"low": None, "high": None}) if column.kind == "bins" else column
        for column in table.columns
    )
    return table.model_copy(update={"columns": tuple(columns)})


def _named_columns(path: Path) -> list[str] | None:
    """Return the names that `convert` wrote for the columns of a file's one input, or None."""
    from moiety_server.compiler.onnx import file  # the extra `onnx`

    for stored in file.read(path).model.metadata_props:
        if stored.key == COLUMNS:
            try:
                names = json.loads(stored.value)
            except ValueError:
                names = None
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise NotServable(f"{shown(path.name)}: its list of columns ({COLUMNS}) is none")
            return names
    return None


def _in_order(columns: Sequence[Column], names: Sequence[str]) -> tuple[Column, ...]:
    by_name = {column.name: column for column in columns}
    lost = [name for name in names if name not in by_name]
    if lost:
        raise NotServable(f"the model: takes the column {shown(lost[0])}, which is not declared")
    return tuple(by_name[name] for name in names)


def _fitted_on(model: Any, rows: CalibrationRows, declared: Sequence[Column] | None) -> Sequence[str]:
    """Return the names of the columns that a model was fitted on, or of all columns where it was fitted on an array."""
    named = getattr(model, "feature_names_in_", None)
    if named is None:
        named = getattr(model, "feature_names", None)  # a booster of XGBoost
    if named is not None:
        spaced = {"_".join(name.split(" ")): name for name in rows.cells}  # LightGBM's form of a name
        return [name if name in rows.cells else spaced.get(name, name) for name in map(str, named)]
    names = [column.name for column in declared] if declared else list(rows.cells)
    count = getattr(model, "n_features_in_", len(names))
    if count != len(names):
        raise NotServable(
            f"the model was fitted on {count} columns, and {rows.file} has {len(names)}. Instead: name the column that "
            "it predicts with --target, and leave out others with --columns"
        )
    return names
