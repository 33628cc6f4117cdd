"""From an ONNX file to the intermediate representation. Only data is read: no custom operators, no external files.

Initializers are the secret parameters. What the file holds as Constant nodes is public, part of the architecture, where
it is one number; limits, shapes and axes are public wherever they come from.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from moiety_server import ir
from moiety_server.builder import Builder
from moiety_server.hints import hint_for
from moiety_server.ir import NotServable
from moiety_server.onnx_ops import OPS, Call
from moiety_server.operations import Value
from moiety_server.origin import without_paths
from moiety_server.simplify import Final, finish

_LARGEST = 2 << 30  # bytes: what a protobuf message can hold
_DYNAMIC = 7919  # stands for a batch that the file leaves open; a prime, so that no other dimension is it
_FINAL: dict[str, Final] = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def read_onnx(path: Path) -> ir.Graph:
    size = path.stat().st_size
    if size > _LARGEST:
        raise NotServable(f"{path.name}: has {size} bytes, more than the {_LARGEST} that are read")
    try:
        model = onnx.load(path, load_external_data=False)
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        if not _inside(model):
            raise NotServable(f"{path.name}: keeps its weights in other files. Instead: save it as one file")
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except NotServable:
        raise
    except Exception as error:  # protobuf, the checker and shape inference have no common one
        raise NotServable(f"{path.name}: is no valid ONNX file: {without_paths(str(error))}") from None
    return _Walk(inferred).graph()


def _inside(model: ModelProto) -> bool:
    return all(t.data_location != TensorProto.EXTERNAL for t in model.graph.initializer)


class _Walk:
    """Over the nodes of a file that the output depends on, one after the other."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._opsets = {opset.domain: opset.version for opset in model.opset_import}
        self._builder = Builder()
        self._public: set[str] = set()
        self._values: dict[str, Any] = {t.name: _tensor(onnx.numpy_helper.to_array(t)) for t in self._graph.initializer}
        self._producers = {name: node for node in self._graph.node for name in node.output}
        described = (*self._graph.value_info, *self._graph.output)
        self._shapes = {info.name: _dimensions(info) for info in described}
        self._batch = self._input()

    def _input(self) -> int:
        """Adds the input; the batch size that the file names for it, or what stands for it."""
        inputs = [info for info in self._graph.input if info.name not in self._values]
        if len(inputs) != 1 or len(self._graph.output) != 1:
            names = ", ".join(info.name for info in inputs) or "none"
            raise NotServable(
                f"the model: has the inputs {names} and {len(self._graph.output)} outputs. Instead: export one of each"
            )
        info = inputs[0]
        kind, shape = info.type.tensor_type.elem_type, _dimensions(info)
        if kind not in _FLOATS:
            raise NotServable(
                f"the model's input {info.name}: is no tensor of floats. Instead: " + hint_for("embedding", "")
            )
        if len(shape) < 2 or None in shape[1:]:
            raise NotServable(
                f"the model's input {info.name}: has the shape {shape}. "
                "Instead: leave at most the batch open, which is the first dimension"
            )
        self._values[info.name] = self._builder.input(tuple(n for n in shape[1:] if n))
        return shape[0] or _DYNAMIC

    def graph(self) -> ir.Graph:
        last, final = self._last()
        needed = {last}
        for node in reversed(self._graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
        for node in self._graph.node:
            if needed.intersection(node.output):
                self._take(node)
        output = self._values.get(last)
        if not isinstance(output, ir.Node):
            raise NotServable("the model: its output does not depend on its input")
        return finish(self._builder.nodes.values(), output.name, final)

    def _last(self) -> tuple[str, Final]:
        """The wire that is served, and what the client makes of it."""
        name = self._graph.output[0].name
        while name in self._producers and self._producers[name].op_type == "Identity":
            name = self._producers[name].input[0]
        node = self._producers.get(name)
        if node is not None and node.op_type in _FINAL:
            axis = _attributes(node).get("axis", -1 if self._opsets.get("", 1) >= 13 else 1)
            rank = len(self._shapes.get(name, ()))
            if axis == 1 or (rank and axis == 1 - rank):
                return node.input[0], _FINAL[node.op_type]
        return name, "none"

    def _take(self, node: NodeProto) -> None:
        b = self._builder
        label = node.name or node.output[0]
        b.scope = node.name.strip("/").replace("/", ".") or node.op_type.lower()
        b.origin = f"{label.strip('/')} ({node.op_type})"
        attributes = _attributes(node)
        if node.domain not in ("", "ai.onnx") or any(a.g.node or a.graphs for a in node.attribute):
            b.refuse(f"{node.op_type} is not served", hint_for(node.op_type, "cond"))
        inputs = [self._values[name] if name else None for name in node.input]
        if node.op_type == "Shape" and isinstance(inputs[0], ir.Node):
            shape = (self._batch, *inputs[0].shape)
            result: Any = torch.tensor(shape[attributes.get("start", 0) : attributes.get("end")])
        elif not any(isinstance(value, ir.Node) for value in inputs):
            result = self._constant(node, inputs)
            if all(name in self._public for name in node.input):
                self._public.update(node.output)
        else:
            result = self._translated(node, inputs, attributes)
        results = result if isinstance(result, list) else [result]
        self._values.update(zip(node.output, results, strict=False))
        for name in node.output[len(results) :]:
            if name and name in {used for other in self._graph.node for used in other.input}:
                b.refuse(f"the result {name} is used", "only the values are served")

    def _translated(self, node: NodeProto, inputs: list[Value | None], attributes: dict[str, Any]) -> Any:
        b = self._builder
        if node.op_type not in OPS:
            b.refuse(f"{node.op_type} is not served", hint_for(node.op_type, node.op_type.lower()))
        if node.op_type == "Cast" and attributes["to"] not in _FLOATS:
            b.refuse("casts to what is no float", hint_for("", "gt"))
        public = [name in self._public for name in node.input]
        result = OPS[node.op_type](b, Call(inputs, public, attributes, len(node.output), self._batch))
        expected = self._shapes.get(node.output[0], ())
        if isinstance(result, ir.Node) and expected and None not in expected[1:] and result.shape != expected[1:]:
            b.refuse(f"gives {expected[1:]} here, which has no form", "reshape it first")
        return result

    def _constant(self, node: NodeProto, inputs: Iterable[Tensor | None]) -> list[Tensor]:
        """Of constants alone."""
        if not node.input and node.op_type != "Constant":
            self._builder.refuse(f"{node.op_type} makes values of its own", "keep them in the file as constants")
        arrays = [None if value is None else value.numpy() for value in inputs]
        try:
            run = ReferenceEvaluator(node, opsets=self._opsets).run
            values = run(None, {name: a for name, a in zip(node.input, arrays, strict=True) if a is not None})
        except Exception as error:
            self._builder.refuse(f"cannot be computed: {without_paths(str(error))}")
        return [_tensor(np.asarray(value)) for value in values]


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """A copy; the float formats that numpy lacks become float32."""
    kind = array.dtype if array.dtype.kind in "iub" or array.dtype in (np.float32, np.float64) else np.float32
    return torch.from_numpy(np.array(array, dtype=kind))


def _dimensions(info: ValueInfoProto) -> tuple[int | None, ...]:
    """None where the file leaves one open."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in info.type.tensor_type.shape.dim)


def _attributes(node: NodeProto) -> dict[str, Any]:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
