"""From an ONNX file to the intermediate representation. It reads data only: no custom operators, and no other files
than `file.py` lets through.

Initializers are the secret parameters. A Constant node of the file is public, part of the architecture, where it is one
number. Limits, shapes and axes are public wherever they come from.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import NodeProto, TensorProto, TypeProto, ValueInfoProto
from onnx.defs import get_schema
from onnx.helper import make_tensor_type_proto, np_dtype_to_tensor_dtype
from onnx.numpy_helper import from_array
from onnx.shape_inference import infer_node_outputs
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.batched import Batched, located, output_wire, placed
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.hints import INPUT, hint_for
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx import file
from moiety_server.compiler.onnx.batched import MOVES, beside, moved
from moiety_server.compiler.onnx.batches import Batch
from moiety_server.compiler.onnx.constants import Constants, unpacked
from moiety_server.compiler.onnx.node import translated
from moiety_server.compiler.onnx.operators import OnnxNode
from moiety_server.compiler.onnx.outputs import FINAL, Ends
from moiety_server.compiler.onnx.quantised import MICROSOFT, ONNXRUNTIME, QUANTISED, QuantisedWires
from moiety_server.compiler.onnx.sequences import RECURRENT
from moiety_server.compiler.onnx.table import EITHER_SIDE, OPS
from moiety_server.compiler.onnx.volumes import VOLUMES
from moiety_server.compiler.operations import Value
from moiety_server.compiler.origin import shown
from moiety_server.compiler.parts import add_inputs, ended
from moiety_shared.plan.plan import Final, InputPart

_DYNAMIC = 7919  # stands for a batch that the file leaves open; a prime, so hardly any other dimension
_SHAPES = 64  # most elements of a tensor that may state a shape, and is shown to shape inference
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_WHOLE = (TensorProto.INT32, TensorProto.INT64)  # no count of values is too large for these
# What these give of whole numbers is what they give of the same floats.
_OF_WHOLE = {
    *("Add", "Sub", "Mul", "Neg", "Abs", "Sum", "Max", "Min", "Clip", "Relu", "Where", "CumSum", "Identity"),
    *("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "ReduceSum", "ReduceMax", "ReduceMin"),
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Slice", "Concat", "Split", "Gather"),
    *("Tile", "Pad"),
}
_OLDEST = 7  # before it, Add and others had axes of their own, and BatchNormalization and Dropout trained by default


def read_onnx(path: Path, example: Tensor | Mapping[str, Tensor] | None = None, output: str = "") -> ir.Graph:
    """Read an ONNX file. Sizes that the file leaves open are those of the example, which a model of several inputs has
    of each, by name. Of several outputs, all are served, or the one that is called `output`.

    The first dimension of an input is the batch. Where that cannot be, and the file states all sizes of its one input,
    the whole input is one row: the file is written for a single input.

    Raises NotServable, in one line, for a file that is no model, or none that can be served.
    """
    content = file.read(path)
    try:
        return _Walk(content, example, output).graph()
    except NotServable as error:
        if not _states_all_sizes(content):
            raise
        with suppress(NotServable):
            return _Walk(content, None, output, lead=0).graph()
        raise error from None


def _states_all_sizes(content: file.File) -> bool:
    inputs = [info for info in content.model.graph.input if info.name not in content.initializers]
    return len(inputs) == 1 and None not in (_dimensions(inputs[0].type.tensor_type) or (None,))


class _Walk:
    """Walks over the nodes on which the output depends, one after the other."""

    def __init__(
        self,
        file: file.File,
        example: Tensor | Mapping[str, Tensor] | None = None,
        output: str = "",
        lead: int = 1,
    ) -> None:
        self._graph = file.model.graph
        self._opsets: dict[str, int] = {opset.domain: opset.version for opset in file.model.opset_import}
        self._builder = Builder(lead)
        self._constants = Constants(file.elements, self._opsets)
        self._initializers = dict(file.initializers)
        self._public: set[str] = set()
        self._values: dict[str, Any] = {}
        self._kinds: dict[str, int] = {}
        self._quantised = QuantisedWires()
        self._read = {name for node in self._graph.node for name in node.input}
        self._ends = Ends(self._graph, output)
        self._parts: tuple[InputPart, ...] = ()
        self._batch = self._input(example)

    def _input(self, example: Tensor | Mapping[str, Tensor] | None) -> int:
        """Add the inputs. Returns the batch size that the file states, or the number that stands for an open one."""
        needed = self._ends.needed()
        inputs = [info for info in self._graph.input if info.name not in self._initializers and info.name in needed]
        if not inputs:
            raise NotServable("the model: its output does not depend on an input. Instead: compute it from the input")
        batch = Batch.of(inputs[0])
        shapes: dict[str, ir.Shape] = {}
        axes: dict[str, int] = {}
        for info in inputs:
            _check_floats(info)
            given = example.get(info.name) if isinstance(example, Mapping) else example if len(inputs) == 1 else None
            axes[info.name] = batch.axis(info)
            shape = _closed(_dimensions(info.type.tensor_type), axes[info.name], given)
            if not self._builder.lead:
                shape = _dimensions(info.type.tensor_type)
            if not shape or None in shape:
                stated = shown(str(_dimensions(info.type.tensor_type)))
                raise NotServable(
                    f"the model's input {shown(info.name)}: has the shape {stated}. "
                    "Instead: put a batch first; sizes that the file leaves open are those of the calibration data"
                )
            shapes[info.name] = tuple(n for n in shape if n)
            self._kinds[info.name] = info.type.tensor_type.elem_type
        if len(inputs) == 1:
            nodes = {name: self._builder.input(shape) for name, shape in shapes.items()}
        else:
            nodes, self._parts = add_inputs(self._builder, shapes)
        self._values.update({name: placed(Batched(node, axes[name])) for name, node in nodes.items()})
        return batch.size or _DYNAMIC

    def graph(self) -> ir.Graph:
        needed = self._ends.needed()
        for node in self._graph.node:
            if needed.intersection(node.output):
                self._take(node)
        outputs: list[tuple[str, ir.Node, Final]] = []
        for name, (last, final) in self._ends.served.items():
            output = output_wire(name, self._values.get(last))
            if final and not self._ends.is_last(final, output.shape, self._builder.lead, self._opset):
                self._take(final)  # this refuses a softmax over another axis
                output, final = output_wire(name, self._values[final.output[0]]), None
            outputs.append((name, output, FINAL[final.op_type] if final else "none"))
        if self._ends.labels and len(outputs[0][1].shape) != 1:
            raise NotServable("the model: ends in an argmax that is not over its classes. Instead: give out its input")
        graph = ended(self._builder, outputs, self._parts, self._ends.labels)
        graph.check()
        return graph

    @property
    def _opset(self) -> int:
        return self._opsets.get("", self._opsets.get("ai.onnx", 1))

    def _take(self, node: NodeProto) -> None:
        with translated(self._builder, node):
            results = self._results(node)
        self._values.update(zip(node.output, results, strict=False))
        if self._read.intersection(node.output[len(results) :]) - {""}:
            unserved = next(name for name in node.output[len(results) :] if name in self._read)
            self._builder.refuse(f"its result {shown(unserved)} is used", "use only the values")

    def _results(self, node: NodeProto) -> Sequence[Any]:
        b, attributes = self._builder, _attributes(node)
        _check_operator(b, node, self._opset)
        inputs = [self._value(name) if name else None for name in node.input]
        if node.op_type == "Shape" and isinstance(inputs[0], ir.Node | Batched):
            shape = self._full(inputs[0])
            return [torch.tensor(shape[attributes.get("start", 0) : attributes.get("end")])]
        if not any(isinstance(value, ir.Node | Batched) for value in inputs):
            if not node.input and node.op_type != "Constant":
                b.refuse(f"{node.op_type} makes values of its own", "store them in the file as constants")
            if all(name in self._public for name in node.input):
                self._public.update(node.output)
            return self._constants.evaluate(node, attributes, inputs)
        self._quantised.check(b, node, inputs)
        result = self._translated(node, inputs, attributes)
        return result if isinstance(result, list) else [result]

    def _value(self, name: str) -> Any:
        """Return a wire or a constant. An initializer is unpacked when it is first read."""
        if name not in self._values:
            if name not in self._initializers:
                self._builder.refuse(f"reads {shown(name)}, which is not a dense tensor", "save it as a dense tensor")
            self._values[name] = unpacked(self._initializers.pop(name))
        return self._values[name]

    def _translated(self, node: NodeProto, inputs: list[Value | None], attributes: dict[str, Any]) -> Any:
        b = self._builder
        quantised = (MICROSOFT if node.domain == ONNXRUNTIME else QUANTISED).get(node.op_type)
        if quantised is None and node.op_type not in OPS and node.op_type not in RECURRENT:
            b.refuse(f"{shown(node.op_type)} is not supported", hint_for(node.op_type, node.op_type.lower()))
        if quantised is None:
            _check_kinds(b, node, inputs, attributes, self._kinds)
        if isinstance(inputs[0], Tensor) and quantised is None and node.op_type in OPS.keys() - EITHER_SIDE:
            b.refuse(f"{node.op_type} of a constant with a computed value", "compute from the input alone")
        public = [name in self._public for name in node.input]
        made = OnnxNode(inputs, public, attributes, len(node.output), self._batch, self._opset)
        batched = any(isinstance(value, Batched) for value in inputs)
        if quantised is not None:
            self._kinds.update(dict.fromkeys(node.output, TensorProto.FLOAT))
            return quantised(b, made)
        if node.op_type in RECURRENT:
            b.require(b.lead == 1, "is a recurrent layer of a single input", "export it with the batch open")
            self._expected(node, inputs)
            return RECURRENT[node.op_type](b, made)
        if b.lead and (batched or node.op_type in MOVES):
            shapes = self._expected(node, inputs)
            if (put := moved(b, node.op_type, made, shapes[0])) is not None:
                return put
            if batched:
                return beside(b, node.op_type, made, shapes)
        volume = b.lead == 1 and isinstance(made.x, ir.Node) and len(made.x.shape) == 4 and node.op_type in VOLUMES
        result = (VOLUMES if volume else OPS)[node.op_type](b, made)
        expected = self._expected(node, inputs)[0]
        # Some versions of shape inference let a max pool's window start in the padding.
        rest = expected[b.lead :]
        if isinstance(result, ir.Node) and expected and None not in rest and result.shape != rest:
            b.refuse(f"gives {shown(str(rest))} here, which is not supported", "reshape it first")
        if b.lead and expected and expected[0] not in (None, self._batch):
            b.refuse(f"gives {shown(str(expected))}, another batch", hint_for("", "batch"))
        return result

    def _full(self, wire: ir.Node | Batched) -> ir.Shape:
        """Return a wire's shape with its batch."""
        return located(wire).full(self._batch) if self._builder.lead else located(wire).node.shape

    def _expected(self, node: NodeProto, inputs: list[Any]) -> list[tuple[int | None, ...]]:
        """Return the shapes that ONNX gives the node's results.

        Shape inference sees this node alone. It gets nothing but what was translated or evaluated here, so nothing that
        a file makes up reaches it.
        """
        types: dict[str, TypeProto] = {}
        data: dict[str, TensorProto] = {}
        for name, value in zip(node.input, inputs, strict=True):
            if isinstance(value, ir.Node | Batched):
                types[name] = make_tensor_type_proto(self._kinds[name], self._full(value))
            elif value is not None:
                array = value.numpy()
                types[name] = make_tensor_type_proto(np_dtype_to_tensor_dtype(array.dtype), array.shape)
                if array.size <= _SHAPES:
                    data[name] = from_array(array, name)
        found = _inferred(node, self._opset, types, data)
        kind = next(self._kinds[n] for n, v in zip(node.input, inputs, strict=True) if isinstance(v, ir.Node | Batched))
        for name in node.output:
            self._kinds[name] = found[name].tensor_type.elem_type or kind if name in found else kind
        return [_dimensions(found[name].tensor_type) if name in found else () for name in node.output]


def _check_floats(info: ValueInfoProto) -> None:
    if info.type.tensor_type.elem_type not in _FLOATS:
        raise NotServable(f"the model's input {shown(info.name)}: is not a tensor of floats. Instead: {INPUT}")


def _check_kinds(
    b: Builder, node: NodeProto, inputs: Sequence[Any], attributes: Mapping[str, Any], kinds: Mapping[str, int]
) -> None:
    """Refuse casts that would change a value, and operators that compute otherwise with whole numbers.

    Whole numbers are made of comparisons: a wire holds them as they are, but no division of them is rounded.
    """
    read = [kinds[name] for name, v in zip(node.input, inputs, strict=True) if isinstance(v, ir.Node | Batched)]
    if node.op_type in ("Cast", "CastLike"):
        kind = attributes.get("to", kinds.get(node.input[-1], 0))
        if node.op_type == "CastLike" and isinstance(inputs[1], Tensor):
            kind = TensorProto.FLOAT if inputs[1].is_floating_point() else TensorProto.INT64
        allowed = kind in _FLOATS or (node.op_type == "Cast" and kind in _WHOLE and read[0] not in _FLOATS)
        b.require(allowed or read[0] == TensorProto.BOOL, "casts to a type that is not a float", hint_for("", "cast"))
    elif not {*read} <= {*_FLOATS, TensorProto.BOOL}:
        b.require(node.op_type in _OF_WHOLE, "computes with whole numbers", "cast them to floats first")


def _check_operator(b: Builder, node: NodeProto, opset: int) -> None:
    """Refuse operators of others, those of old sets, which have other defaults, and those that hold graphs."""
    what = f"{shown(node.op_type)} is not supported"
    if opset < _OLDEST and node.domain != ONNXRUNTIME:
        b.refuse(f"is of operator set {opset}", f"convert the file to set {_OLDEST} or newer: onnx.version_converter")
    if node.domain not in ("", "ai.onnx") and not (node.domain == ONNXRUNTIME and node.op_type in MICROSOFT):
        b.refuse(what, f"export it with ONNX's operators, not those of {shown(node.domain)}")
    if any(a.g.node or a.graphs for a in node.attribute):
        b.refuse(what, hint_for(node.op_type, "cond"))


def _inferred(
    node: NodeProto, opset: int, types: dict[str, TypeProto], data: dict[str, TensorProto]
) -> dict[str, TypeProto]:
    schema, imports = get_schema(node.op_type, opset, ""), [onnx.helper.make_opsetid("", opset)]
    return dict(infer_node_outputs(schema, node, types, data, opset_imports=imports))


def _closed(stated: tuple[int | None, ...], axis: int, example: Tensor | None) -> tuple[int | None, ...]:
    """Return the shape without the batch, which is its axis `axis`. Sizes that are open are those of the example."""
    rest = (*stated[:axis], *stated[axis + 1 :])
    if example is None or example.dim() != len(stated):
        return rest
    return tuple(n or int(m) for n, m in zip(rest, example.shape[1:], strict=True))


def _dimensions(kind: TypeProto.Tensor) -> tuple[int | None, ...]:
    """Return the dimensions, with None for each that the file leaves open."""
    return tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)


def _attributes(node: NodeProto) -> dict[str, Any]:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
