"""All ONNX operators that are translated, by name."""

from collections.abc import Callable

from moiety_server.compiler.builder import Builder
from moiety_server.compiler.onnx import elementwise, operators, shapes
from moiety_server.compiler.onnx.operators import OnnxNode, Result

OPS: dict[str, Callable[[Builder, OnnxNode], Result]] = {**operators.OPS, **elementwise.OPS, **shapes.OPS}
EITHER_SIDE = {
    *("Add", "Sub", "Mul", "Div", "Sum", "Mean", "Max", "Min", "Pow", "Where", "Greater", "Less", "GreaterOrEqual"),
    *("LessOrEqual", "And", "Or", "MatMul", "Gemm", "Concat", "ScatterND", "ScatterElements", "Clip", "CastLike"),
}
"""The operators whose first input may be a constant while another is computed."""
