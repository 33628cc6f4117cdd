"""Operations that the dialect computes and served models do not have: comparisons, argmax, products of two secrets.

Each handler takes the builder, what it computes (`At`), and the arguments in the order of the operation's schema. If
the first axis is that of the rows, a handler counts axes as torch does. If there are no rows, it counts as if there
were one more axis in front.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from moiety_server.compiler import ir, layers
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.operations import Value
from moiety_syft.expression import Operation, TensorNode

Operand = Value | float
Result = ir.Node | list[ir.Node]
_MOST_PRODUCTS = 1 << 22
_MOST_PLACES = 256


@dataclass(frozen=True)
class At:
    """What a handler computes: `node`, by `operation`. `rows` says whether the first axis is that of the rows."""

    node: TensorNode
    operation: Operation
    rows: bool


Handler = Callable[..., Result]


def _minus(b: Builder, x: Operand, y: Operand) -> Operand:
    """Return x - y. Each may be a secret or a constant."""
    if isinstance(x, ir.Node) or isinstance(y, ir.Node):
        return ops.add(b, x, y, -1)
    return torch.as_tensor(x, dtype=torch.float64) - y


def _secret(b: Builder, x: Operand) -> ir.Node:
    if not isinstance(x, ir.Node):
        b.refuse("reads only constants")
    return x


# Comparisons


def _compare(kind: Literal["greater", "not_less", "equal"], swapped: bool = False, negated: bool = False) -> Handler:
    def handler(b: Builder, at: At, x: Operand, y: Operand) -> ir.Node:
        read = at.operation.nodes
        whole = all(n.whole for n in read) and all(_is_whole(v) for v in (x, y) if not isinstance(v, ir.Node))
        tolerance = 0.5 if whole else min(n.tolerance for n in read)
        difference = _secret(b, _minus(b, y, x) if swapped else _minus(b, x, y))
        decided = b.decide(difference, kind, tolerance, whole)
        return _not(b, at, decided) if negated else decided

    return handler


def _is_whole(value: Tensor | float) -> bool:
    return bool((torch.as_tensor(value).double() % 1 == 0).all())


def _not(b: Builder, at: At, x: ir.Node) -> ir.Node:
    return b.shift(b.scale(x, -1.0), 1.0)


def _logical(of: Callable[[Builder, Operand, Operand], ir.Node]) -> Handler:
    def handler(b: Builder, at: At, x: Operand, y: Operand) -> ir.Node:
        _demand_bits(b, at)
        return of(b, x, y)

    return handler


def _demand_bits(b: Builder, at: At) -> None:
    b.require(
        all(n.dtype == torch.bool for n in at.operation.nodes) and at.node.dtype == torch.bool,
        "works on the bits of numbers",
        "combine comparisons, as in (x > 0) & (x < 1)",
    )


def _inverted(b: Builder, at: At, x: ir.Node) -> ir.Node:
    _demand_bits(b, at)
    return _not(b, at, x)


def _or(b: Builder, x: Operand, y: Operand, both: float = -1.0) -> ir.Node:
    return ops.add(b, ops.add(b, x, y), ops.mul(b, x, y), both)


def _maximum(b: Builder, at: At, x: Operand, y: Operand) -> ir.Node:
    return ops.add(b, b.relu(_secret(b, _minus(b, x, y))), y)


def _minimum(b: Builder, at: At, x: Operand, y: Operand) -> ir.Node:
    return ops.add(b, y, b.relu(_secret(b, _minus(b, y, x))), -1)


def _abs(b: Builder, at: At, x: ir.Node) -> ir.Node:
    return b.combine((b.relu(x), x), (2, -1))


def _where(b: Builder, at: At, condition: Value, x: Operand, y: Operand) -> ir.Node:
    chosen = condition.double() if isinstance(condition, Tensor) else condition
    return ops.add(b, ops.mul(b, chosen, _minus(b, x, y)), y)


# The largest


def _largest(b: Builder, x: ir.Node, dims: Any) -> ir.Node:
    return ops.amax(b, x, dims, False)


def _least(b: Builder, x: ir.Node, dims: Any) -> ir.Node:
    return b.scale(_largest(b, b.scale(x, -1.0), dims), -1.0)


def _place(b: Builder, at: At, x: ir.Node, dim: int | None, keepdim: bool = False) -> ir.Node:
    """Compute argmax, along one axis or over all. The translation gives the result its shape later."""
    if dim is None:
        b.require(not at.rows, "looks for the largest of all rows")
        return b.argmax(b.reshape(x, (math.prod(x.shape),)))
    along = ops.axis(b, x, dim, "looks for the largest along")
    rest = [axis for axis in range(len(x.shape)) if axis != along]
    size, lines = x.shape[along], math.prod(x.shape[axis] for axis in rest)
    b.require(lines <= _MOST_PLACES, f"looks for the largest in {lines} lines", "put the rows in the first dimension")
    flat = b.reshape(b.permute(x, [*rest, along]), (lines, size))
    parts = [b.reshape(b.slice(flat, 0, line, line + 1), (size,)) for line in range(lines)]
    return b.concat([b.argmax(part) for part in parts], 0)


def _opposite(handler: Handler) -> Handler:
    return lambda b, at, x, *rest: handler(b, at, b.scale(x, -1.0), *rest)


# Products


def _matmul(b: Builder, at: At, x: Value, y: Value, first: int = 0) -> ir.Node:
    """Compute x @ y, which are argument number `first` and the next one."""
    axes = [len(argument.shape) for argument in at.operation.arguments[first : first + 2]]
    if isinstance(x, ir.Node) and isinstance(y, ir.Node):
        b.require(not at.rows or min(axes) >= 3, "multiplies rows with one another")
        return _product(b, x, y)
    if isinstance(x, Tensor) and isinstance(y, ir.Node):
        b.require(not at.rows or axes[1] >= 3, "multiplies rows with one another")
        matrix = x if x.dim() == 2 else x[None]
        if len(y.shape) == 1:
            return ops.linear(b, y, matrix)
        order = [*range(len(y.shape) - 2), len(y.shape) - 1, len(y.shape) - 2]
        return b.permute(ops.linear(b, b.permute(y, order), matrix), order)
    b.require(not at.rows or axes[0] >= 2, "multiplies rows with one another")
    return ops.matmul(b, x, y)


def _product(b: Builder, x: ir.Node, y: ir.Node) -> ir.Node:
    """Multiply secrets (..., n, k) and (..., k, m): all products at once, summed over k."""
    left = x.shape if len(x.shape) > 1 else (1, *x.shape)
    right = y.shape if len(y.shape) > 1 else (*y.shape, 1)
    axes = max(len(left), len(right))
    b.require(left[-1] == right[-2], f"multiplies {x.shape} with {y.shape}")
    size = math.prod(left) * right[-1]
    b.require(size <= _MOST_PRODUCTS, f"takes {size} products of two secrets", "make the matrix a model's parameter")
    wide = b.reshape(x, (1,) * (axes - len(left)) + left + (1,))
    tall = b.reshape(y, (1,) * (axes - len(right)) + right[:-2] + (1,) + right[-2:])
    return b.sum(b.mul(wide, tall), [axes - 1])


def _linear(b: Builder, at: At, x: Value, weight: Value, bias: Value | None) -> ir.Node:
    if isinstance(x, ir.Node) and isinstance(weight, Tensor):
        product = ops.linear(b, x, weight)
    else:
        turned = weight.T if isinstance(weight, Tensor) else b.permute(weight, range(len(weight.shape))[::-1])
        product = _matmul(b, at, x, turned)
    return product if bias is None else _plus(b, at, product, bias, 1)


def _addmm(b: Builder, at: At, bias: Value, x: Value, y: Value, beta: float, alpha: float) -> ir.Node:
    return _plus(b, at, b.scale(_matmul(b, at, x, y, first=1), alpha), bias, beta)


def _plus(b: Builder, at: At, product: ir.Node, bias: Value, beta: float) -> ir.Node:
    if isinstance(bias, ir.Node):
        b.require(not at.rows, "adds a secret bias to rows")
        bias = b.reshape(bias, (1,) * (len(product.shape) - len(bias.shape)) + bias.shape)
    return ops.add(b, product, bias, beta)


def _convolution(
    b: Builder,
    at: At,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    extra: list[int],
    groups: int,
) -> ir.Node:
    flat = len(stride) == 1
    if transposed:
        up = ops.conv_transpose1d if flat else ops.conv_transpose2d
        return up(b, _secret(b, x), weight, bias, stride, padding, extra, groups, dilation)
    return (ops.conv1d if flat else ops.conv2d)(b, _secret(b, x), weight, bias, stride, padding, dilation, groups)


def _batch_norm(b: Builder, at: At, x: ir.Node, *rest: Any) -> Result:
    weight, bias, mean, variance, training, momentum, eps = rest
    b.require(
        not training, "would normalise with the statistics of the secret batch", "call the model's eval method first"
    )
    return ops.norm(b, x, weight, bias, mean, variance, momentum, eps)


_COMPARED: dict[str, Handler] = {
    "gt": _compare("greater"),
    "lt": _compare("greater", swapped=True),
    "ge": _compare("not_less"),
    "le": _compare("not_less", swapped=True),
    "eq": _compare("equal"),
    "ne": _compare("equal", negated=True),
}

HANDLERS: dict[str, Handler] = {
    **{f"{name}.{kind}": handler for name, handler in _COMPARED.items() for kind in ("Tensor", "Scalar")},
    **{
        name: handler
        for stem, handler in {
            "and": _logical(ops.mul),
            "or": _logical(_or),
            "xor": _logical(lambda b, x, y: _or(b, x, y, -2.0)),
        }.items()
        for name in (f"bitwise_{stem}.Tensor", f"logical_{stem}")
    },
    **dict.fromkeys(("bitwise_not", "logical_not"), _inverted),
    "maximum": _maximum,
    "minimum": _minimum,
    "abs": _abs,
    "where.self": _where,
    "argmax": _place,
    "argmin": _opposite(_place),
    "amax": lambda b, at, x, dims, *_: _largest(b, x, dims),
    "amin": lambda b, at, x, dims, *_: _least(b, x, dims),
    "max.dim": lambda b, at, x, dim, *_: [_largest(b, x, dim), _place(b, at, x, dim)],
    "min.dim": lambda b, at, x, dim, *_: [_least(b, x, dim), _opposite(_place)(b, at, x, dim)],
    "max": lambda b, *_: b.refuse("looks for the largest of all rows"),
    "min": lambda b, *_: b.refuse("looks for the least of all rows"),
    **dict.fromkeys(("mm", "matmul", "bmm", "mv", "dot"), _matmul),
    "linear": _linear,
    "addmm": _addmm,
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "_adaptive_avg_pool2d": lambda b, at, x, size: layers.adaptive_avg_pool(b, x, ops.pair(size)),
}
