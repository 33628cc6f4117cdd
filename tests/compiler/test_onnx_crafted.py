"""Whatever a stranger's ONNX file asks for, reading it ends in one line and takes little memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper

from moiety_server.compiler.compilation import compile_model
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx.graph import read_onnx
from tests.compiler.onnx_files import FLOAT, attribute, branch, constant, dense, model, node, sparse, sparse_initializer
from tests.memory import growth_below


def chain(count: int, calls: int) -> ModelProto:
    """Functions of which each calls the next, so many times."""
    functions = []
    for i in range(count):
        names = ["a", *(f"t{k}" for k in range(calls - 1)), "b"]
        op, domain = (f"F{i + 1}", "f") if i + 1 < count else ("Relu", "")
        body = [helper.make_node(op, [names[k]], [names[k + 1]], domain=domain) for k in range(calls)]
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
        functions.append(helper.make_function("f", f"F{i}", ["a"], ["b"], body, imports))
    return model([helper.make_node("F0", ["x"], ["y"], domain="f")], functions=functions)


def circle() -> ModelProto:
    made = chain(3, 1)
    made.functions[2].node[0].op_type, made.functions[2].node[0].domain = "F0", "f"
    return made


def nested(depth: int) -> ModelProto:
    nodes: Sequence[NodeProto] = [constant("c", 0.0, np.float32)]
    for _ in range(depth):
        nodes = [helper.make_node("G", ["x"], ["c"], domain="f", body=branch(nodes=nodes))]
    return model([*nodes, node("Add", "x c")])


def computed(*nodes: NodeProto, opset: int = 17) -> ModelProto:
    """A constant "c" computed from others, which the output is made with."""
    return model([*nodes, node("Cast", "c", "f", to=FLOAT), node("Add", "x f")], opset=opset)


def doubled(times: int) -> ModelProto:
    nodes = [constant("c0", np.zeros(1000), np.float32)]
    nodes += [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(times)]
    return computed(*nodes, node("Identity", f"c{times}", "c"))


def path(*nodes: NodeProto, shape: Sequence[int | str] = ("N", 2, 3, 3), w: Any = None) -> ModelProto:
    """Nodes that the input goes through."""
    return model(nodes, [dense("w", np.ones((2, 2, 1, 1)) if w is None else w)], shape=shape)


def stated(dims: Sequence[int], **of: Any) -> ModelProto:
    return model([node("Add", "x w")], [TensorProto(name="w", data_type=of.pop("kind", FLOAT), dims=dims, **of)])


HUGE = 1 << 40
CRAFTED: dict[str, tuple[Callable[[], ModelProto | bytes], str]] = {
    "functions in a circle": (circle, "calls itself"),
    "a function that calls itself": (lambda: _itself(), "calls itself"),
    "functions that double": (lambda: chain(40, 2), "functions written out"),
    "functions a thousand deep": (lambda: chain(1000, 1), "deep"),
    "graphs in graphs": (lambda: nested(20), "G is not supported"),
    "graphs in graphs without end": (lambda: _endless(), "not a valid ONNX file"),
    "a million entries": (lambda: b"\x3a\x80\x89\x7a" + b"\x0a\x00" * 1_000_000, "entries, the most that are read"),
    "numbers one by one": (
        lambda: _field(7, _field(1, _field(5, b"\x40\x01" * ((1 << 22) + 1)))),
        "4,194,304 entries, the most that are read",
    ),
    "numbers that grow": (lambda: _many_numbers(), "bytes of whole numbers"),
    "too many nodes": (lambda: model([node("Relu", "x", f"t{i}") for i in range(20_001)]), "functions written out"),
    "a name that is no text": (lambda: _field(7, _field(2, b"\xff\x1b[31m")), "not a valid ONNX file"),
    "no end": (lambda: b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "not a valid"),
    "a tensor without its values": (lambda: stated([HUGE]), "does not hold as many numbers as its shape"),
    "a tensor of many dimensions": (lambda: stated([HUGE] * 500_000), "500000 dimensions"),
    "a tensor of less than nothing": (lambda: stated([-1], raw_data=b""), "does not hold as many numbers as its shape"),
    "values of another type": (lambda: stated([1], int64_data=[1]), "does not hold as many numbers as its shape"),
    "texts": (lambda: stated([1], kind=TensorProto.STRING, string_data=[b"1"]), "not a tensor of numbers"),
    "complex numbers": (lambda: stated([1], kind=TensorProto.COMPLEX64, float_data=[1, 2]), "not a tensor of numbers"),
    "a sparse weight": (lambda: sparse_initializer(), "not a dense tensor"),
    "a sparse constant": (lambda: attribute(
        name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse()), "not a tensor of numbers"),
    "two of one name": (lambda: model([node("Add", "x w")], [dense("w", [1.0])] * 2), "two initializers"),
    "ConstantOfShape": (lambda: computed(constant("s", [HUGE]), node("ConstantOfShape", "s", "c")), "much larger"),
    "ConstantOfShape of any rank": (
        lambda: computed(constant("a", 0), constant("b", 1 << 33), constant("d", 1), node("Range", "a b d", "s"),
                         node("ConstantOfShape", "s", "c")), "much larger"),
    "less than nothing, often": (
        lambda: computed(constant("v", [1.0], np.float32), constant("s", [-1, HUGE]), node("Tile", "v s", "c")),
        "impossible shape"),
    "Expand": (lambda: computed(constant("v", [0]), constant("s", [HUGE]), node("Expand", "v s", "c")), "much larger"),
    "Tile": (lambda: computed(constant("v", [0]), constant("s", [HUGE]), node("Tile", "v s", "c")), "much larger"),
    "Range": (lambda: computed(constant("a", 0), constant("b", HUGE), constant("d", 1), node("Range", "a b d", "c")),
              "much larger"),
    "Range in no steps": (
        lambda: computed(constant("a", 0), constant("b", 1), constant("d", 0), node("Range", "a b d", "c")),
        "cannot be computed"),
    "Pad": (lambda: computed(constant("v", [0]), constant("p", [HUGE, 0]), node("Pad", "v p", "c")), "much larger"),
    "Gather": (
        lambda: computed(constant("i", np.zeros(6000)), constant("v", np.zeros((1, 6000))), node("Gather", "v i", "c")),
        "much larger"),
    "a sum of all with all": (
        lambda: computed(constant("a", np.zeros((1, 6000))), constant("b", np.zeros((6000, 1))),
                         node("Add", "a b", "c")),
        "much larger"),
    "a choice of all with all": (
        lambda: computed(constant("a", np.zeros((1, 6000))), constant("b", np.ones((6000, 1)), np.bool_),
                         node("Where", "b a a", "c")), "much larger"),
    "an outer product": (
        lambda: computed(constant("a", np.zeros((1, 6000))), constant("b", np.zeros((6000, 1))),
                         node("MatMul", "b a", "c")), "much larger"),
    "a product with a wide bias": (
        lambda: computed(constant("a", np.zeros((6000, 1)), np.float32), constant("b", np.zeros((1, 1)), np.float32),
                         constant("d", np.zeros(6000), np.float32), node("Gemm", "a b d", "c")), "much larger"),
    "a scale for each place": (
        lambda: computed(constant("a", np.zeros((6000, 1)), np.int8), constant("b", np.zeros(6000), np.float32),
                         node("DequantizeLinear", "a b", "c")), "much larger"),
    "doubled again and again": (lambda: doubled(40), "much larger"),
    "what decodes pictures": (
        lambda: computed(constant("p", [1], np.uint8), node("ImageDecoder", "p", "c"), opset=20), "constants is not"),
    "texts made": (lambda: computed(constant("v", [0]), node("Cast", "v", "c", to=TensorProto.STRING)), "not a number"),
    "a large input": (lambda: model([node("Relu", "x")], shape=("N", HUGE)), "values are supported"),
    "a large expansion": (lambda: path(constant("s", [1, 1 << 25]), node("Expand", "x s"), shape=("N", 1)), "together"),
    "a huge expansion": (lambda: path(constant("s", [1, HUGE]), node("Expand", "x s"), shape=("N", 1)), "supported"),
    "a large padding": (lambda: path(constant("p", [0] * 7 + [HUGE]), node("Pad", "x p")), "are supported"),
    "a large convolution": (lambda: path(node("Conv", "x w", pads=[HUGE] * 4)), "are supported"),
    "a transposed convolution": (lambda: path(node("ConvTranspose", "x w", strides=[HUGE] * 2)), "are supported"),
    "a large pool": (lambda: path(node("AveragePool", "x", kernel_shape=[1, 1], pads=[HUGE] * 4)), "are supported"),
    "a large resizing": (lambda: path(helper.make_node(
        "Constant", [], ["s"], value=dense("", [1, 1, 1 << 20, 1 << 20])), helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
        nearest_mode="floor")), "are supported"),
    "many dimensions": (lambda: path(constant("s", [0, 18] + [1] * 60), node("Reshape", "x s")), "are supported"),
    "a shape without end": (
        lambda: path(constant("n", [1 << 20]), node("ConstantOfShape", "n", "s"), node("Reshape", "x s")),
        "y (Reshape)"),
    "indices without end": (
        lambda: path(constant("n", [1 << 20]), node("ConstantOfShape", "n", "s"), node("Gather", "x s", axis=1)),
        "takes places"),
    "a stride of nothing": (lambda: path(node("Conv", "x w", strides=[0, 0])), "y (Conv)"),
    "no groups": (lambda: path(node("Conv", "x w", group=0)), "y (Conv)"),
    "other channels": (lambda: path(node("Conv", "x w"), w=np.ones((2, 7, 1, 1))), "y (Conv)"),
    "a pool of nothing": (lambda: path(node("MaxPool", "x", kernel_shape=[0, 0])), "y (MaxPool)"),
    "a pool of nothing there": (lambda: path(node("MaxPool", "x", kernel_shape=[1])), "y (MaxPool)"),
    "an axis that is not there": (lambda: path(node("Concat", "x x", axis=9)), "y (Concat)"),
    "a shape of floats": (lambda: path(constant("s", [1.5], np.float32), node("Reshape", "x s")), "y (Reshape)"),
}  # fmt: skip


def _itself() -> ModelProto:
    made = chain(1, 1)
    made.functions[0].node[0].op_type, made.functions[0].node[0].domain = "F0", "f"
    return made


def _field(number: int, content: bytes) -> bytes:
    """Of a protobuf message: what is inside of another."""
    size, length = len(content), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2, *length, size]) + content


def _many_numbers() -> bytes:
    """int64_data of an initializer, one byte more than may be."""
    return _field(7, _field(5, _field(7, bytes((1 << 26) + 1))))


def _endless() -> bytes:
    """A graph in an attribute of a node of a graph, and so on."""
    content = b""
    for _ in range(1000):
        content = _field(1, _field(5, _field(6, content)))
    return _field(7, content)


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_file_ends_in_one_line(tmp_path: Path, case: str) -> None:
    make, said = CRAFTED[case]
    made, path = make(), tmp_path / "m.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    with growth_below(700 << 20), pytest.raises(NotServable) as caught:
        read_onnx(path)
    assert said in str(caught.value), caught.value
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_a_model_that_holds_too_much_at_once_is_not_run(tmp_path: Path) -> None:
    """Two hundred wires of a million values each, of which the first is added last."""
    wires = [node("Sigmoid", f"t{i}" if i else "x", f"t{i + 1}") for i in range(200)]
    total = node("Sum", " ".join(f"t{i}" for i in range(200, 0, -1)))
    (tmp_path / "m.onnx").write_bytes(model([*wires, total], shape=("N", 1 << 20)).SerializeToString())
    with pytest.raises(NotServable, match="values at once"):
        compile_model(read_onnx(tmp_path / "m.onnx"), torch.zeros(1, 1 << 20), low=-1, high=1)
