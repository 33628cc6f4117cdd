"""ONNX files from strangers: none reads another file, and whatever is in one, it ends in one line and little memory."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper

from moiety_server.compiler.compile import compile_model
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx import file
from moiety_server.compiler.onnx.graph import read_onnx

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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the owner's keys lie, and a stranger's model."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "signing.pem").write_bytes(SECRET)
    return tmp_path


def refusal(path: Path, made: ModelProto) -> str:
    path.write_bytes(made.SerializeToString())
    with pytest.raises(NotServable) as caught:
        read_onnx(path)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 400, text
    return text


# Tensors that name another file


def sparse(**of: TensorProto) -> SparseTensorProto:
    values = dense("v", np.zeros(1))
    indices = numpy_helper.from_array(np.zeros(1, dtype=np.int64), "i")
    return SparseTensorProto(values=of.get("values", values), indices=of.get("indices", indices), dims=[N])


def attribute(op: str = "Constant", **of: Any) -> ModelProto:
    """A node with one attribute, of which the output is made."""
    made = NodeProto(op_type=op, output=["c"], input=["x"] if op != "Constant" else [])
    made.attribute.append(AttributeProto(name=of.pop("name", "value"), **of))
    return model([made, node("Cast", "c", "f", to=FLOAT), node("Add", "x f")])


def inside(graph: GraphProto) -> ModelProto:
    made = NodeProto(op_type="If", input=["x"], output=["c"])
    for name in ("then_branch", "else_branch"):
        made.attribute.append(AttributeProto(name=name, type=AttributeProto.GRAPH, g=graph))
    return model([made, node("Add", "x c")])


def branch(initializers: Sequence[TensorProto] = (), nodes: Sequence[NodeProto] = ()) -> GraphProto:
    return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("c", FLOAT, [N])], initializers)


def reads() -> NodeProto:
    return helper.make_node("Constant", [], ["c"], value=elsewhere())


def function() -> onnx.FunctionProto:
    body = [reads(), node("Cast", "c", "d", to=FLOAT), node("Add", "a d", "b")]
    return helper.make_function("f", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])


def with_default() -> onnx.FunctionProto:
    made = helper.make_function("f", "F", ["a"], ["b"], [node("Relu", "a", "b")], [helper.make_opsetid("", 17)])
    made.attribute_proto.append(helper.make_attribute("value", elsewhere()))
    return made


def trained() -> ModelProto:
    made = model([node("Relu", "x")])
    made.training_info.add().initialization.initializer.append(elsewhere())
    return made


def sparse_initializer(**of: TensorProto) -> ModelProto:
    made = model([node("Add", "x v")])
    made.graph.sparse_initializer.append(sparse(**of))
    return made


def unmarked() -> TensorProto:
    made = elsewhere()
    made.ClearField("data_location")
    return made


TENSOR, TENSORS = AttributeProto.TENSOR, AttributeProto.TENSORS
PLACES: dict[str, Callable[[], ModelProto]] = {
    "a Constant": lambda: attribute(type=TENSOR, t=elsewhere()),
    "a Constant that does not say so": lambda: attribute(type=TENSOR, t=unmarked()),
    "a ConstantOfShape": lambda: attribute("ConstantOfShape", type=TENSOR, t=elsewhere()),
    "a list of tensors": lambda: attribute(type=TENSORS, tensors=[elsewhere()]),
    "an attribute of another type": lambda: attribute(type=AttributeProto.INT, t=elsewhere()),
    "sparse values": lambda: attribute(
        name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse(values=elsewhere())
    ),
    "sparse indices": lambda: attribute(
        name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse(indices=elsewhere())
    ),
    "a list of sparse tensors": lambda: attribute(
        type=AttributeProto.SPARSE_TENSORS, sparse_tensors=[sparse(values=elsewhere())]
    ),
    "a sparse initializer": lambda: sparse_initializer(values=elsewhere("v")),
    "a sparse initializer's indices": lambda: sparse_initializer(indices=elsewhere("v")),
    "a branch's initializer": lambda: inside(branch([elsewhere()])),
    "a branch's node": lambda: inside(branch(nodes=[reads()])),
    "a branch in a branch": lambda: inside(branch(nodes=inside(branch(nodes=[reads()])).graph.node[:1])),
    "a list of graphs": lambda: attribute(type=AttributeProto.GRAPHS, graphs=[branch([elsewhere()])]),
    "a function": lambda: model([helper.make_node("F", ["x"], ["y"], domain="f")], functions=[function()]),
    "a function nobody calls": lambda: model([node("Relu", "x")], functions=[function()]),
    "a function's attribute": lambda: model([node("Relu", "x")], functions=[with_default()]),
    "the training": trained,
    "a node nobody reads": lambda: model([reads(), node("Relu", "x")]),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["keys/signing.pem", "beside"])
def test_no_tensor_but_an_initializer_is_read_from_another_file(
    folder: Path, place: str, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "beside").write_bytes(SECRET)
    monkeypatch.chdir(folder)  # where the library would look
    made = PLACES[place]()
    for tensor in _all_tensors(made):
        for entry in tensor.external_data:
            entry.value = location
    text = refusal(folder / "m.onnx", made)
    assert f"names another file, {location}" in text and "as one file" in text


def _all_tensors(message: Any) -> Iterator[TensorProto]:
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _all_tensors(part)


# Data files beside a model


def weights() -> ModelProto:
    w = {"w": np.arange(12).reshape(4, 3) / 8, "b": np.arange(4) / 4, "v": np.ones((2, 4))}
    nodes = [node("Gemm", "x w b", "h", transB=1), node("Gemm", "h v", transB=1)]
    return model(nodes, [dense(name, value) for name, value in w.items()], shape=["N", 3])


@pytest.mark.parametrize("one", [True, False])
def test_weights_are_read_from_files_beside_the_model(tmp_path: Path, one: bool) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(weights(), tmp_path / "whole.onnx")
    onnx.save(
        weights(),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one,
        location="m.onnx.data" if one else None,
        size_threshold=0,
    )
    assert (tmp_path / "m.onnx.data").exists() == one and path.stat().st_size < 600
    x = torch.randn(3, 3)
    graphs = [read_onnx(p) for p in (path, tmp_path / "whole.onnx")]
    read, whole = (graph.run(x)[graph.output] for graph in graphs)
    assert torch.equal(read, whole) and whole.abs().max() > 0


def beside(**entries: str) -> ModelProto:
    given = {"location": "data"} | entries
    nodes = [node("Cast", "c", "f", to=FLOAT), node("Add", "x f")]
    return model(nodes, [elsewhere(**given)])  # type: ignore[arg-type]


NAMES = (
    "../data",
    "/etc/passwd",
    "keys/signing.pem",
    "./data",
    "",
    ".",
    "..",
    ".hidden",
    "data\0",
    "C:data",
    "a\\data",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_data_file_is_named_as_one_of_the_models_folder(folder: Path, name: str) -> None:
    (folder / "data").write_bytes(SECRET)
    (folder / ".hidden").write_bytes(SECRET)
    (folder.parent / "data").write_bytes(SECRET)
    assert "not named as a file beside the model" in refusal(folder / "m.onnx", beside(location=name))


def test_a_data_file_is_no_link_no_pipe_no_folder(folder: Path) -> None:
    path, data = folder / "m.onnx", folder / "data"
    assert "No such file" in refusal(path, beside())
    data.symlink_to(folder / "keys" / "signing.pem")
    assert "copy it there as a file of its own" in refusal(path, beside())
    data.unlink()
    os.link(folder / "keys" / "signing.pem", data)
    assert "hard link" in refusal(path, beside())
    data.unlink()
    os.mkfifo(data)
    assert "no regular file" in refusal(path, beside())
    data.unlink()
    data.mkdir()
    assert "directory" in refusal(path, beside())
    data.rmdir()
    data.write_bytes(SECRET)
    path.write_bytes(beside().SerializeToString())
    assert read_onnx(path).nodes


WRONG: dict[str, dict[str, str]] = {
    "behind the end": {"offset": "1"},
    "far behind the end": {"offset": str(1 << 62)},
    "before the start": {"offset": "-1"},
    "no number": {"offset": "0x0"},
    "digits without end": {"offset": "0" * 5000},
    "another length": {"length": str(N - 1)},
    "too long": {"offset": "1", "length": str(N)},
    "a length below nothing": {"length": "-1"},
}


@pytest.mark.parametrize("case", WRONG)
def test_offset_and_length_lie_in_the_file_and_are_what_the_shape_says(folder: Path, case: str) -> None:
    (folder / "data").write_bytes(SECRET)
    assert "not what offset and length" in refusal(folder / "m.onnx", beside(**WRONG[case]))


def test_what_a_tensor_says_of_its_file_fits_together(folder: Path) -> None:
    path = folder / "m.onnx"
    (folder / "data").write_bytes(SECRET + SECRET)
    assert "not what offset" in refusal(path, beside())  # the rest of the file is twice as long
    twice = beside(length=str(N))
    twice.graph.initializer[0].external_data.add(key="length", value=str(N))
    assert "not what offset" in refusal(path, twice)
    unsure = beside(length=str(N))
    unsure.graph.initializer[0].data_location = TensorProto.DEFAULT
    assert "not what offset" in refusal(path, unsure)
    negative = beside(length=str(N))
    negative.graph.initializer[0].dims[:] = [-1, -N]
    assert "not what offset" in refusal(path, negative)
    many = beside(length=str(N))
    many.graph.initializer.extend(elsewhere(f"c{i}", "data", length=str(N)) for i in range(2))
    assert "of which" in refusal(path, many)  # three times a part of a file that has two


def test_data_files_have_a_largest_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data").write_bytes(SECRET)
    monkeypatch.setattr(file, "_LARGEST_BESIDE", N - 1)
    assert "are asked for" in refusal(folder / "m.onnx", beside())
    monkeypatch.setattr(file, "_LARGEST", 10)
    assert "more than the 10 that are read" in refusal(folder / "m.onnx", beside())


def test_only_a_regular_file_is_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for name, said in (("pipe.onnx", "no regular file"), (".", "directory"), ("missing.onnx", "No such file")):
        with pytest.raises(NotServable, match=said):
            read_onnx(tmp_path / name)


# Files that ask for much


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
    "functions that double": (lambda: chain(40, 2), "nodes that are read"),
    "functions a thousand deep": (lambda: chain(1000, 1), "deep"),
    "graphs in graphs": (lambda: nested(20), "G is not served"),
    "graphs in graphs without end": (lambda: _endless(), "no valid ONNX file"),
    "a million entries": (lambda: b"\x3a\x80\x89\x7a" + b"\x0a\x00" * 1_000_000, "entries that are read"),
    "numbers that grow": (lambda: _many_numbers(), "bytes of whole numbers"),
    "too many nodes": (lambda: model([node("Relu", "x", f"t{i}") for i in range(20_001)]), "nodes that are read"),
    "a name that is no text": (lambda: _field(7, _field(2, b"\xff\x1b[31m")), "no valid ONNX file"),
    "no end": (lambda: b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "no valid"),
    "a tensor without its values": (lambda: stated([HUGE]), "does not hold what its shape"),
    "a tensor of many dimensions": (lambda: stated([HUGE] * 500_000), "500000 dimensions"),
    "a tensor of less than nothing": (lambda: stated([-1], raw_data=b""), "does not hold what its shape"),
    "values of another type": (lambda: stated([1], int64_data=[1]), "does not hold what its shape"),
    "texts": (lambda: stated([1], kind=TensorProto.STRING, string_data=[b"1"]), "no tensor of numbers"),
    "complex numbers": (lambda: stated([1], kind=TensorProto.COMPLEX64, float_data=[1, 2]), "no tensor of numbers"),
    "a sparse weight": (lambda: sparse_initializer(), "no dense tensor"),
    "a sparse constant": (lambda: attribute(
        name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse()), "no tensor of numbers"),
    "two of one name": (lambda: model([node("Add", "x w")], [dense("w", [1.0])] * 2), "two initializers"),
    "ConstantOfShape": (lambda: computed(constant("s", [HUGE]), node("ConstantOfShape", "s", "c")), "much larger"),
    "ConstantOfShape of any rank": (
        lambda: computed(constant("a", 0), constant("b", 1 << 33), constant("d", 1), node("Range", "a b d", "s"),
                         node("ConstantOfShape", "s", "c")), "much larger"),
    "less than nothing, often": (
        lambda: computed(constant("v", [1.0], np.float32), constant("s", [-1, HUGE]), node("Tile", "v s", "c")),
        "no such shape"),
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
        lambda: computed(constant("p", [1], np.uint8), node("ImageDecoder", "p", "c"), opset=20), "not computed here"),
    "texts made": (lambda: computed(constant("v", [0]), node("Cast", "v", "c", to=TensorProto.STRING)), "no number"),
    "a large input": (lambda: model([node("Relu", "x")], shape=("N", HUGE)), "values are served"),
    "a large expansion": (lambda: path(constant("s", [1, 1 << 25]), node("Expand", "x s"), shape=("N", 1)), "together"),
    "a huge expansion": (lambda: path(constant("s", [1, HUGE]), node("Expand", "x s"), shape=("N", 1)), "are served"),
    "a large padding": (lambda: path(constant("p", [0] * 7 + [HUGE]), node("Pad", "x p")), "are served"),
    "a large convolution": (lambda: path(node("Conv", "x w", pads=[HUGE] * 4)), "are served"),
    "a transposed convolution": (lambda: path(node("ConvTranspose", "x w", strides=[HUGE] * 2)), "are served"),
    "a large pool": (lambda: path(node("AveragePool", "x", kernel_shape=[1, 1], pads=[HUGE] * 4)), "are served"),
    "a large resizing": (lambda: path(helper.make_node(
        "Constant", [], ["s"], value=dense("", [1, 1, 1 << 20, 1 << 20])), helper.make_node(
        "Resize", ["x", "", "s"], ["y"], mode="nearest", coordinate_transformation_mode="asymmetric",
        nearest_mode="floor")), "are served"),
    "many dimensions": (lambda: path(constant("s", [0, 18] + [1] * 60), node("Reshape", "x s")), "are served"),
    "a shape without end": (
        lambda: path(constant("n", [1 << 20]), node("ConstantOfShape", "n", "s"), node("Reshape", "x s")),
        "numbers where its shape is"),
    "indices without end": (
        lambda: path(constant("n", [1 << 20]), node("ConstantOfShape", "n", "s"), node("Gather", "x s", axis=1)),
        "picks many"),
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
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NotServable) as caught:
        read_onnx(path)
    assert said in str(caught.value), caught.value
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10, "kilobytes"


def test_names_of_a_file_neither_colour_nor_flood_a_terminal(tmp_path: Path) -> None:
    name = "\x1b[31m\x1b]0;owned\x07\r\n\u202eevil" + "x" * 100_000
    made = helper.make_node("GRU", ["x", "x", "x"], ["y"], name=name, hidden_size=1)
    assert "\\x1b[31m" in refusal(tmp_path / "m.onnx", model([made]))
    own = helper.make_node(name, ["x"], ["y"], domain="f")
    assert "\\x1b[31m" in refusal(tmp_path / "m.onnx", model([own]))
    two = model([node("Relu", "x")])
    two.graph.input[0].name = name
    refusal(tmp_path / "m.onnx", two)
    beside = elsewhere(name, f"{name}/../x")
    assert "\\x1b[31m" in refusal(tmp_path / "m.onnx", model([node("Relu", "x")], [beside]))
    for place in PLACES.values():
        made = place()
        for tensor in _all_tensors(made):
            tensor.name = name
        refusal(tmp_path / "m.onnx", made)


def test_a_model_that_holds_too_much_at_once_is_not_run(tmp_path: Path) -> None:
    """Two hundred wires of a million values each, of which the first is added last."""
    wires = [node("Sigmoid", f"t{i}" if i else "x", f"t{i + 1}") for i in range(200)]
    total = node("Sum", " ".join(f"t{i}" for i in range(200, 0, -1)))
    (tmp_path / "m.onnx").write_bytes(model([*wires, total], shape=("N", 1 << 20)).SerializeToString())
    with pytest.raises(NotServable, match="values at once"):
        compile_model(read_onnx(tmp_path / "m.onnx"), torch.zeros(1, 1 << 20), low=-1, high=1)


def test_the_owners_command_says_it_in_a_line(folder: Path) -> None:
    """As `moiety publish` runs: with the keys in the folder that it is called in."""
    (folder / "m.onnx").write_bytes(PLACES["a Constant"]().SerializeToString())
    np.save(folder / "c.npy", np.zeros((4, N), dtype=np.float32))
    command = [sys.executable, "-m", "moiety_service.cli.main", "inspect", "m.onnx", "--calibration", "c.npy"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "names another file" in done.stderr, done.stderr
