"""The ONNX front end: small files of one or a few operators, compared with what torch computes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx.graph import read_onnx
from tests.compiler.tracing import given_out, kinds

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
small = st.integers(1, 3)
Nodes = Sequence[onnx.NodeProto]


def node(op: str, inputs: str, output: str = "y", **attributes: Any) -> onnx.NodeProto:
    """Inputs and outputs separated by blanks; "_" is one left out."""
    return helper.make_node(op, ["" if i == "_" else i for i in inputs.split()], output.split(), **attributes)


def constant(name: str, value: Any, dtype: Any = np.float32) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value, dtype=dtype)))


def save(
    path: Path,
    nodes: Nodes,
    shape: Sequence[int | str],
    secrets: dict[str, Tensor] | None = None,
    opset: int = 17,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    kind: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value.detach().numpy(), name) for name, value in (secrets or {}).items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("me", 1)], ir_version=8
    )
    model = onnx.shape_inference.infer_shapes(model)
    for output in model.graph.output:  # a file has to name a shape
        if not output.type.tensor_type.HasField("shape"):
            output.type.tensor_type.shape.dim.add(dim_param="N")
    onnx.save(model, path / "model.onnx")
    return path / "model.onnx"


def check(
    path: Path,
    nodes: Nodes,
    shape: Sequence[int],
    expected: Callable[[Tensor], Tensor],
    secrets: dict[str, Tensor] | None = None,
    opset: int = 17,
    batch: int | str = "N",
) -> ir.Graph:
    graph = read_onnx(save(path, nodes, (batch, *shape), secrets, opset))
    x = torch.randn(3, *shape)
    values = graph.run(x)
    with torch.no_grad():
        torch.testing.assert_close(given_out(graph, values), expected(x), rtol=1e-4, atol=1e-4)
    assert all(
        values[n.name].shape[1:] == n.shape and type(n).__module__ == "moiety_server.compiler.ir" for n in graph.nodes
    )
    return graph


@quick
@given(data=st.data(), groups=st.sampled_from([1, 2]), one=st.booleans(), norm=st.booleans(), bias=st.booleans())
def test_convolutions(tmp_path: Path, data: st.DataObject, groups: int, one: bool, norm: bool, bias: bool) -> None:
    axes = 1 if one else 2
    each = st.lists(small, min_size=axes, max_size=axes)
    kernel, strides, dilations = data.draw(each), data.draw(each), data.draw(each)
    pads = data.draw(st.lists(st.integers(0, 2), min_size=2 * axes, max_size=2 * axes))
    size = [9, 8][:axes]
    secrets = {"w": torch.randn(4, 4 // groups, *kernel)} | ({"b": torch.randn(4)} if bias else {})
    secrets |= {"s": torch.rand(4) + 0.5, "t": torch.randn(4), "m": torch.randn(4), "v": torch.rand(4) + 0.5}
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
    nodes = [node("Conv", "x w b" if bias else "x w", "c" if norm else "y", **attributes)]
    nodes += [node("BatchNormalization", "c s t m v", epsilon=1e-3)] * norm

    def expected(x: Tensor) -> Tensor:
        x = F.pad(x, [n for pair in reversed(list(zip(pads[:axes], pads[axes:], strict=True))) for n in pair])
        y = (F.conv1d if one else F.conv2d)(x, secrets["w"], secrets.get("b"), strides, 0, dilations, groups)
        s = secrets
        return F.batch_norm(y, s["m"], s["v"], s["s"], s["t"], eps=1e-3) if norm else y

    graph = check(tmp_path, nodes, (4, *size), expected, secrets)
    assert kinds(graph).count("Conv") == 1


@quick
@given(data=st.data(), groups=st.sampled_from([1, 2]), one=st.booleans())
def test_transposed_convolutions(tmp_path: Path, data: st.DataObject, groups: int, one: bool) -> None:
    axes = 1 if one else 2
    each = st.lists(small, min_size=axes, max_size=axes)
    kernel, strides = data.draw(st.lists(st.integers(2, 3), min_size=axes, max_size=axes)), data.draw(each)
    pads = data.draw(st.lists(st.integers(0, 1), min_size=2 * axes, max_size=2 * axes))
    secrets = {"w": torch.randn(4, 3, *kernel), "b": torch.randn(3 * groups)}

    def expected(x: Tensor) -> Tensor:
        y = (F.conv_transpose1d if one else F.conv_transpose2d)(x, secrets["w"], secrets["b"], strides, groups=groups)
        return F.pad(y, [-n for pair in reversed(list(zip(pads[:axes], pads[axes:], strict=True))) for n in pair])

    nodes = [node("ConvTranspose", "x w b", strides=strides, pads=pads, group=groups)]
    check(tmp_path, nodes, (4, *[5, 4][:axes]), expected, secrets)


@pytest.mark.parametrize("auto", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("kernel", [2, 3])
def test_automatic_padding(tmp_path: Path, auto: str, kernel: int) -> None:
    weight, n = torch.randn(2, 1, kernel, kernel), 7
    total = 0 if auto == "VALID" else (-(-n // 2) - 1) * 2 + kernel - n
    less, more = total // 2, total - total // 2
    low, high = (less, more) if auto != "SAME_LOWER" else (more, less)

    def expected(x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (low, high, low, high)), weight, stride=2)

    check(tmp_path, [node("Conv", "x w", auto_pad=auto, strides=[2, 2])], (1, n, n), expected, {"w": weight})
    check(
        tmp_path,
        [node("MaxPool", "x", auto_pad="SAME_UPPER", kernel_shape=[3, 3], strides=[2, 2])],
        (1, 8, 8),
        lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-99.0), 3, 2),
    )


@quick
@given(data=st.data(), one=st.booleans(), ceil=st.booleans(), count=st.booleans(), n=st.integers(6, 11))
def test_pools(tmp_path: Path, data: st.DataObject, one: bool, ceil: bool, count: bool, n: int) -> None:
    axes = 1 if one else 2
    kernel, stride = data.draw(st.integers(2, 4)), data.draw(small)
    pad = data.draw(st.integers(0, kernel // 2))
    size = [n, 7][:axes]
    common = {"kernel_shape": [kernel] * axes, "strides": [stride] * axes, "pads": [pad] * 2 * axes}
    largest, average = (F.max_pool1d, F.avg_pool1d) if one else (F.max_pool2d, F.avg_pool2d)
    nodes = [node("MaxPool", "x", ceil_mode=int(ceil), **common)]
    check(tmp_path, nodes, (2, *size), lambda x: largest(x, kernel, stride, pad, ceil_mode=ceil))
    nodes = [node("AveragePool", "x", ceil_mode=int(ceil), count_include_pad=int(count), **common)]
    # Shape inference of some versions lets a window start in the padding, torch never does.
    starts = [(-(-(m + 2 * pad - kernel) // stride)) * stride >= m + pad for m in size]
    assume(not (ceil and any(starts)))
    check(tmp_path, nodes, (2, *size), lambda x: average(x, kernel, stride, pad, ceil, count))


def test_an_average_pool_padded_on_one_side(tmp_path: Path) -> None:
    nodes = [node("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1])]
    ones = torch.ones(1, 1, 5, 5)

    def expected(x: Tensor) -> Tensor:
        padded, counts = (F.avg_pool2d(F.pad(v, (0, 1, 0, 1)), 2, 1) for v in (x, ones))
        return padded / counts

    check(tmp_path, nodes, (1, 5, 5), expected)


W = torch.randn(4, 5)
CASES: dict[str, tuple[Nodes, tuple[int, ...], Callable[[Tensor], Tensor], dict[str, Tensor]]] = {
    "Gemm": ([node("Gemm", "x w b", alpha=2.0, beta=0.5)], (4,), lambda x: 2 * x @ W + W[0] / 2, {"w": W, "b": W[0]}),
    "Gemm transposed": ([node("Gemm", "x w", transB=1)], (5,), lambda x: x @ W.T, {"w": W}),
    "MatMul": ([node("MatMul", "x w")], (3, 4), lambda x: x @ W, {"w": W}),
    "Relu": ([node("Relu", "x")], (4,), F.relu, {}),
    "Clip": ([constant("a", -1), constant("b", 0.5), node("Clip", "x a b")], (4,), lambda x: x.clamp(-1, 0.5), {}),
    "Clip above": ([constant("b", 0.5), node("Clip", "x _ b")], (4,), lambda x: x.clamp(max=0.5), {}),
    "Clip nothing": ([node("Clip", "x")], (4,), lambda x: x, {}),
    "LeakyRelu": ([node("LeakyRelu", "x", alpha=0.2)], (4,), lambda x: F.leaky_relu(x, 0.2), {}),
    "PRelu": ([node("PRelu", "x s")], (4, 3, 3), lambda x: F.prelu(x, W[:, 0]), {"s": W[:, :1, None]}),
    "PRelu of one": ([node("PRelu", "x s")], (4, 3, 3), lambda x: F.prelu(x, W[0, :1]), {"s": W[0, :1]}),
    "HardSigmoid": ([node("HardSigmoid", "x", alpha=1 / 6)], (4,), F.hardsigmoid, {}),
    "HardSigmoid by default": ([node("HardSigmoid", "x")], (4,), lambda x: (0.2 * x + 0.5).clamp(0, 1), {}),
    "HardSwish": ([node("HardSwish", "x")], (4,), F.hardswish, {}),
    "Sigmoid": ([node("Sigmoid", "x")], (4,), torch.sigmoid, {}),
    "Tanh": ([node("Tanh", "x")], (4,), torch.tanh, {}),
    "Elu": ([node("Elu", "x", alpha=0.7)], (4,), lambda x: F.elu(x, 0.7), {}),
    "Selu": ([node("Selu", "x")], (4,), F.selu, {}),
    "Celu": ([node("Celu", "x", alpha=0.7)], (4,), lambda x: F.celu(x, 0.7), {}),
    "Mish": ([node("Mish", "x")], (4,), F.mish, {}),
    "Softplus": ([node("Softplus", "x")], (4,), F.softplus, {}),
    "Exp": ([node("Exp", "x")], (4,), torch.exp, {}),
    "GlobalAveragePool": ([node("GlobalAveragePool", "x")], (4, 3, 5), lambda x: x.mean((2, 3), keepdim=True), {}),
    "GlobalAveragePool 1d": ([node("GlobalAveragePool", "x")], (4, 3), lambda x: x.mean(2, keepdim=True), {}),
    "GlobalMaxPool": ([node("GlobalMaxPool", "x")], (4, 3, 5), lambda x: x.amax((2, 3), keepdim=True), {}),
    "Flatten": ([node("Flatten", "x")], (4, 3), lambda x: x.flatten(1), {}),
    "Transpose": ([node("Transpose", "x", perm=[0, 2, 1])], (4, 3), lambda x: x.transpose(1, 2), {}),
    "Neg": ([node("Neg", "x")], (4,), torch.neg, {}),
    "Identity": ([node("Identity", "x", "z"), node("Dropout", "z", "y m")], (4,), lambda x: x, {}),
    "Cast": ([node("Cast", "x", to=TensorProto.FLOAT)], (4,), lambda x: x, {}),
    "Add, Sub": ([node("Relu", "x", "r"), node("Add", "x r", "a"), node("Sub", "a x")], (4,), F.relu, {}),
    "Sum": ([node("Relu", "x", "r"), node("Sum", "x r x")], (4,), lambda x: F.relu(x) + 2 * x, {}),
    "Bias": ([node("Add", "w x")], (4, 5), lambda x: x + W, {"w": W}),
    "Scales": ([node("Mul", "w x", "a"), node("Div", "a w", "y")], (4, 5), lambda x: x, {"w": W.abs() + 1}),
    "A secret minus": ([node("Sub", "w x")], (4, 5), lambda x: W - x, {"w": W}),
    "Mul": ([node("Sigmoid", "x", "s"), node("Neg", "x", "n"), node("Mul", "s n")], (4,), lambda x: -F.silu(x), {}),
    "Numbers": (
        [constant("a", 3), constant("b", [2]), node("Mul", "x a", "z"), node("Div", "z b", "v"), node("Add", "v a")],
        (4,),
        lambda x: 1.5 * x + 3,
        {},
    ),
    "Pow": ([constant("a", 2), node("Pow", "x a")], (4,), torch.square, {}),
    "Concat": ([node("Concat", "x x", axis=-1)], (4, 2), lambda x: torch.cat([x, x], -1), {}),
    "Split": ([node("Split", "x", "a b", axis=1), node("Concat", "b a", axis=1)], (4,), lambda x: x.roll(2, 1), {}),
    "Split by sizes": (
        [constant("s", [1, 3], np.int64), node("Split", "x s", "a b", axis=1), node("Concat", "b a", axis=1)],
        (4,),
        lambda x: x.roll(-1, 1),
        {},
    ),
    "Slice": (
        [constant("a", [1, -2]), constant("b", [9, 99]), constant("c", [2, 1]), constant("d", [2, 1])],
        (4, 5),
        lambda x: x[:, -2:, 1::2],
        {},
    ),
    "Gather": ([constant("i", -1, np.int64), node("Gather", "x i", axis=1)], (4, 2), lambda x: x[:, -1], {}),
    "Gather some": (
        [constant("i", [2, 0], np.int64), node("Gather", "x i", axis=1)],
        (4, 2),
        lambda x: x[:, [2, 0]],
        {},
    ),
    "ReduceMean": ([node("ReduceMean", "x", axes=[2, 3])], (4, 2, 3), lambda x: x.mean((2, 3), keepdim=True), {}),
    "ReduceSum": (
        [constant("a", [1], np.int64), node("ReduceSum", "x a", keepdims=0)],
        (4, 2),
        lambda x: x.sum(1),
        {},
    ),
    "ReduceMax": ([node("ReduceMax", "x", axes=[-1], keepdims=0)], (4, 2), lambda x: x.amax(-1), {}),
    "Pad": (
        [constant("p", [0, 0, 1, 0, 0, 2], np.int64), constant("v", 1), node("Pad", "x p v")],
        (4, 2),
        lambda x: F.pad(x, (1, 2), value=1.0),
        {},
    ),
    "Squeeze": (
        [constant("a", [1, 4], np.int64), node("Unsqueeze", "x a", "z"), node("Squeeze", "z a")],
        (4, 2),
        lambda x: x,
        {},
    ),
    "Unsqueeze": (
        [constant("a", [-1, 1], np.int64), node("Unsqueeze", "x a")],
        (4,),
        lambda x: x[:, None, :, None],
        {},
    ),
    "Expand": (
        [constant("s", [1, 4, 3], np.int64), node("Expand", "x s")],
        (4, 1),
        lambda x: x.expand(-1, -1, 3),
        {},
    ),
    "Resize": (
        [
            constant("s", [1, 1, 2, 3]),
            node("Resize", "x _ s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        ],
        (2, 3, 4),
        lambda x: F.interpolate(x, scale_factor=(2.0, 3.0)),
        {},
    ),
    "Erf GELU": (
        [
            *(
                constant("r", 2**0.5),
                constant("o", 1),
                constant("h", 0.5),
                node("Div", "x r", "d"),
                node("Erf", "d", "e"),
            ),
            *(node("Add", "e o", "a"), node("Mul", "x a", "m"), node("Mul", "m h")),
        ],
        (4,),
        F.gelu,
        {},
    ),
    "Constants computed": (
        [node("Transpose", "w", "t"), node("Gemm", "x t", transB=1)],
        (4,),
        lambda x: x @ W,
        {"w": W},
    ),
}
SLICE = [constant(n, v, np.int64) for n, v in zip("abcd", ([1, -2], [9, 99], [2, 1], [2, 1]), strict=True)]
CASES["Slice"] = ([*SLICE, node("Slice", "x a b c d")], *CASES["Slice"][1:])


@pytest.mark.parametrize("name", CASES)
def test_operators(tmp_path: Path, name: str) -> None:
    nodes, shape, expected, secrets = CASES[name]
    check(tmp_path, nodes, shape, expected, secrets, opset=18 if name == "Mish" else 17)


def test_operators_that_older_and_newer_files_write_otherwise(tmp_path: Path) -> None:
    check(tmp_path, [node("Clip", "x", min=-1.0, max=1.0)], (4,), lambda x: x.clamp(-1, 1), opset=9)
    old = [node("Unsqueeze", "x", "a", axes=[1]), node("Pad", "a", "p", pads=[0, 0, 1, 0, 0, 0])]
    check(tmp_path, [*old, node("Squeeze", "p", axes=[1])], (4,), lambda x: F.pad(x, (1, 0)), opset=9)
    check(tmp_path, [node("Slice", "x", axes=[1], starts=[1], ends=[3])], (4,), lambda x: x[:, 1:3], opset=9)
    twice = [constant("s", [1, 1, 2, 2]), node("Upsample", "x s", mode="nearest")]
    check(tmp_path, twice, (2, 3, 3), lambda x: F.interpolate(x, scale_factor=2), opset=9)
    mean = [constant("a", [-1], np.int64), node("ReduceMean", "x a", keepdims=0)]
    check(tmp_path, mean, (3, 4), lambda x: x.mean(-1), opset=18)
    check(tmp_path, [node("Gelu", "x", approximate="tanh")], (4,), lambda x: F.gelu(x, approximate="tanh"), opset=20)


@pytest.mark.parametrize("target", [[-1, 6], [0, 6], [0, -1], [1, 6], [1, -1], [0, 3, 2], [0, 0, -1]])
def test_reshapes(tmp_path: Path, target: list[int]) -> None:
    nodes = [constant("s", target, np.int64), node("Reshape", "x s")]
    rest = [2 if n == 0 else n for n in target[1:]]
    check(tmp_path, nodes, (2, 3), lambda x: x.reshape(len(x), *rest), batch=1)


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_shape_computed_from_the_batch(tmp_path: Path, batch: int | str) -> None:
    nodes = [
        *(
            node("Shape", "x", "s"),
            constant("i", 0, np.int64),
            node("Gather", "s i", "n"),
            constant("z", [0], np.int64),
        ),
        *(node("Unsqueeze", "n z", "u"), constant("m", [-1], np.int64), node("Concat", "u m", "t", axis=0)),
        node("Reshape", "x t"),
    ]
    check(tmp_path, nodes, (2, 3), lambda x: x.flatten(1), batch=batch)


def test_a_network(tmp_path: Path) -> None:
    conv, norm, fc = nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Linear(4 * 4 * 4, 5)
    model = nn.Sequential(conv, norm, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), fc).train(False)
    names = {"cw": conv.weight, "cb": conv.bias, "s": norm.weight, "t": norm.bias, "fw": fc.weight, "fb": fc.bias}
    secrets = names | {"m": torch.randn(4), "v": torch.rand(4) + 0.5}
    norm.running_mean, norm.running_var = secrets["m"], secrets["v"]
    nodes = [
        helper.make_node("Conv", ["x", "cw", "cb"], ["a"], "/Conv1/Conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("BatchNormalization", "a s t m v", "b"),
        node("Relu", "b", "c"),
        node("MaxPool", "c", "d", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "d", "e"),
        node("Gemm", "e fw fb", "f", transB=1),
        node("Softmax", "f", axis=-1),
    ]
    graph = check(tmp_path, nodes, (1, 16, 16), nn.Sequential(model, nn.Softmax(1)), secrets)
    assert kinds(graph) == ["Conv", "MaxPool", "Clamp", "Reshape", "Linear"]
    assert [n.name for n in graph.nodes] == ["input", "conv1.conv", "maxpool", "relu", "flatten", "gemm"]
    assert graph.final == "softmax" and graph.nodes[1].origin == "Conv1/Conv (Conv)"


def test_numbers_are_secret_unless_they_are_constants_of_the_graph(tmp_path: Path) -> None:
    secret = {"a": torch.tensor(2.5)}
    assert kinds(check(tmp_path, [node("Mul", "x a")], (4, 2, 2), lambda x: x * 2.5, secret)) == ["Conv"]
    public = [constant("a", 2.5), node("Mul", "x a")]
    assert kinds(check(tmp_path, public, (4, 2, 2), lambda x: x * 2.5)) == ["Scale"]
    computed = [constant("a", 2.5), node("Neg", "a", "b"), node("Mul", "x b")]
    assert kinds(check(tmp_path, computed, (4, 2, 2), lambda x: x * -2.5)) == ["Scale"]


@quick
@given(kernel=st.integers(2, 3), stride=st.integers(1, 2), sides=st.tuples(*[st.integers(0, 1)] * 4))
def test_a_max_pool_pads_each_side_as_it_is_told(
    tmp_path: Path, kernel: int, stride: int, sides: tuple[int, ...]
) -> None:
    made = [node("MaxPool", "x", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=list(sides))]
    top, left, bottom, right = sides

    def expected(x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), kernel, stride)

    check(tmp_path, made, (2, 4, 5), expected)


REFUSED: dict[str, tuple[Nodes, dict[str, Any], list[str]]] = {
    "recurrent": ([node("GRU", "x w w", hidden_size=1)], {}, ["GRU", "batch elsewhere"]),
    "two wires multiplied": ([node("MatMul", "x x")], {}, ["by the transpose of"]),
    "batch moved": ([node("Transpose", "x", "t"), node("GlobalMaxPool", "t")], {}, ["whose batch is not first"]),
    "batch flattened": ([node("Flatten", "x", axis=0)], {}, ["flattens the batch"]),
    "batch reshaped": ([constant("s", [-1], np.int64), node("Reshape", "x s")], {}, ["mixes up the batch"]),
    "batch reduced": ([node("ReduceMean", "x", axes=[0])], {}, ["the batch"]),
    "indices": ([node("MaxPool", "x", "z i", kernel_shape=[2]), node("Cast", "i", to=1)], {}, ["only the values"]),
    "noise": ([node("RandomNormal", "", "r", shape=[1]), node("Add", "x r")], {}, ["values of its own"]),
    "training": ([node("BatchNormalization", "x v v v v", "y a b", training_mode=1)], {}, ["inference"]),
    "integers": ([node("Cast", "x", to=1)], {"kind": TensorProto.INT64}, ["not a tensor of floats"]),
    "open shape": ([node("Relu", "x")], {"shape": ("N", "T", 3)}, ["those of the calibration data"]),
    "own operators": ([helper.make_node("Mine", ["x"], ["y"], domain="me")], {}, ["Mine"]),
    "no path from the input": ([node("Relu", "w")], {}, ["does not depend"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    nodes, options, fragments = REFUSED[name]
    options = {"shape": ("N", 4, 3), "secrets": {"w": torch.ones(3), "v": torch.ones(4)}} | options
    with pytest.raises(NotServable) as caught:
        read_onnx(save(tmp_path, nodes, **options))
    assert all(fragment in str(caught.value) for fragment in fragments), caught.value
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(NotServable, match=r"bad\.onnx: is not a valid ONNX file"):
        read_onnx(path)
