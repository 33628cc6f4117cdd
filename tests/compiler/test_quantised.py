"""Quantised models: the float network that is read is near to what the quantised one computes."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from moiety_server.compiler import ir
from moiety_server.compiler.compilation import compile_model
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx.graph import read_onnx
from moiety_server.compiler.trace import trace

quick = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def saved(
    path: Path, nodes: Sequence[onnx.NodeProto], tensors: dict[str, np.ndarray], shape: Sequence[int], **domains: int
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    graph.output[0].type.tensor_type.shape.dim.add(dim_param="N")
    imports = [helper.make_opsetid("", 21), *(helper.make_opsetid(k.replace("_", "."), v) for k, v in domains.items())]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path / "m.onnx")
    return path / "m.onnx"


def n(op: str, inputs: str, output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), domain=domain, **attributes)


def whole(low: int, high: int, *shape: int) -> np.ndarray:
    return torch.randint(low, high, shape).numpy()


def weights(*shape: int, channels: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole numbers, scales and zeros of a kernel, of one scale or of one for each output channel."""
    count = (shape[0],) if channels else ()
    scale = torch.empty(count).uniform_(0.0005, 0.002).numpy()
    return whole(-127, 128, *shape).astype(np.int8), scale, np.zeros(count, dtype=np.int8)


def scalars(**values: tuple[float, int, Any]) -> dict[str, np.ndarray]:
    """The scale and the zero point of each wire, as `name_s` and `name_z`."""
    found: dict[str, np.ndarray] = {}
    for name, (scale, zero, kind) in values.items():
        found |= {f"{name}_s": np.float32(scale), f"{name}_z": np.array(zero, dtype=kind)}
    return found


def qdq(path: Path, seed: int, channels: bool, relu: bool) -> Path:
    """A convolution between quantised wires; its ReLU may be left to the range, which begins at 0."""
    torch.manual_seed(seed)
    kernel, scale, zero = weights(3, 2, 3, 3, channels=channels)
    matrix, step, point = weights(4, 3, channels=False)
    tensors = {"w": kernel, "w_s": np.asarray(scale), "w_z": np.asarray(zero)}
    tensors |= {"m": matrix, "m_s": np.asarray(step), "m_z": np.asarray(point)}
    tensors |= scalars(x=(0.02, 128, np.uint8), h=(0.02, 0, np.uint8), y=(0.05, 0, np.int8))
    nodes = [
        n("QuantizeLinear", "x x_s x_z", "xq"),
        n("DequantizeLinear", "xq x_s x_z", "xd"),
        n("DequantizeLinear", "w w_s w_z", "wd", axis=0),
        n("Conv", "xd wd", "c"),
        *([n("Relu", "c", "r")] if relu else [n("Identity", "c", "r")]),
        n("QuantizeLinear", "r h_s h_z", "hq"),
        n("DequantizeLinear", "hq h_s h_z", "hd"),
        n("GlobalAveragePool", "hd", "p"),
        n("Flatten", "p", "f"),
        n("DequantizeLinear", "m m_s m_z", "md"),
        n("Gemm", "f md", "g", transB=1),
        n("QuantizeLinear", "g y_s y_z", "yq"),
        n("DequantizeLinear", "yq y_s y_z", "y"),
    ]
    return saved(path, nodes, tensors, (2, 6, 6))


def by_onnx(path: Path, x: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})[0]))


@quick
@given(seed=st.integers(0, 999), channels=st.booleans(), relu=st.booleans())
def test_a_file_with_pairs_is_near_to_what_onnx_computes(tmp_path: Path, seed: int, channels: bool, relu: bool) -> None:
    path = qdq(tmp_path, seed, channels, relu)
    x = torch.rand(5, 2, 6, 6) * 4 - 2
    graph = read_onnx(path)
    assert sum(isinstance(node, ir.ClampNode) for node in graph.nodes) == 1  # the range's, or the ReLU's alone
    torch.testing.assert_close(graph.run(x)[graph.output], by_onnx(path, x), rtol=0, atol=0.12)


def test_the_end_of_a_range_at_six_is_a_relu6(tmp_path: Path) -> None:
    torch.manual_seed(2)
    matrix, scale, zero = weights(4, 3, channels=False)
    tensors = {"w": matrix, "w_s": np.asarray(scale), "w_z": np.asarray(zero)}
    tensors |= {"w_s": np.float32(0.02)} | scalars(h=(6 / 255, 0, np.uint8))
    nodes = [
        n("DequantizeLinear", "w w_s w_z", "wd"),
        n("Gemm", "x wd", "g", transB=1),
        n("QuantizeLinear", "g h_s h_z", "hq"),
        n("DequantizeLinear", "hq h_s h_z", "y"),
    ]
    path = saved(tmp_path, nodes, tensors, (3,))
    x = torch.randn(50, 3) * 8
    expected = by_onnx(path, x)
    assert (expected > 5.99).any()
    graph = read_onnx(path)
    torch.testing.assert_close(graph.run(x)[graph.output], expected, rtol=0, atol=0.02)


def operators(path: Path, seed: int, channels: bool) -> Path:
    """Whole-number operators: a convolution with a bias, a sum of two wires, a matrix."""
    torch.manual_seed(seed)
    kernel, scale, zero = weights(2, 2, 3, 3, channels=channels)
    matrix, step, point = weights(8, 3, channels=False)
    tensors = {"w": kernel, "w_s": np.asarray(scale), "w_z": np.asarray(zero)}
    tensors |= {"m": matrix, "m_s": np.asarray(step), "m_z": np.asarray(point)}
    tensors |= {"b": whole(-900, 900, 2).astype(np.int32)}
    tensors |= scalars(x=(0.02, 120, np.uint8), c=(0.03, 128, np.uint8), y=(0.1, 0, np.int8), p=(0.03, 128, np.uint8))
    nodes = [
        n("QuantizeLinear", "x x_s x_z", "xq"),
        n("QLinearConv", "xq x_s x_z w w_s w_z c_s c_z b", "c"),
        n("MaxPool", "c", "q", kernel_shape=[2, 2], strides=[2, 2]),
        n("Flatten", "q", "f"),
        n("QLinearMatMul", "f p_s p_z m m_s m_z y_s y_z", "yq"),
        n("DequantizeLinear", "yq y_s y_z", "y"),
    ]
    return saved(path, nodes, tensors, (2, 6, 6))


@quick
@given(seed=st.integers(0, 999), channels=st.booleans())
def test_whole_number_operators_are_near_to_what_onnx_computes(tmp_path: Path, seed: int, channels: bool) -> None:
    path = operators(tmp_path, seed, channels)
    x = torch.rand(5, 2, 6, 6) * 4 - 2
    graph = read_onnx(path)
    torch.testing.assert_close(graph.run(x)[graph.output], by_onnx(path, x), rtol=0, atol=0.25)


@quick
@given(seed=st.integers(0, 999))
def test_steps_of_each_batch_are_near_to_what_onnx_computes(tmp_path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    tensors = {"w": whole(-127, 128, 3, 4).astype(np.int8), "w_z": np.int8(3)}
    tensors |= {"w_s": np.float32(0.01), "b": torch.randn(4).numpy()}
    nodes = [
        n("DynamicQuantizeLinear", "x", "xq x_s x_z"),
        n("MatMulInteger", "xq w x_z w_z", "i"),
        n("Cast", "i", "c", to=TensorProto.FLOAT),
        n("Mul", "x_s w_s", "s"),
        n("Mul", "c s", "m"),
        n("Add", "m b", "y"),
    ]
    path = saved(tmp_path, nodes, {k: np.asarray(v) for k, v in tensors.items()}, (3,))
    x = torch.randn(6, 3)
    graph = read_onnx(path)
    torch.testing.assert_close(graph.run(x)[graph.output], by_onnx(path, x), rtol=0, atol=0.08)


def test_a_plan_of_a_quantised_file_is_exact_to_a_hundredth(tmp_path: Path) -> None:
    path = qdq(tmp_path, 7, True, False)
    compiled = compile_model(read_onnx(path), torch.rand(30, 2, 6, 6) * 4 - 2, low=-2, high=2)
    assert compiled.error < 0.01 * compiled.spread


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x_s": np.float32(0.5)}, None),
        ({"other": np.float32(0.5)}, "at another scale than it was written"),
        ({"zero": np.uint8(7)}, "at another scale than it was written"),
    ],
)
def test_a_wire_is_read_as_it_was_written(tmp_path: Path, change: dict[str, Any], said: str | None) -> None:
    tensors = scalars(x=(0.02, 128, np.uint8)) | {"w": np.ones((3, 2), dtype=np.float32)} | change
    scale, zero = ("other" if "other" in change else "x_s"), ("zero" if "zero" in change else "x_z")
    nodes = [
        n("QuantizeLinear", "x x_s x_z", "xq"),
        n("DequantizeLinear", f"xq {scale} {zero}", "xd"),
        n("MatMul", "xd w", "y"),
    ]
    path = saved(tmp_path, nodes, {k: np.asarray(v) for k, v in tensors.items()}, (3,))
    if said is None:
        read_onnx(path)
        return
    with pytest.raises(NotServable, match=said):
        read_onnx(path)


def test_whole_numbers_are_not_computed_with(tmp_path: Path) -> None:
    tensors = scalars(x=(0.02, 128, np.uint8)) | {"w": np.ones((3, 2), dtype=np.int8)}
    nodes = [
        n("QuantizeLinear", "x x_s x_z", "xq"),
        n("MatMulInteger", "xq w x_z", "i"),
        n("Cast", "i", "y", to=TensorProto.FLOAT),
    ]
    with pytest.raises(NotServable, match="computes with a quantised wire"):
        read_onnx(saved(tmp_path, nodes, tensors, (3,)))


def test_onnxruntimes_operators_add_and_multiply(tmp_path: Path) -> None:
    torch.manual_seed(1)
    matrix, scale, zero = weights(3, 3, channels=False)
    tensors = {"w": matrix, "w_s": np.asarray(scale), "w_z": np.asarray(zero), "b": np.array([40, -7, 3], np.int32)}
    tensors |= scalars(x=(0.02, 128, np.uint8), g=(0.05, 128, np.uint8), a=(0.07, 128, np.uint8))
    ms = "com.microsoft"
    nodes = [
        n("QuantizeLinear", "x x_s x_z", "xq"),
        n("QGemm", "xq x_s x_z w w_s w_z b g_s g_z", "gq", ms, transB=1),
        n("QLinearAdd", "gq g_s g_z xq x_s x_z a_s a_z", "aq", ms),
        n("DequantizeLinear", "aq a_s a_z", "y"),
    ]
    graph = read_onnx(saved(tmp_path, nodes, tensors, (3,), com_microsoft=1))
    x = torch.rand(9, 3) * 2 - 1
    real = torch.from_numpy(matrix.astype(np.float32)) * float(scale)
    bias = torch.tensor([40.0, -7.0, 3.0]) * 0.02 * float(scale)
    torch.testing.assert_close(graph.run(x)[graph.output], x @ real.T + bias + x, rtol=1e-4, atol=1e-5)


class Exported(nn.Module):
    """A layer as torch.ao exports it: weights in whole numbers by channels, wires quantised before and behind."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(whole(-127, 128, 4, 3).astype(np.int8)))
        self.register_buffer("scales", torch.full((4,), 0.001) * torch.arange(1, 5))
        self.register_buffer("zeros", torch.zeros(4, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        of = torch.ops.quantized_decomposed
        steps = (0.01, 128, 0, 255, torch.uint8)
        x = of.dequantize_per_tensor(of.quantize_per_tensor(x, *steps), *steps)
        weight = of.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -128, 127, torch.int8)
        y = nn.functional.linear(x, weight)
        steps = (0.01, 0, 0, 255, torch.uint8)
        return of.dequantize_per_tensor(of.quantize_per_tensor(y, *steps), *steps)


def test_torchs_own_export_form_is_near_to_the_float_network() -> None:
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # makes torch know these operations
    torch.manual_seed(0)
    model, x = Exported().eval(), torch.rand(40, 3) * 2 - 1
    graph = trace(model, x[:2])
    with torch.no_grad():
        torch.testing.assert_close(graph.run(x)[graph.output], model(x), rtol=0, atol=0.02)
    assert (model(x) == 0).any()  # the range begins at 0, in place of a ReLU
