"""ATen's comparisons, choices, quotients, powers, reductions and norms."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import arithmetic, ir, layers
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.operations import Value

Result = ir.Node | Tensor | list[ir.Node]
COMPARISONS = frozenset(("gt", "lt", "ge", "le", "greater", "less", "greater_equal", "less_equal"))
LOGIC = frozenset(
    ("logical_not", "bitwise_not", "logical_and", "bitwise_and", "logical_or", "bitwise_or", "__and__", "__or__")
)


def _compared(kind: Any, *, turned: bool = False) -> Callable[..., ir.Node]:
    return lambda b, x, y: arithmetic.compare(b, kind, *((y, x) if turned else (x, y)))


def _power(b: Builder, x: Any, exponent: Any) -> ir.Node:
    if isinstance(exponent, ir.Node):
        b.require(not isinstance(x, ir.Node), "raises one computed number to another", "raise a positive number to it")
        base = float(x) if isinstance(x, int | float) or x.numel() == 1 else 0.0
        b.require(base > 0, "raises to a computed power", "raise one positive number to it")
        return b.smooth(b.scale(exponent, math.log(base)), "exp")
    if isinstance(exponent, Tensor):
        b.require(exponent.numel() == 1, "raises to several powers", "raise to one power at a time")
    return arithmetic.power(b, x, float(exponent))


def _norm(b: Builder, x: ir.Node, order: float | None, dims: Any, keep: bool, *_: Any) -> ir.Node:
    axes = ops.axes(b, x, dims, "takes the norm over")
    made = arithmetic.norm(b, x, axes, 2 if order is None else float(order))
    return layers.keep(b, made, x, axes) if keep else made


def _variance(b: Builder, x: ir.Node, dims: Any, correction: float | None, keep: bool) -> ir.Node:
    axes = ops.axes(b, x, dims, "takes the variance over")
    made = arithmetic.variance(b, x, axes, 1 if correction is None else correction)[1]
    return made if keep else b.reshape(made, [n for i, n in enumerate(x.shape) if i not in axes])


def _plain_variance(b: Builder, x: ir.Node, dims: Any, unbiased: bool = True, keep: bool = False) -> ir.Node:
    return _variance(b, x, dims, 1 if unbiased else 0, keep)


def _root(variance: Callable[..., ir.Node]) -> Callable[..., ir.Node]:
    return lambda b, *a: b.smooth(variance(b, *a), "sqrt")


def _reduced(reduce: Callable[[Builder, ir.Node, Sequence[int]], ir.Node]) -> Callable[..., ir.Node]:
    def reduced(b: Builder, x: ir.Node, dims: Any = None, keep: bool = False, *_: Any) -> ir.Node:
        axes = ops.axes(b, x, dims, "reduces over")
        made = reduce(b, x, axes)
        return layers.keep(b, made, x, axes) if keep else made

    return reduced


def _softmax(logarithm: bool) -> Callable[..., ir.Node]:
    return lambda b, x, dim, *_: b.softmax(x, ops.axis(b, x, dim, "normalises"), logarithm=logarithm)


def _layer_norm(
    b: Builder, x: ir.Node, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float, *_: Any
) -> ir.Node:
    axes = range(len(x.shape) - len(shape), len(x.shape))
    b.require(axes.start >= 0, "normalises over the batch", "compute each input of a batch by itself")
    return _scaled(b, arithmetic.normalise(b, x, axes, eps), weight, bias)


def _rms_norm(b: Builder, x: ir.Node, shape: Sequence[int], weight: Value | None, eps: float | None) -> ir.Node:
    axes = list(range(len(x.shape) - len(shape), len(x.shape)))
    count = math.prod(shape)
    square = layers.keep(b, b.scale(arithmetic.squares(b, x, axes), 1 / count), x, axes)
    small = torch.finfo(torch.float32).eps if eps is None else eps
    return _scaled(b, b.mul(x, b.smooth(b.shift(square, small), "rsqrt")), weight, None)


def _group_norm(
    b: Builder, x: ir.Node, groups: int, weight: Value | None, bias: Value | None, eps: float, *_: Any
) -> ir.Node:
    whole = b.reshape(x, (groups, math.prod(x.shape) // groups))
    y = b.reshape(arithmetic.normalise(b, whole, [1], eps), x.shape)
    ones = (1,) * (len(x.shape) - 1)
    return _scaled(b, y, *(v.reshape(-1, *ones) if isinstance(v, Tensor) else v for v in (weight, bias)))


def _instance_norm(
    b: Builder, x: ir.Node, weight: Any, bias: Any, mean: Any, var: Any, own: bool, _: float, eps: float, *__: Any
) -> ir.Node:
    b.require(own, "normalises with running statistics", "use BatchNorm")
    return _group_norm(b, x, x.shape[0], weight, bias, eps)


def _scaled(b: Builder, x: ir.Node, scale: Value | None, shift: Value | None) -> ir.Node:
    own = ops.optional(b, scale, "a scale"), ops.optional(b, shift, "a shift")
    return x if own == (None, None) else b.affine(x, *own)


def _hard_shrink(b: Builder, x: ir.Node, limit: float) -> ir.Node:
    b.require(limit >= 0, f"shrinks by {limit:g}", "use a limit of 0 or more")
    above = arithmetic.compare(b, "greater", b.shift(x, -limit), 0.0)
    below = arithmetic.compare(b, "greater", b.shift(b.scale(x, -1.0), -limit), 0.0)
    return b.mul(b.combine((above, below), (1, 1)), x)


def _soft_shrink(b: Builder, x: ir.Node, limit: float) -> ir.Node:
    return b.combine((x, b.clamp(x, -limit, limit)), (1, -1))


def _threshold(b: Builder, x: ir.Node, threshold: float, value: float) -> ir.Node:
    return arithmetic.choose(b, arithmetic.compare(b, "greater", b.shift(x, -threshold), 0.0), x, value)


def _filled(b: Builder, x: Value, mask: Value, value: Any) -> Result:
    if isinstance(x, Tensor) and isinstance(mask, Tensor):
        b.refuse("fills a constant")
    return arithmetic.choose(b, mask, value, x)


_ANGLES = ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh")

OPS: dict[str, Callable[..., Result]] = {
    **{name: ops.smooth(name) for name in (*_ANGLES, "log", "sqrt", "rsqrt")},
    "erf": ops.smooth("erf"),
    "log1p": lambda b, x: b.smooth(b.shift(x, 1.0), "log"),
    "log2": lambda b, x: b.scale(b.smooth(x, "log"), 1 / math.log(2)),
    "log10": lambda b, x: b.scale(b.smooth(x, "log"), 1 / math.log(10)),
    "expm1": lambda b, x: b.shift(b.smooth(x, "exp"), -1.0),
    "exp2": lambda b, x: b.smooth(b.scale(x, math.log(2)), "exp"),
    "reciprocal": arithmetic.reciprocal,
    **dict.fromkeys(
        ("div.Tensor", "div.Scalar", "divide.Tensor", "divide.Scalar", "true_divide.Tensor", "true_divide.Scalar"),
        arithmetic.divide,
    ),
    **dict.fromkeys(("abs", "absolute"), arithmetic.absolute),
    "sign": arithmetic.sign,
    **dict.fromkeys(("maximum", "max.other"), arithmetic.largest_of),
    **dict.fromkeys(("minimum", "min.other"), arithmetic.smallest_of),
    **dict.fromkeys(("clamp", "clamp.Tensor", "clip", "clip.Tensor", "hardtanh"), lambda b, x, low=None, high=None:
        arithmetic.clip(b, x, low, high)),
    **dict.fromkeys(("clamp_min", "clamp_min.Tensor"), lambda b, x, low: arithmetic.clip(b, x, low, None)),
    **dict.fromkeys(("clamp_max", "clamp_max.Tensor"), lambda b, x, high: arithmetic.clip(b, x, None, high)),
    **dict.fromkeys(("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar"), arithmetic.choose),
    **dict.fromkeys(("masked_fill.Scalar", "masked_fill.Tensor"), _filled),
    **{f"{name}.{kind}": _compared("greater") for name in ("gt", "greater") for kind in ("Scalar", "Tensor")},
    **{f"{name}.{kind}": _compared("greater", turned=True) for name in ("lt", "less") for kind in ("Scalar", "Tensor")},
    **{f"{name}.{kind}": _compared("not_less") for name in ("ge", "greater_equal") for kind in ("Scalar", "Tensor")},
    **{
        f"{name}.{kind}": _compared("not_less", turned=True)
        for name in ("le", "less_equal")
        for kind in ("Scalar", "Tensor")
    },
    **dict.fromkeys(("logical_not", "bitwise_not"), arithmetic.opposite),
    **dict.fromkeys(("logical_and", "bitwise_and.Tensor", "__and__.Tensor"), arithmetic.both),
    **dict.fromkeys(("logical_or", "bitwise_or.Tensor", "__or__.Tensor"), arithmetic.either),
    **dict.fromkeys(("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar"), _power),
    **dict.fromkeys(("linalg_vector_norm", "norm.ScalarOpt_dim"), _norm),
    **dict.fromkeys(("var.correction",), _variance),
    "std.correction": _root(_variance),
    "var.dim": _plain_variance,
    "std.dim": _root(_plain_variance),
    "amin": _reduced(arithmetic.smallest),
    "min.dim": lambda b, *a: [_reduced(arithmetic.smallest)(b, *a)],
    "prod.dim_int": _reduced(arithmetic.product_over),
    "logsumexp": _reduced(arithmetic.log_sum_exp),
    **dict.fromkeys(("softmax.int", "_softmax"), _softmax(logarithm=False)),
    **dict.fromkeys(("log_softmax.int", "_log_softmax"), _softmax(logarithm=True)),
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "hardshrink": _hard_shrink,
    "softshrink": _soft_shrink,
    "threshold": _threshold,
    "softsign": ops.smooth("softsign"),
    "cumsum": lambda b, x, dim, *_: arithmetic.cumulated(b, x, ops.axis(b, x, dim, "adds up along")),
}  # fmt: skip
