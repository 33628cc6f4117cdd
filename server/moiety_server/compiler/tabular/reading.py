"""Reads a model of tables from an ONNX file, as scikit-learn, XGBoost and LightGBM are exported.

A file takes one tensor of all columns, or an input for each column. What it does to a column before its first function
that is not affine is folded into the first matrix, so scales and means stay secret, and the client only maps each
column's public range to -1 .. 1. Trees are compared by bins (`boxes`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.meaning import Meaning
from moiety_server.compiler.onnx import file
from moiety_server.compiler.onnx.constants import Constants, unpacked
from moiety_server.compiler.onnx.node import translated
from moiety_server.compiler.onnx.operators import OnnxNode
from moiety_server.compiler.onnx.table import OPS
from moiety_server.compiler.origin import shown
from moiety_server.compiler.simplification import finish
from moiety_server.compiler.tabular import classifiers, heads
from moiety_server.compiler.tabular.edges import Rule
from moiety_server.compiler.tabular.features import Affine, Raw
from moiety_server.compiler.tabular.forest import Forests
from moiety_server.compiler.tabular.operator import Operator, mixed
from moiety_server.compiler.tabular.operators import OPERATORS
from moiety_server.compiler.tabular.outcome import Outcome
from moiety_server.compiler.tabular.sheet import Sheet
from moiety_shared.messages.table import Category, Column, Tabular
from moiety_shared.plan.plan import Final, Task, Unit

_BATCH = 7919  # stands for the number of rows, which files leave open; a prime, so hardly any other dimension
_INPUTS: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.INT64: np.int64,
    TensorProto.INT32: np.int32,
    TensorProto.BOOL: np.int32,
    TensorProto.STRING: None,
}
# Functions of features that leave one row for each row. Others could mix rows, so they are refused.
_ROWWISE = (
    "Add Sub Mul Div Neg Sum Gemm MatMul Relu LeakyRelu PRelu Elu Selu Celu Clip HardSigmoid HardSwish Sigmoid Tanh "
    "Softplus Gelu Mish Erf Exp Pow BatchNormalization Concat Dropout Identity Cast"
)


@dataclass(frozen=True)
class TabularModel:
    """A model of tables. `graph` takes a row's elements, (`table.size`,) between `low` and `high`.

    `task`, `unit`, `final`, `threshold` and `classes` say what its outputs are (see moiety_shared.plan.plan.Output).
    The unit is None where the file says nothing of it. `tells` says what everybody learns of the model from the table's
    edges.
    """

    graph: ir.Graph = field(repr=False)
    table: Tabular
    task: Task
    unit: Unit | None
    final: Final
    threshold: float
    classes: tuple[Category, ...]
    tells: str

    @property
    def meaning(self) -> Meaning:
        """What compile_model is told of the outputs."""
        threshold = self.threshold if self.task == "binary" else None
        return Meaning(task=self.task, unit=self.unit, final=self.final, threshold=threshold)

    @property
    def low(self) -> float:
        """The least value of an element."""
        return -1.0 if any(column.kind == "number" for column in self.table.columns) else 0.0

    @property
    def high(self) -> float:
        return 1.0


def read_tabular(
    path: Path, columns: Sequence[Column] | Mapping[str, tuple[float, float]], *, edges: str = "own"
) -> TabularModel:
    """Read an ONNX file.

    `columns` are the columns that clients have: whole declarations, or a range (lowest, highest value) for each name.
    Of a file with one input for each column they are found by name, others are left out; else they are the columns of
    the file's tensor, in order. The file says which of them are categories. `edges` is "own", "trained" or "grid:N".

    Raises NotServable, in one line, for a file that is no model, or none that can be served, or has other columns.
    """
    if isinstance(columns, Mapping):
        columns = [Column(name=name, kind="number", low=low, high=high) for name, (low, high) in columns.items()]
    read = file.read(path)
    slots = _slots(read, columns)
    precise = any(dtype is np.float64 for _, dtype in slots)
    rule = Rule.of(edges, "float64" if precise else "float32")
    sheet = Sheet([column for column, _ in slots], rule)
    dtypes = [dtype for _, dtype in slots]
    try:
        _Reading(read, sheet, dtypes, None).outcome()  # which tells the sheet what each column is used for
        return _Reading(read, sheet, dtypes, sheet.table()).model()
    except NotServable:
        raise
    except (ValueError, TypeError, LookupError, OverflowError) as error:  # of a table that no client could be told of
        raise NotServable(f"the model: its inputs and outputs do not go together ({type(error).__name__})") from None


def _slots(read: file.File, columns: Sequence[Column]) -> list[tuple[Column, Any]]:
    """Return the columns in the order of the file's inputs, each with the type of its numbers."""
    inputs = heads.inputs(read)
    widths = [heads.width(info) for info in inputs]
    if all(width == 1 for width in widths) and len(inputs) > 1:
        by_name = {column.name: column for column in columns}
        missing = [info.name for info in inputs if info.name not in by_name]
        if missing:
            raise NotServable(f"the model: takes the column {shown(missing[0])}, which is not declared")
        return [(by_name[info.name], _dtype(info)) for info in inputs]
    if widths == [None]:
        widths = [len(columns)]
    if None in widths or sum(width or 0 for width in widths) != len(columns):
        raise NotServable(
            f"the model: takes {sum(width or 0 for width in widths)} columns, declared are {len(columns)}"
        )
    dtypes = [_dtype(info) for info, width in zip(inputs, widths, strict=True) for _ in range(width or 0)]
    return list(zip(columns, dtypes, strict=True))


def _dtype(info: onnx.ValueInfoProto) -> Any:
    kind = info.type.tensor_type.elem_type
    if kind not in _INPUTS:
        raise NotServable(f"the model's input {shown(info.name)}: is no tensor of numbers or texts")
    return _INPUTS[kind]


class _Reading:
    """One walk over the nodes on which the outputs depend. Without a `table` it finds out what the columns are for."""

    def __init__(self, read: file.File, sheet: Sheet, dtypes: Sequence[Any], table: Tabular | None) -> None:
        self._file, self._graph, self._sheet, self._table = read, read.model.graph, sheet, table
        self._builder = Builder()
        self._row = self._builder.input((table.size if table else 1,))
        self._constants = Constants(read.elements, {opset.domain: opset.version for opset in read.model.opset_import})
        self._values: dict[str, Any] = {}
        self._public: set[str] = set()
        self._wires: dict[int, ir.Node] = {}
        at = 0
        for info in heads.inputs(read):
            width = heads.width(info) or len(dtypes)
            places = range(at, at + width)
            self._values[info.name] = Raw(tuple(places), tuple(dtypes[i] for i in places))
            at += width
        forests = Forests(self._builder, self._row, table, read.model.producer_name)
        self._operators = {
            **OPERATORS,
            "LinearClassifier": classifiers.linear_classifier,
            "LinearRegressor": classifiers.linear_regressor,
            "SVMClassifier": classifiers.svm_classifier,
            "SVMRegressor": classifiers.svm_regressor,
            "TreeEnsembleClassifier": forests.classifier,
            "TreeEnsembleRegressor": forests.regressor,
            "TreeEnsemble": forests.ensemble,
        }

    def outcome(self) -> Outcome:
        """Return what the file's output of scores or values is."""
        name = heads.output(self._graph)
        needed = {name}
        for node in reversed(self._graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
        for node in self._graph.node:
            if needed.intersection(node.output):
                self._take(node)
        found = self._values.get(name)
        if not isinstance(found, Outcome | Affine | ir.Node):
            raise NotServable("the model: its output does not depend on its input")
        return found if isinstance(found, Outcome) else Outcome(found)

    def model(self) -> TabularModel:
        found = heads.finished(self.outcome(), heads.classes(self._graph, self._file), self._sheet)
        output = self._wire(found.value)
        graph = finish(self._builder.nodes.values(), output.name)
        graph.check()
        table = self._table
        assert table is not None  # noqa: S101  only a walk with a table has a model
        binned = any(column.kind == "bins" for column in table.columns)
        of_classes = found.classes or (found.final == "sigmoid" and found.outputs == 1)
        task: Task = "values" if not of_classes else "binary" if found.outputs == 1 else "classes"
        return TabularModel(
            graph,
            table,
            task,
            found.unit if found.classes or found.final != "none" else None,
            found.final,
            found.threshold,
            found.classes,
            self._sheet.rule.tells if binned else "",
        )

    def _wire(self, value: Affine | ir.Node) -> ir.Node:
        """Return the tensor as a wire. What is affine becomes one matrix of the row's elements, once."""
        if isinstance(value, ir.Node):
            return value
        if id(value) not in self._wires:
            matrix = mixed(value, self._sheet)
            weight, bias = matrix.over(len(self._sheet.atoms)), matrix.constant
            if self._table is None:
                weight, bias = np.zeros((len(bias), 1)), np.zeros(len(bias))
            else:
                weight, bias = self._sheet.expanded(weight, bias, self._table)
            self._wires[id(value)] = self._builder.linear(self._row, torch.from_numpy(weight), torch.from_numpy(bias))
        return self._wires[id(value)]

    def _joined(self, values: Sequence[Affine | ir.Node]) -> Affine | ir.Node:
        """Return tensors side by side."""
        if all(isinstance(value, Affine) for value in values):
            joined: Affine = OPERATORS["Concat"](Operator(self._builder, self._sheet, values, {"axis": 1}))
            return joined
        wires = [self._wire(value) for value in values]
        return self._builder.concat(wires, 0)

    # Nodes

    def _take(self, node: NodeProto) -> None:
        with translated(self._builder, node):
            found = self._results(node)
        results = found if isinstance(found, list) else [found]
        if isinstance(found, Outcome) and len(node.output) > 1:
            results = [None, found]  # a classifier's label, and its scores
        self._values.update(zip(node.output, results, strict=False))

    def _results(self, node: NodeProto) -> Any:
        inputs = [self._value(name) if name else None for name in node.input]
        attributes = heads.attributes(node)
        if any(a.g.node or a.graphs for a in node.attribute):
            self._builder.refuse("has branches of its own", "one graph without control flow")
        if not any(isinstance(value, Affine | ir.Node | Outcome) for value in inputs):
            if all(name in self._public for name in node.input):
                self._public.update(node.output)
            return self._constants.evaluate(node, attributes, inputs)
        followed = heads.follow(node.op_type, inputs, attributes, self._joined)
        if followed is not None:
            return followed
        inputs = [self._carried_out(value) for value in inputs]
        prepares = any(isinstance(value, Affine) for value in inputs) or node.domain == "ai.onnx.ml"
        if prepares and node.op_type in self._operators:
            found = self._operators[node.op_type](Operator(self._builder, self._sheet, inputs, attributes))
            if found is not None:
                return found
        if node.op_type in ("Reshape", "Flatten") and isinstance(inputs[0], ir.Node):
            return self._flat(node.op_type, inputs)
        if node.op_type not in _ROWWISE.split() or node.domain not in ("", "ai.onnx"):
            self._builder.refuse(heads.unserved(node.op_type))
        wires = [self._wire(value) if isinstance(value, Affine) else value for value in inputs]
        public = [name in self._public for name in node.input]
        return OPS[node.op_type](self._builder, OnnxNode(wires, public, attributes, len(node.output), _BATCH))

    def _flat(self, kind: str, inputs: Sequence[Any]) -> ir.Node:
        """Return a wire that is reshaped to one row for each row, as it is."""
        wire: ir.Node = inputs[0]
        if kind == "Reshape" and inputs[1].reshape(-1).tolist() not in ([-1, *wire.shape], [0, *wire.shape], [0, -1]):
            self._builder.refuse(
                f"reshapes the {wire.shape[-1]} values of a row", "keep one row of values for each row"
            )
        return wire

    def _carried_out(self, value: Any) -> Any:
        """Return an outcome's value after its function, for an operator in the middle of the model."""
        if not isinstance(value, Outcome):
            return value
        return heads.carried_out(value, self._builder, self._wire, self._sheet)

    def _value(self, name: str) -> Any:
        if name not in self._values:
            if name not in self._file.initializers:
                self._builder.refuse(f"reads {shown(name)}, which is no dense tensor", "save it dense")
            self._values[name] = unpacked(self._file.initializers[name])
        return self._values[name]
