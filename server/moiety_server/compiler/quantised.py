"""Quantised models, read as the float networks that they approximate.

A quantised wire is translated to the wire of the real numbers that it stands for, not rounded to its steps: that is
nearer to what was trained, and a plan rounds in steps of its own. Weights are the numbers that the model holds. A
quantised wire that begins at 0 also cuts off what is below, in place of a ReLU that the exporter took out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from moiety_server.compiler import ir
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder

_LEAST = {torch.uint8: 0, torch.int8: -128, torch.int16: -32768, torch.int32: -(1 << 31)}
_SIX = 1e-3  # how far from 6, as a part of it, the end of a range may be that stands for a ReLU6


@dataclass(frozen=True)
class Steps:
    """How a wire is quantised: its whole numbers less `zero`, times `scale`, are real numbers."""

    scale: float
    zero: int
    least: int
    most: int

    @classmethod
    def of(cls, b: Builder, scale: Any, zero: Any) -> "Steps":
        step = ops.secret(b, scale, "a scale")
        point = torch.zeros((), dtype=torch.uint8) if zero is None else ops.secret(b, zero, "a zero point")
        b.require(
            step.numel() == point.numel() == 1, "quantises a wire by channels", "one scale for each wire is served"
        )
        least = _LEAST.get(point.dtype, 0)
        most = 255 + least if point.dtype in (torch.uint8, torch.int8) else -least - 1 if least else 65535
        return cls(float(step), int(point), least, most)

    @property
    def low(self) -> float:
        return (self.least - self.zero) * self.scale

    @property
    def high(self) -> float:
        return (self.most - self.zero) * self.scale


def saturated(b: Builder, x: ir.Node, low: float, high: float) -> ir.Node:
    """Cut off what is below 0, and above 6, where a quantised range ends there.

    Exporters take a ReLU or a ReLU6 out that the ends of a range replace. Any other end is that of the data on which
    the file was calibrated.
    """
    if low != 0 or isinstance(x, ir.InputNode):
        return x
    six = abs(high - 6) <= 6 * _SIX
    if not_negative(b, x):
        return b.clamp(x, 0.0, 6.0) if six and not _is_cut(b, x) else x
    return b.clamp(x, 0.0, 6.0 if six else None)


def not_negative(b: Builder, x: ir.Node) -> bool:
    """Whether a wire holds no negative numbers, as far as its last nodes show."""
    while True:
        match x:
            case ir.ClampNode():
                return x.low + x.offset >= 0
            case ir.SmoothNode():
                return x.function in ("sigmoid", "exp", "softplus")
            case ir.MaxPoolNode() | ir.SumPoolNode() | ir.SumNode() | ir.ReshapeNode() | ir.PermuteNode():
                x = b.nodes[x.inputs[0]]
            case ir.SliceNode() | ir.PadNode() | ir.UpsampleNode():
                x = b.nodes[x.inputs[0]]
            case ir.ScaleNode() if x.factor > 0:
                x = b.nodes[x.inputs[0]]
            case _:
                return False


def _is_cut(b: Builder, x: ir.Node) -> bool:
    while isinstance(x, ir.MaxPoolNode | ir.ReshapeNode | ir.PermuteNode | ir.SliceNode | ir.ScaleNode):
        x = b.nodes[x.inputs[0]]
    return isinstance(x, ir.ClampNode | ir.SmoothNode)


# torch's own, as torch.ao and torchao export them.


def _quantize(b: Builder, x: ir.Node, scale: Any, zero: Any, least: int, most: int, *_: Any) -> ir.Node:
    step, point = float(scale), int(zero)
    return saturated(b, x, (least - point) * step, (most - point) * step)


def _dequantize(b: Builder, x: ir.Node, *_: Any) -> ir.Node:
    return x


def _choose(b: Builder, x: ir.Node, least: int, most: int, *_: Any) -> list[Any]:
    """Steps that are computed from each batch: 1, and a zero in the middle, so that nothing is cut off."""
    return [torch.tensor(1.0), torch.tensor((least + most) // 2 + 1)]


_PACKAGE = "quantized_decomposed"
QUANTISED: dict[str, Callable[..., Any]] = {
    **dict.fromkeys((f"{_PACKAGE}.quantize_per_tensor", f"{_PACKAGE}.quantize_per_tensor.tensor"), _quantize),
    **dict.fromkeys((f"{_PACKAGE}.dequantize_per_tensor", f"{_PACKAGE}.dequantize_per_tensor.tensor"), _dequantize),
    f"{_PACKAGE}.choose_qparams.tensor": _choose,
    f"{_PACKAGE}.choose_qparams_symmetric.tensor": _choose,
}
