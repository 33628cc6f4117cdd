"""ONNX models built node by node, also such as no exporter writes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

SECRET = b"-----BEGIN PRIVATE KEY-----\n"
N = len(SECRET)
FLOAT = TensorProto.FLOAT


def elsewhere(name: str = "c", location: str = "keys/signing.pem", **entries: str) -> TensorProto:
    """A tensor of as many bytes as the secret has, which are said to be in that file."""
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[N], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model(
    nodes: Sequence[NodeProto],
    initializers: Sequence[TensorProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    shape: Sequence[int | str] = ("N", N),
    opset: int = 17,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, ["N", "M"])],
        initializers,
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=10)


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), **attributes)


def constant(name: str, value: Any, dtype: Any = np.int64) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, dtype=dtype)))


def dense(name: str, value: Any) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)


def sparse(**of: TensorProto) -> SparseTensorProto:
    values = dense("v", np.zeros(1))
    indices = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i")
    return SparseTensorProto(values=of.get("values", values), indices=of.get("indices", indices), dims=[N])


def attribute(op: str = "Constant", **of: Any) -> ModelProto:
    """A node with one attribute, of which the output is made."""
    made = NodeProto(op_type=op, output=["c"], input=["x"] if op != "Constant" else [])
    made.attribute.append(AttributeProto(name=of.pop("name", "value"), **of))
    return model([made, node("Cast", "c", "f", to=FLOAT), node("Add", "x f")])


def branch(initializers: Sequence[TensorProto] = (), nodes: Sequence[NodeProto] = ()) -> GraphProto:
    return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("c", FLOAT, [N])], initializers)


def sparse_initializer(**of: TensorProto) -> ModelProto:
    made = model([node("Add", "x v")])
    made.graph.sparse_initializer.append(sparse(**of))
    return made
