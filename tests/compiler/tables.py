"""Files of table models, built node by node, and what onnx's own evaluator computes with them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from moiety_server.compiler.tabular.reading import TabularModel
from moiety_shared import fixed_point
from moiety_shared.messages.table import Column, Tabular

Array = np.ndarray[Any, Any]
Rows = Mapping[str, Array]
"""The inputs of a file by name, (rows, columns) each."""
FLOAT, DOUBLE, INT64, STRING = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING

seeds = st.integers(0, 2**32 - 1)


def quick(examples: int) -> settings:
    """The settings of a test whose examples each write a file of their own."""
    return settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Draws:
    """Numbers drawn from a seed, as float64 arrays."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Array:
        unit = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        return np.asarray(unit.numpy() * (high - low) + low)

    def normal(self, *shape: int) -> Array:
        return np.asarray(torch.randn(shape, generator=self._generator, dtype=torch.float64).numpy())

    def one_of(self, options: Sequence[Any] | Array, *shape: int) -> Any:
        """Return one of the options, or an array of them."""
        places = torch.randint(len(options), shape, generator=self._generator)
        return np.asarray(options)[places.numpy()] if shape else options[int(places)]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """An operator of ai.onnx.ml."""
    return helper.make_node(op, inputs.split(), outputs.split(), domain="ai.onnx.ml", **attributes)


def plain(op: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """An operator of ai.onnx."""
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    outputs: Sequence[str] = ("y",),
    inputs: Mapping[str, tuple[int, int]] | None = None,
    constants: Mapping[str, Any] | None = None,
    ml: int = 3,
) -> Path:
    """Write a file whose inputs have a type and a number of columns each: of x it is 3 floats."""
    inputs = inputs or {"x": (FLOAT, 3)}
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info(name, kind, ["n", width]) for name, (kind, width) in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    for output in graph.output:  # a file has to name a shape
        output.type.tensor_type.shape.dim.add(dim_param="n")
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", ml)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path / "model.onnx")
    return path / "model.onnx"


def evaluated(path: Path, rows: Rows) -> list[Array]:
    """The outputs of the file as onnx computes them."""
    return list(ReferenceEvaluator(str(path)).run(None, dict(rows)))


def numbers(*names: str, low: float = -4.0, high: float = 4.0, **more: Any) -> list[Column]:
    return [Column(name=name, kind="number", low=low, high=high, **more) for name in names]


def encode(table: Tabular, columns: Sequence[Array]) -> torch.Tensor:
    """The elements (rows, size) of a table's columns, as a client computes them."""
    return torch.from_numpy(np.concatenate([*map(_elements, table.columns, columns, [table] * len(columns))], axis=1))


def _elements(column: Column, values: Array, table: Tabular) -> Array:
    if column.kind == "category":
        own = np.array([[value == one for one in column.categories] for value in values.tolist()], dtype=np.float64)
        return np.reshape(own, (len(values), -1))
    missing = np.isnan(values.astype(np.float64))
    if column.kind == "number":
        assert column.low is not None and column.high is not None
        own = (values.astype(np.float64) - (column.high + column.low) / 2) / ((column.high - column.low) / 2)
        own = np.where(missing, 0, own)[:, None]
    else:
        own = (values.astype(table.precision)[:, None] > np.array(column.edges)).astype(np.float64)
    assert column.missing == "flag" or not missing.any()
    return np.concatenate([own, missing[:, None]], axis=1) if column.missing == "flag" else own


def answers(model: TabularModel, columns: Sequence[Array]) -> Array:
    """The outputs (rows, outputs) of the model's float graph after its last function. Of two classes they are those of
    both, as files have them."""
    wires = model.graph.run(encode(model.table, columns).float())
    return told(model, wires[model.graph.output].double().numpy())


def told(model: TabularModel, outputs: Array) -> Array:
    found = fixed_point.finish(model.final, outputs.reshape(len(outputs), -1))
    if model.task != "binary":
        return found
    probabilities = model.final == "sigmoid" or model.unit == "probabilities"
    return np.concatenate([1 - found if probabilities else -found, found], axis=1)


def labels(model: TabularModel, outputs: Array) -> list[Any]:
    """The classes of outputs (rows, outputs) before the last function."""
    flat = outputs.reshape(len(outputs), -1)
    places = (flat[:, 0] > model.threshold).astype(int) if model.task == "binary" else flat.argmax(axis=1)
    return [model.classes[place] for place in places]
