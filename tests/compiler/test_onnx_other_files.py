"""What a stranger's ONNX model names beside itself: data files in its folder are read, and no other file is opened."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx import file
from moiety_server.compiler.onnx.graph import read_onnx
from tests.compiler.onnx_files import (
    FLOAT,
    SECRET,
    N,
    attribute,
    branch,
    dense,
    elsewhere,
    model,
    node,
    sparse,
    sparse_initializer,
)


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


def inside(graph: GraphProto) -> ModelProto:
    made = NodeProto(op_type="If", input=["x"], output=["c"])
    for name in ("then_branch", "else_branch"):
        made.attribute.append(AttributeProto(name=name, type=AttributeProto.GRAPH, g=graph))
    return model([made, node("Add", "x c")])


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
    assert f"keeps its values in another file, {location}" in text and "as one file" in text


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
    assert "must lie in the folder of the model" in refusal(folder / "m.onnx", beside(location=name))


def test_a_data_file_is_no_link_no_pipe_no_folder(folder: Path) -> None:
    path, data = folder / "m.onnx", folder / "data"
    assert "No such file" in refusal(path, beside())
    data.symlink_to(folder / "keys" / "signing.pem")
    assert "copy it there as a regular file" in refusal(path, beside())
    data.unlink()
    os.link(folder / "keys" / "signing.pem", data)
    assert "hard link" in refusal(path, beside())
    data.unlink()
    os.mkfifo(data)
    assert "not a regular file" in refusal(path, beside())
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
    assert "does not match its offset and length" in refusal(folder / "m.onnx", beside(**WRONG[case]))


def test_what_a_tensor_says_of_its_file_fits_together(folder: Path) -> None:
    path = folder / "m.onnx"
    (folder / "data").write_bytes(SECRET + SECRET)
    assert "does not match its offset" in refusal(path, beside())  # the rest of the file is twice as long
    twice = beside(length=str(N))
    twice.graph.initializer[0].external_data.add(key="length", value=str(N))
    assert "does not match its offset" in refusal(path, twice)
    unsure = beside(length=str(N))
    unsure.graph.initializer[0].data_location = TensorProto.DEFAULT
    assert "does not match its offset" in refusal(path, unsure)
    negative = beside(length=str(N))
    negative.graph.initializer[0].dims[:] = [-1, -N]
    assert "does not match its offset" in refusal(path, negative)
    many = beside(length=str(N))
    many.graph.initializer.extend(elsewhere(f"c{i}", "data", length=str(N)) for i in range(2))
    assert "of which" in refusal(path, many)  # three times a part of a file that has two


def test_data_files_have_a_largest_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data").write_bytes(SECRET)
    monkeypatch.setattr(file, "_LARGEST_BESIDE", N - 1)
    assert "of which the model asks for" in refusal(folder / "m.onnx", beside())
    monkeypatch.setattr(file, "_LARGEST", 10)
    assert "more than the limit of 10" in refusal(folder / "m.onnx", beside())


def test_only_a_regular_file_is_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for name, said in (("pipe.onnx", "not a regular file"), (".", "directory"), ("missing.onnx", "No such file")):
        with pytest.raises(NotServable, match=said):
            read_onnx(tmp_path / name)


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


def test_the_owners_command_says_it_in_a_line(folder: Path) -> None:
    """As `moiety publish` runs: with the keys in the folder that it is called in."""
    (folder / "m.onnx").write_bytes(PLACES["a Constant"]().SerializeToString())
    np.save(folder / "c.npy", np.zeros((4, N), dtype=np.float32))
    command = [sys.executable, "-m", "moiety_service.cli.main", "inspect", "m.onnx", "--calibration", "c.npy"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (
        done.returncode == 1 and done.stderr.count("\n") == 1 and "keeps its values in another file" in done.stderr
    ), done.stderr
