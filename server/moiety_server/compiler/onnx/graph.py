"""From an ONNX file to the intermediate representation. It reads data only: no custom operators, and no other files
than `file.py` lets through.

Initializers are the secret parameters. A Constant node of the file is public, part of the architecture, where it is one
number. Limits, shapes and axes are public wherever they come from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import NodeProto, TensorProto, TypeProto
from onnx.defs import get_schema
from onnx.helper import make_tensor_type_proto, np_dtype_to_tensor_dtype
from onnx.numpy_helper import from_array
from onnx.shape_inference import infer_node_outputs

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.hints import hint_for
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx import file
from moiety_server.compiler.onnx.constants import Constants, unpacked
from moiety_server.compiler.onnx.operators import OPS, OnnxNode
from moiety_server.compiler.operations import Value
from moiety_server.compiler.origin import shown
from moiety_server.compiler.simplification import Final, finish

_DYNAMIC = 7919  # stands for a batch that the file leaves open; a prime, so hardly any other dimension
_SHAPES = 64  # most elements of a tensor that may state a shape, and is shown to shape inference
_FINAL: dict[str, Final] = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def read_onnx(path: Path) -> ir.Graph:
    """Read an ONNX file. Raises NotServable, in one line, for a file that is no model, or none that can be served."""
    return _Walk(file.read(path)).graph()


class _Walk:
    """Walks over the nodes on which the output depends, one after the other."""

    def __init__(self, file: file.File) -> None:
        self._graph = file.model.graph
        self._opsets: dict[str, int] = {opset.domain: opset.version for opset in file.model.opset_import}
        self._builder = Builder()
        self._constants = Constants(file.elements, self._opsets)
        self._initializers = dict(file.initializers)
        self._public: set[str] = set()
        self._values: dict[str, Any] = {}
        self._kinds: dict[str, int] = {}
        self._producers = {name: node for node in self._graph.node for name in node.output if name}
        self._read = {name for node in self._graph.node for name in node.input}
        self._batch = self._input()

    def _input(self) -> int:
        """Add the input. Returns the batch size that the file states, or the number that stands for an open one."""
        inputs = [info for info in self._graph.input if info.name not in self._initializers]
        if len(inputs) != 1 or len(self._graph.output) != 1:
            names = shown(", ".join(info.name for info in inputs[:9])) or "none"
            raise NotServable(
                f"the model: has the inputs {names} and {len(self._graph.output)} outputs. Instead: export one of each"
            )
        info = inputs[0]
        kind, shape, label = info.type.tensor_type.elem_type, _dimensions(info.type.tensor_type), shown(info.name)
        if kind not in _FLOATS:
            raise NotServable(
                f"the model's input {label}: is no tensor of floats. Instead: " + hint_for("embedding", "")
            )
        if len(shape) < 2 or None in shape[1:]:
            raise NotServable(
                f"the model's input {label}: has the shape {shown(str(shape))}. "
                "Instead: leave at most the batch open, which is the first dimension"
            )
        self._values[info.name] = self._builder.input(tuple(n for n in shape[1:] if n))
        self._kinds[info.name] = kind
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
        if final and not self._is_over_classes(final, output):
            self._take(final)  # this refuses it
        graph = finish(self._builder.nodes.values(), output.name, _FINAL[final.op_type] if final else "none")
        graph.check()
        return graph

    def _last(self) -> tuple[str, NodeProto | None]:
        """Return the wire that is served, and the node whose function the client applies to it."""
        name = self._graph.output[0].name
        while name in self._producers and self._producers[name].op_type == "Identity":
            name = self._producers[name].input[0]
        node = self._producers.get(name)
        return (node.input[0], node) if node is not None and node.op_type in _FINAL else (name, None)

    def _is_over_classes(self, final: NodeProto, output: ir.Node) -> bool:
        axis = _attributes(final).get("axis", -1 if self._opset >= 13 else 1)
        return axis in (1, -len(output.shape))

    @property
    def _opset(self) -> int:
        return self._opsets.get("", self._opsets.get("ai.onnx", 1))

    def _take(self, node: NodeProto) -> None:
        b = self._builder
        label = shown((node.name or node.output[0]).strip("/"))
        b.scope = node.name.strip("/").replace("/", ".") or node.op_type.lower()
        b.origin = f"{label} ({shown(node.op_type)})"
        try:
            results = self._results(node)
        except NotServable as error:
            raise NotServable(str(error) if str(error).startswith(b.origin) else f"{b.origin}: {error}") from None
        except Exception as error:  # a file may hold any attributes and shapes, and each operator fails in its own way
            b.refuse(f"its inputs and attributes do not go together ({type(error).__name__})", "export the model anew")
        self._values.update(zip(node.output, results, strict=False))
        if self._read.intersection(node.output[len(results) :]) - {""}:
            unserved = next(name for name in node.output[len(results) :] if name in self._read)
            b.refuse(f"the result {shown(unserved)} is used", "only the values are served")

    def _results(self, node: NodeProto) -> Sequence[Any]:
        b, attributes = self._builder, _attributes(node)
        if node.domain not in ("", "ai.onnx") or any(a.g.node or a.graphs for a in node.attribute):
            b.refuse(f"{shown(node.op_type)} is not served", hint_for(node.op_type, "cond"))
        inputs = [self._value(name) if name else None for name in node.input]
        if node.op_type == "Shape" and isinstance(inputs[0], ir.Node):
            shape = (self._batch, *inputs[0].shape)
            return [torch.tensor(shape[attributes.get("start", 0) : attributes.get("end")])]
        if not any(isinstance(value, ir.Node) for value in inputs):
            if not node.input and node.op_type != "Constant":
                b.refuse(f"{node.op_type} makes values of its own", "keep them in the file as constants")
            if all(name in self._public for name in node.input):
                self._public.update(node.output)
            return self._constants.evaluate(node, attributes, inputs)
        result = self._translated(node, inputs, attributes)
        return result if isinstance(result, list) else [result]

    def _value(self, name: str) -> Any:
        """Return a wire or a constant. An initializer is unpacked when it is first read."""
        if name not in self._values:
            if name not in self._initializers:
                self._builder.refuse(f"reads {shown(name)}, which is no dense tensor", "save it dense")
            self._values[name] = unpacked(self._initializers.pop(name))
        return self._values[name]

    def _translated(self, node: NodeProto, inputs: list[Value | None], attributes: dict[str, Any]) -> Any:
        b = self._builder
        if node.op_type not in OPS:
            b.refuse(f"{shown(node.op_type)} is not served", hint_for(node.op_type, node.op_type.lower()))
        if node.op_type == "Cast" and attributes["to"] not in _FLOATS:
            b.refuse("casts to what is no float", hint_for("", "gt"))
        public = [name in self._public for name in node.input]
        result = OPS[node.op_type](b, OnnxNode(inputs, public, attributes, len(node.output), self._batch))
        expected = self._expected(node, inputs)
        # Some versions of shape inference let a max pool's window start in the padding.
        if isinstance(result, ir.Node) and expected and None not in expected[1:] and result.shape != expected[1:]:
            b.refuse(f"gives {shown(str(expected[1:]))} here, which has no form", "reshape it first")
        return result

    def _expected(self, node: NodeProto, inputs: list[Value | None]) -> tuple[int | None, ...]:
        """Return the shape that ONNX gives the node's first result.

        Shape inference sees this node alone. It gets nothing but what was translated or evaluated here, so nothing that
        a file makes up reaches it.
        """
        types: dict[str, TypeProto] = {}
        data: dict[str, TensorProto] = {}
        for name, value in zip(node.input, inputs, strict=True):
            if isinstance(value, ir.Node):
                types[name] = make_tensor_type_proto(self._kinds[name], (self._batch, *value.shape))
            elif value is not None:
                array = value.numpy()
                types[name] = make_tensor_type_proto(np_dtype_to_tensor_dtype(array.dtype), array.shape)
                if array.size <= _SHAPES:
                    data[name] = from_array(array, name)
        schema = get_schema(node.op_type, self._opset, "")
        imports = [onnx.helper.make_opsetid("", self._opset)]
        found = infer_node_outputs(schema, node, types, data, opset_imports=imports)
        kind = next(self._kinds[n] for n, v in zip(node.input, inputs, strict=True) if isinstance(v, ir.Node))
        for name in node.output:
            self._kinds[name] = found[name].tensor_type.elem_type or kind if name in found else kind
        first = found.get(node.output[0])
        return () if first is None else _dimensions(first.tensor_type)


def _dimensions(kind: TypeProto.Tensor) -> tuple[int | None, ...]:
    """Return the dimensions, with None for each that the file leaves open."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)


def _attributes(node: NodeProto) -> dict[str, Any]:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
