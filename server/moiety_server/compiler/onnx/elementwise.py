"""ONNX's arithmetic: activations, comparisons, choices, quotients, powers, reductions and norms."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from moiety_server.compiler import arithmetic, ir, layers
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.onnx.operators import OnnxNode, Result, by_item

_TINY = 1e-30  # ONNX divides a vector of zeros by its norm, and gets zeros
_INFINITE = 1e38  # a limit as large as that limits no float

Translate = Callable[[Builder, OnnxNode], Result]


def _clip(b: Builder, node: OnnxNode) -> ir.Node:
    limits: list[Any] = []
    for i, name in ((1, "min"), (2, "max")):
        value = node[i] if isinstance(node[i], ir.Node) else node.constants(i, name)
        value = value[0] if isinstance(value, list) else value
        limits.append(None if isinstance(value, int | float) and abs(value) > _INFINITE else value)
    return arithmetic.clip(b, node.x, *limits)


def _fold(apply: Callable[[Builder, Any, Any], Any]) -> Translate:
    """Translate an operator of any number of inputs, which are taken in pairs."""

    def folded(b: Builder, node: OnnxNode) -> ir.Node:
        found = node.operand(0)
        for i in range(1, len(node.inputs)):
            if isinstance(found, Tensor) and isinstance(node.inputs[i], Tensor):
                b.refuse("compares several constants", "keep the result in the file")
            found = apply(b, found, node.operand(i))
        return found  # type: ignore[no-any-return]

    return folded


def _mean(b: Builder, node: OnnxNode) -> ir.Node:
    total = node.operand(0)
    for i in range(1, len(node.inputs)):
        total = ops.add(b, total, node.operand(i))
    return b.scale(total, 1 / len(node.inputs))


def _power(b: Builder, node: OnnxNode) -> ir.Node:
    exponent, base = node[1], node.x
    if isinstance(base, Tensor) and isinstance(exponent, ir.Node):
        b.require(bool((base > 0).all()), "raises numbers that are not positive", "use positive bases")
        return b.smooth(ops.mul(b, exponent, base.double().log()), "exp")
    b.require(isinstance(exponent, Tensor), "raises to a computed power", "raise to a constant")
    numbers = exponent.double().unique()
    b.require(len(numbers) == 1, "raises to several powers", "raise to one power at a time")
    wide = ops.mul(b, base, exponent.double() * 0 + 1) if exponent.numel() > 1 else base
    return arithmetic.power(b, wide, float(numbers[0]))


def _compare(kind: Any, *, turned: bool = False) -> Translate:
    def compared(b: Builder, node: OnnxNode) -> ir.Node:
        x, y = node.operand(0), node.operand(1)
        return arithmetic.compare(b, kind, *((y, x) if turned else (x, y)))

    return compared


def _smooth(function: str) -> Translate:
    return lambda b, node: b.smooth(node.x, function)


def _swish(b: Builder, node: OnnxNode) -> ir.Node:
    alpha = node.get("alpha", 1.0)
    return b.scale(b.smooth(b.scale(node.x, alpha), "silu"), 1 / alpha)


def _shrink(b: Builder, node: OnnxNode) -> ir.Node:
    """x - bias above the limit, x + bias below minus the limit, and 0 between."""
    limit, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    b.require(limit >= 0, f"shrinks by {limit:g}", "use a lambd of 0 or more")
    x = node.x
    above = arithmetic.compare(b, "greater", b.shift(x, -limit), 0.0)
    below = arithmetic.compare(b, "greater", b.shift(b.scale(x, -1.0), -limit), 0.0)
    if bias == limit:
        return b.combine((x, b.clamp(x, -limit, limit)), (1, -1))
    return b.combine((b.mul(above, b.shift(x, -bias)), b.mul(below, b.shift(x, bias))), (1, 1))


def _thresholded(b: Builder, node: OnnxNode) -> ir.Node:
    return b.mul(arithmetic.compare(b, "greater", b.shift(node.x, -node.get("alpha", 1.0)), 0.0), node.x)


# Reductions


def _reduce(reduce: Callable[[Builder, ir.Node, list[int]], ir.Node], *, composed: bool = False) -> Translate:
    """Translate a reduction. A `composed` one computes something of each value where it reduces no axis."""

    def reduced(b: Builder, node: OnnxNode) -> ir.Node:
        x, axes = node.x, node.constants(1, "axes")
        if not axes and node.get("noop_with_empty_axes", 0):
            b.require(
                not composed, "reduces no axis", "write what is left of it: an absolute value, square or logarithm"
            )
            return x  # type: ignore[no-any-return]
        listed = axes or range(len(x.shape) + b.lead)
        along = sorted({ops.axis(b, x, int(axis), "reduces over") for axis in listed})
        made = reduce(b, x, along)
        return layers.keep(b, made, x, along) if node.get("keepdims", 1) else made

    return reduced


# Norms


def _softmax(logarithm: bool) -> Translate:
    def normalised(b: Builder, node: OnnxNode) -> ir.Node:
        x = node.x
        if node.opset >= 13:
            return b.softmax(x, ops.axis(b, x, node.get("axis", -1), "normalises"), logarithm=logarithm)
        axis = ops.axis(b, x, node.get("axis", 1), "normalises")  # over all axes from this one
        flat = b.reshape(x, (*x.shape[:axis], math.prod(x.shape[axis:])))
        return b.reshape(b.softmax(flat, axis, logarithm=logarithm), x.shape)

    return normalised


def _layer_norm(b: Builder, node: OnnxNode) -> list[ir.Node]:
    x = node.x
    first = ops.axis(b, x, node.get("axis", -1), "normalises")
    axes = list(range(first, len(x.shape)))
    y = arithmetic.normalise(b, x, axes, node.get("epsilon", 1e-5))
    return [_scaled(b, y, ops.optional(b, node[1], "a scale"), ops.optional(b, node[2], "a shift"))]


def _rms_norm(b: Builder, node: OnnxNode) -> ir.Node:
    x = node.x
    axes = list(range(ops.axis(b, x, node.get("axis", -1), "normalises"), len(x.shape)))
    square = layers.keep(b, b.scale(arithmetic.squares(b, x, axes), 1 / math.prod(x.shape[a] for a in axes)), x, axes)
    y = b.mul(x, b.smooth(b.shift(square, node.get("epsilon", 1e-5)), "rsqrt"))
    return _scaled(b, y, ops.optional(b, node[1], "a scale"), None)


def _scaled(b: Builder, x: ir.Node, scale: Tensor | None, shift: Tensor | None) -> ir.Node:
    return x if scale is None and shift is None else b.affine(x, scale, shift)


def _instance_norm(b: Builder, node: OnnxNode) -> ir.Node:
    return _group_norm(b, node, len(ops.secret(b, node[1], "a scale")))


def _group_norm(b: Builder, node: OnnxNode, groups: int = 0) -> ir.Node:
    x, groups = node.x, groups or node.get("num_groups")
    scale, shift = ops.secret(b, node[1], "a scale"), ops.secret(b, node[2], "a shift")
    if len(scale) == groups != x.shape[0]:  # opset 18 has one for each group
        scale, shift = (value.repeat_interleave(x.shape[0] // groups) for value in (scale, shift))
    whole = b.reshape(x, (groups, math.prod(x.shape) // groups))
    y = b.reshape(arithmetic.normalise(b, whole, [1], node.get("epsilon", 1e-5)), x.shape)
    ones = (1,) * (len(x.shape) - 1)
    return b.affine(y, scale.reshape(-1, *ones), shift.reshape(-1, *ones))


def _mean_variance(b: Builder, node: OnnxNode) -> ir.Node:
    axes = sorted({ops.axis(b, node.x, axis, "normalises") for axis in node.get("axes", [0, 2, 3])})
    return arithmetic.normalise(b, node.x, axes, 1e-9)


def _lp_norm(b: Builder, node: OnnxNode) -> ir.Node:
    x, axis = node.x, ops.axis(b, node.x, node.get("axis", -1), "normalises")
    if node.get("p", 2) == 2:
        size = b.smooth(b.shift(arithmetic.squares(b, x, [axis]), _TINY), "rsqrt")
    else:
        size = arithmetic.reciprocal(b, b.shift(arithmetic.norm(b, x, [axis], 1), _TINY))
    return b.mul(x, layers.keep(b, size, x, [axis]))


def _lp_pool(b: Builder, node: OnnxNode) -> ir.Node:
    axes = list(range(1, len(node.x.shape)))
    return layers.keep(b, arithmetic.norm(b, node.x, axes, node.get("p", 2)), node.x, axes)


def _like(b: Builder, node: OnnxNode) -> Any:
    target = node[1]
    b.require(
        isinstance(target, ir.Node) or target.is_floating_point(),
        "casts to what is no float",
        "keep floats to the end of the network",
    )
    return node.x


_UNARY = {
    "Sqrt": "sqrt", "Log": "log", "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos",
    "Atan": "atan", "Sinh": "sinh", "Cosh": "cosh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh",
    "Softsign": "softsign", "Erf": "erf",
}  # fmt: skip

OPS: dict[str, Translate] = {
    **{name: _smooth(function) for name, function in _UNARY.items()},
    "Reciprocal": lambda b, node: arithmetic.reciprocal(b, node.x),
    "Div": lambda b, node: arithmetic.divide(b, node.operand(0), node.operand(1)),
    "Pow": _power,
    "Abs": lambda b, node: arithmetic.absolute(b, node.x),
    "Sign": lambda b, node: arithmetic.sign(b, node.x),
    "Max": _fold(arithmetic.largest_of),
    "Min": _fold(arithmetic.smallest_of),
    "Mean": _mean,
    "Clip": _clip,
    "Where": lambda b, node: arithmetic.choose(b, node.x, node.operand(1), node.operand(2)),
    "Greater": _compare("greater"),
    "Less": _compare("greater", turned=True),
    "GreaterOrEqual": _compare("not_less"),
    "LessOrEqual": _compare("not_less", turned=True),
    "Not": lambda b, node: arithmetic.opposite(b, node.x),
    "And": lambda b, node: arithmetic.both(b, node.x, node[1]),
    "Or": lambda b, node: arithmetic.either(b, node.x, node[1]),
    "Swish": _swish,
    "Shrink": _shrink,
    "ThresholdedRelu": _thresholded,
    "CastLike": _like,
    "Softmax": _softmax(logarithm=False),
    "LogSoftmax": _softmax(logarithm=True),
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "InstanceNormalization": by_item(_instance_norm),
    "GroupNormalization": by_item(_group_norm),
    "MeanVarianceNormalization": _mean_variance,
    "LpNormalization": _lp_norm,
    "GlobalLpPool": by_item(_lp_pool),
    "ReduceMean": _reduce(layers.mean),
    "ReduceSum": _reduce(Builder.sum),
    "ReduceMax": _reduce(layers.largest),
    "ReduceMin": _reduce(arithmetic.smallest),
    "ReduceProd": _reduce(arithmetic.product_over),
    "ReduceL1": _reduce(lambda b, x, axes: arithmetic.norm(b, x, axes, 1), composed=True),
    "ReduceL2": _reduce(lambda b, x, axes: arithmetic.norm(b, x, axes, 2), composed=True),
    "ReduceSumSquare": _reduce(arithmetic.squares, composed=True),
    "ReduceLogSum": _reduce(lambda b, x, axes: b.smooth(b.sum(x, axes), "log"), composed=True),
    "ReduceLogSumExp": _reduce(arithmetic.log_sum_exp),
}
