"""Quantised operators of ONNX and of onnxruntime: QDQ files, operator by operator, and those with dynamic steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from onnx import NodeProto
from torch import Tensor

from moiety_server.compiler import ir, placements
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.onnx.operators import OnnxNode
from moiety_server.compiler.onnx.table import OPS
from moiety_server.compiler.quantised import Steps, saturated


def dequantised(b: Builder, whole: Any, scale: Any, zero: Any, axis: int = 0) -> Tensor:
    """Return the real numbers of a constant. Scales are one, or one for each place along `axis`."""
    numbers = ops.secret(b, whole, "a weight").double()
    step = ops.secret(b, scale, "a scale").double().reshape(-1)
    point = torch.zeros(1) if zero is None else ops.secret(b, zero, "a zero point").double().reshape(-1)
    shape = [1] * numbers.dim()
    if numbers.dim():
        shape[axis] = -1
    fits = {step.numel(), point.numel()} <= {1, numbers.shape[axis] if numbers.dim() else 1}
    b.require(fits, "has scales for blocks", "scale channels")
    return (numbers - point.reshape(shape)) * step.reshape(shape)


Operator = Callable[[Builder, OnnxNode], ir.Node | list[Any]]


def _quantize(b: Builder, node: OnnxNode) -> ir.Node:
    steps = Steps.of(b, node[1], node[2])
    return saturated(b, node.x, steps.low, steps.high)


def _dequantize(b: Builder, node: OnnxNode) -> ir.Node:
    Steps.of(b, node[1], node[2])
    return node.x  # type: ignore[no-any-return]


def _dynamic(b: Builder, node: OnnxNode) -> list[Any]:
    """The scale is computed from each batch, and taken to be 1: what multiplies with it has the float numbers."""
    return [node.x, torch.tensor(1.0), torch.tensor(0, dtype=torch.uint8)]


def _conv_integer(b: Builder, node: OnnxNode) -> Any:
    return OPS["Conv"](b, replace(node, inputs=[node.x, dequantised(b, node[1], torch.ones(1), node[3])]))


def _matmul_integer(b: Builder, node: OnnxNode) -> ir.Node:
    return ops.matmul(b, node.x, dequantised(b, node[1], torch.ones(1), node[3], -1))


def _conv(b: Builder, node: OnnxNode) -> Any:
    """x, its scale and zero; w, its scale and zero; y's scale and zero; the bias in whole numbers."""
    kernel = dequantised(b, node[3], node[4], node[5])
    inputs: list[Any] = [node.x, kernel]
    if node[8] is not None:
        scale = ops.secret(b, node[1], "a scale").double() * ops.secret(b, node[4], "a scale").double()
        inputs.append(dequantised(b, node[8], scale, None))
    return _ended(b, OPS["Conv"](b, replace(node, inputs=inputs)), node, 6)


def _matmul(b: Builder, node: OnnxNode) -> Any:
    return _ended(b, ops.matmul(b, node.x, dequantised(b, node[3], node[4], node[5], -1)), node, 6)


def _gemm(b: Builder, node: OnnxNode) -> Any:
    turned = bool(node.get("transB", 0))
    matrix = dequantised(b, node[3], node[4], node[5], 0 if turned else -1)
    b.require(not node.get("transA", 0), "a transposed input", "keep the batch the first dimension")
    alpha = float(node.get("alpha", 1.0))
    y = b.linear(node.x, alpha * (matrix if turned else matrix.T))
    if node[6] is not None:
        scale = alpha * ops.secret(b, node[1], "a scale").double() * ops.secret(b, node[4], "a scale").double()
        y = b.affine(y, shift=dequantised(b, node[6], scale, None).reshape(-1))
    return y if node[7] is None else _ended(b, y, node, 7)


def _two(apply: Callable[[Builder, Any, Any], ir.Node]) -> Operator:
    def operator(b: Builder, node: OnnxNode) -> Any:
        sides = [
            side if isinstance(side, ir.Node) else dequantised(b, side, node[at + 1], node[at + 2])
            for at, side in ((0, node[0]), (3, node[3]))
        ]
        return _ended(b, apply(b, *sides), node, 6)

    return operator


def _one(kind: str) -> Operator:
    def operator(b: Builder, node: OnnxNode) -> Any:
        b.require(not node.get("channels_last", 0), "has its channels last", "export with the channels first")
        return _ended(b, OPS[kind](b, replace(node, inputs=[node.x])), node, 3)

    return operator


def _concat(b: Builder, node: OnnxNode) -> Any:
    parts = [
        part if isinstance(part, ir.Node) else dequantised(b, part, node[at + 1], node[at + 2])
        for at, part in ((at, node[at]) for at in range(2, len(node.inputs), 3))
    ]
    first = next(part for part in parts if isinstance(part, ir.Node))
    own = [part if isinstance(part, ir.Node) else ops.aligned(b, part, first) for part in parts]
    return _ended(
        b, placements.with_constants(b, own, ops.axis(b, first, node.get("axis"), "concatenates along")), node, 0
    )


def _to_float(b: Builder, node: OnnxNode) -> ir.Node:
    """MatMulIntegerToFloat: a, b, the scales of both, the zeros of both, a bias."""
    y = ops.matmul(b, node.x, dequantised(b, node[1], node[3], node[5], -1))
    y = b.affine(y, scale=ops.secret(b, node[2], "a scale").double().reshape(-1))
    return y if node[6] is None else b.affine(y, shift=ops.secret(b, node[6], "a bias"))


def _dynamic_matmul(b: Builder, node: OnnxNode) -> ir.Node:
    """DynamicQuantizeMatMul: a in floats, b, its scale and zero, a bias."""
    y = ops.matmul(b, node.x, dequantised(b, node[1], node[2], node[3], -1))
    return y if node[4] is None else b.affine(y, shift=ops.secret(b, node[4], "a bias"))


def _ended(b: Builder, y: Any, node: OnnxNode, at: int) -> ir.Node:
    """Return the result as its own quantisation leaves it. `at` is the place of its scale among the inputs."""
    steps = Steps.of(b, node[at], node[at + 1])
    return saturated(b, y, steps.low, steps.high)


QUANTISED: dict[str, Operator] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic,
    "ConvInteger": _conv_integer,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
}
ONNXRUNTIME = "com.microsoft"
# Those of onnxruntime, in its own domain.
MICROSOFT: dict[str, Operator] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "QLinearAdd": _two(ops.add),
    "QLinearMul": _two(ops.mul),
    "QLinearConv": _conv,
    "QLinearAveragePool": _one("AveragePool"),
    "QLinearGlobalAveragePool": _one("GlobalAveragePool"),
    "QLinearSigmoid": _one("Sigmoid"),
    "QLinearLeakyRelu": _one("LeakyRelu"),
    "QLinearConcat": _concat,
    "QGemm": _gemm,
    "MatMulIntegerToFloat": _to_float,
    "DynamicQuantizeMatMul": _dynamic_matmul,
}

# Where a quantised wire, its scale and its zero point are among an operator's inputs, and the scale of its result.
_READS: dict[str, tuple[int, ...]] = {
    "DequantizeLinear": (0,),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), (0,)),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), (0, 3)),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu"), (0,)),
}
_WRITES = {
    "QuantizeLinear": 1,
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), 6),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearLeakyRelu"), 3),
    "QGemm": 7,
    "QLinearConcat": 0,
}
_DYNAMIC = ("MatMulInteger", "ConvInteger", "MatMulIntegerToFloat")
_PASSING = (
    "MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Gather", "Split",
)  # fmt: skip


class QuantisedWires:
    """The quantised wires of a file, by name, with their steps, or None where each batch has steps of its own.

    A wire stands for real numbers here, so each operator must read it with the steps with which it was written.
    """

    def __init__(self) -> None:
        self._steps: dict[str, Steps | None] = {}

    def check(self, b: Builder, node: NodeProto, inputs: Sequence[Any]) -> None:
        """Refuse an operator that reads a quantised wire otherwise than it was written. Notes what it writes."""
        kind, held = node.op_type, [name for name in node.input if name in self._steps]
        places = _READS.get(kind, tuple(range(2, len(inputs), 3)) if kind == "QLinearConcat" else ())
        for at in places:
            if not isinstance(inputs[at], Tensor):
                scale, zero = inputs[at + 1], inputs[at + 2] if at + 2 < len(inputs) else None
                self._check(b, node.input[at], Steps.of(b, scale, zero))
        dynamic = all(self._steps[name] is None for name in held)
        known = bool(places) or kind in _PASSING or (kind in _DYNAMIC and dynamic)
        b.require(not held or known, "computes with a quantised wire", "export it with QuantizeLinear around it")
        if kind in _WRITES and not (kind == "QGemm" and len(inputs) < 8):
            at = _WRITES[kind]
            self._steps[node.output[0]] = Steps.of(b, inputs[at], inputs[at + 1] if at + 1 < len(inputs) else None)
        elif kind == "DynamicQuantizeLinear":
            self._steps[node.output[0]] = None
        elif kind in _PASSING and held:
            self._steps.update(dict.fromkeys(node.output, self._steps[held[0]]))

    def _check(self, b: Builder, name: str, read: Steps) -> None:
        written = self._steps.get(name)
        alike = (
            written is not None
            and math.isclose(written.scale, read.scale, rel_tol=1e-5)
            and (written.zero, written.least) == (read.zero, read.least)
        )
        b.require(alike, "reads a quantised wire at another scale than it was written", "quantise the model anew")
