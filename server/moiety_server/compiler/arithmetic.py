"""Arithmetic that consists of several nodes of the IR: comparisons, choices, quotients, powers, norms.

Both front ends build it here. Exact forms made of ReLU come first: |x| and the larger of two values take one comparison
each. Quotients look the reciprocal up, which needs the divisor to be proved away from 0 (`ranges`).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from moiety_server.compiler import ir, layers
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.operations import Value

Operand = Value | float
_NOTHING = 1e-12  # floats are told apart from 0 by their sign; the plan's own step decides how near to 0 is 0


# Comparisons. Their results are 0 and 1.


def absolute(b: Builder, x: ir.Node) -> ir.Node:
    return b.combine((b.relu(x), x), (2, -1))


def sign(b: Builder, x: ir.Node) -> ir.Node:
    return b.combine((compare(b, "greater", x, 0.0), compare(b, "greater", 0.0, x)), (1, -1))


def compare(b: Builder, kind: Literal["greater", "not_less", "equal"], x: Operand, y: Operand) -> ir.Node:
    """Build 1 where x > y, x >= y or x = y, and 0 elsewhere."""
    return b.decide(_minus(b, x, y), kind, _NOTHING, False)


def opposite(b: Builder, decided: ir.Node) -> ir.Node:
    """Build 1 where a decision is 0, and 0 where it is 1."""
    return b.shift(b.scale(decided, -1.0), 1.0)


def both(b: Builder, x: Value, y: Value) -> ir.Node:
    """Build 1 where two decisions are 1. One of them may be a constant."""
    return ops.mul(b, *(v if isinstance(v, ir.Node) else v.double() for v in (x, y)))


def either(b: Builder, x: Value, y: Value) -> ir.Node:
    """Build 1 where at least one of two decisions is 1. One of them may be a constant."""
    neither = [opposite(b, v) if isinstance(v, ir.Node) else 1 - v.double() for v in (x, y)]
    return opposite(b, both(b, *neither))


def _minus(b: Builder, x: Operand, y: Operand) -> ir.Node:
    if isinstance(x, ir.Node) and not isinstance(y, ir.Node | Tensor) and y == 0:
        return x
    return ops.add(b, x, y, -1)


def largest_of(b: Builder, x: Operand, y: Operand) -> ir.Node:
    """Build the larger of two values: y + relu(x - y), or a clamp where one of them is a number."""
    if not isinstance(x, ir.Node):
        x, y = y, x
    if not isinstance(x, ir.Node):
        b.refuse("compares constants")
    if isinstance(y, ir.Node | Tensor):
        return ops.add(b, y, b.relu(_minus(b, x, y)))
    return b.clamp(x, float(y), None)


def smallest_of(b: Builder, x: Operand, y: Operand) -> ir.Node:
    """Build the smaller of two values: x - relu(x - y), or a clamp where one of them is a number."""
    if not isinstance(x, ir.Node):
        x, y = y, x
    if not isinstance(x, ir.Node):
        b.refuse("compares constants")
    if isinstance(y, ir.Node | Tensor):
        return ops.add(b, _broadcast(b, x, y), b.relu(_minus(b, x, y)), -1)
    return b.clamp(x, None, float(y))


def _broadcast(b: Builder, x: ir.Node, y: Value) -> ir.Node:
    """Make x as large as y, against which it broadcasts."""
    shape = y.shape if isinstance(y, ir.Node) else tuple(ops.aligned(b, y, x).shape)
    return b.expand(x, torch.broadcast_shapes(x.shape, shape))  # type: ignore[no-untyped-call]


def clip(b: Builder, x: ir.Node, low: Operand | None, high: Operand | None) -> ir.Node:
    """Build min(max(x, low), high). Limits are numbers, which are public, or constants or wires."""
    if not isinstance(low, ir.Node | Tensor) and not isinstance(high, ir.Node | Tensor):
        return x if low is None and high is None else b.clamp(x, low, high)
    x = x if low is None else largest_of(b, x, low)
    return x if high is None else smallest_of(b, x, high)


def choose(b: Builder, condition: Value, x: Operand, y: Operand) -> ir.Node:
    """Build x where the condition is 1, and y where it is 0: y + condition * (x - y)."""
    if isinstance(condition, Tensor):
        return _masked(b, condition, x, y)
    if isinstance(x, ir.Node) or isinstance(y, ir.Node):
        apart = _minus(b, x, y)
        if isinstance(condition, ir.DecideNode) and condition.inputs == (apart.name,) and condition.kind != "equal":
            return ops.add(b, y, b.relu(apart))
        return ops.add(b, y, ops.mul(b, condition, apart))
    first, second = (torch.as_tensor(value, dtype=torch.float64) for value in (x, y))
    return ops.add(b, ops.mul(b, condition, first - second), second)


def _masked(b: Builder, condition: Tensor, x: Operand, y: Operand) -> ir.Node:
    """Choose by a constant: what is not chosen is multiplied by 0."""
    mask = condition.double()
    for value, low, kept in ((x, y, mask), (y, x, 1 - mask)):
        if isinstance(value, ir.Node) and isinstance(low, int | float | Tensor) and _is_low(low):
            return b.masked(value, ops.aligned(b, kept, value), float(torch.as_tensor(low).max()))
    parts: list[Value] = []
    for value, kept in ((x, mask), (y, 1 - mask)):
        if isinstance(value, ir.Node):
            parts.append(ops.mul(b, value, kept))
        else:
            constant = torch.as_tensor(value, dtype=torch.float64)
            parts.append(torch.where(kept.bool(), constant, torch.zeros_like(constant)))
    b.require(
        all(isinstance(part, ir.Node) or bool(part.isfinite().all()) for part in parts),
        "puts an infinite constant in the place of values",
        "use a finite one",
    )
    return ops.add(b, parts[0], parts[1])


def _is_low(value: float | Tensor) -> bool:
    """Whether a number is so low that only a softmax makes sense of it, or a maximum."""
    return bool((torch.as_tensor(value) <= ops.MASKED).all())


# Quotients, powers and norms.


def reciprocal(b: Builder, x: ir.Node) -> ir.Node:
    """Build 1 / x. Behind a square root it is one look-up."""
    if isinstance(x, ir.ScaleNode):
        b.require(x.factor != 0, "divides by zero")
        return b.scale(reciprocal(b, b.nodes[x.inputs[0]]), 1 / x.factor)
    if isinstance(x, ir.SmoothNode) and x.function == "sqrt":
        return b.smooth(b.nodes[x.inputs[0]], "rsqrt")
    if isinstance(x, ir.SmoothNode) and x.function == "exp":
        return b.smooth(b.scale(b.nodes[x.inputs[0]], -1.0), "exp")
    return b.smooth(x, "reciprocal")


def divide(b: Builder, x: Operand, y: Operand) -> ir.Node:
    if isinstance(y, ir.Node):
        return ops.mul(b, x, reciprocal(b, y))
    if isinstance(y, Tensor):
        return ops.mul(b, x, y.double().reciprocal())
    b.require(y != 0, "divides by zero")
    return ops.mul(b, x, 1 / y)


def power(b: Builder, x: ir.Node, exponent: float) -> ir.Node:
    """Build a power by products, square roots and reciprocals: the exponent is a multiple of a half, at most 16."""
    b.require(
        (2 * exponent).is_integer() and 0 < abs(exponent) <= 16,
        f"raises to the power {exponent:g}",
        "only multiples of one half up to 16 are products and square roots",
    )
    if exponent < 0:
        return reciprocal(b, power(b, x, -exponent))
    whole, half = divmod(int(2 * exponent), 2)
    parts = [b.smooth(x, "sqrt")] if half else []
    square = x
    while whole:
        if whole & 1:
            parts.append(square)
        whole >>= 1
        square = b.mul(square, square) if whole else square
    result = parts[-1]
    for part in reversed(parts[:-1]):
        result = b.mul(result, part)
    return result


def squares(b: Builder, x: ir.Node, axes: Sequence[int]) -> ir.Node:
    """Build the sum of squares over some axes, which are dropped."""
    return b.sum(b.mul(x, x), axes)


def norm(b: Builder, x: ir.Node, axes: Sequence[int], order: float) -> ir.Node:
    """Build the 1-, 2- or largest norm over some axes, which are dropped."""
    if order == 2:
        return b.smooth(squares(b, x, axes), "sqrt")
    b.require(order in (1, math.inf), f"takes the {order:g}-norm", "1, 2 and the largest are served")
    size = absolute(b, x)
    return b.sum(size, axes) if order == 1 else layers.largest(b, size, axes)


def variance(b: Builder, x: ir.Node, axes: Sequence[int], correction: float = 0) -> tuple[ir.Node, ir.Node]:
    """Build x minus its mean over some axes, and the variance, whose axes are kept with size one."""
    apart = b.combine((x, layers.keep(b, layers.mean(b, x, axes), x, axes)), (1, -1))
    count = math.prod(x.shape[axis] for axis in axes) - correction
    b.require(count > 0, "takes the variance of one value")
    return apart, layers.keep(b, b.scale(squares(b, apart, axes), 1 / count), x, axes)


def normalise(b: Builder, x: ir.Node, axes: Sequence[int], epsilon: float) -> ir.Node:
    """Build x with mean 0 and variance 1 over some axes, as layer, instance and group norms do."""
    apart, spread = variance(b, x, axes)
    return b.mul(apart, b.smooth(b.shift(spread, epsilon), "rsqrt"))


def smallest(b: Builder, x: ir.Node, axes: Sequence[int]) -> ir.Node:
    """Build the minimum over some axes, which are dropped."""
    return b.scale(layers.largest(b, b.scale(x, -1.0), axes), -1.0)


def log_sum_exp(b: Builder, x: ir.Node, axes: Sequence[int]) -> ir.Node:
    """Build the logarithm of a sum of exponentials over some axes, which are dropped."""
    most = layers.largest(b, x, axes)
    below = b.bounded(b.combine((x, layers.keep(b, most, x, axes)), (1, -1)), -math.inf, 0.0)
    count = float(math.prod(x.shape[axis] for axis in axes))
    total = b.bounded(b.sum(b.smooth(below, "exp"), axes), 1.0, count)
    return b.combine((b.smooth(total, "log"), most), (1, 1))


def cumulated(b: Builder, x: ir.Node, axis: int) -> ir.Node:
    """Build the sums of all values up to each one along an axis. Each step doubles how far they reach."""
    n, reach = x.shape[axis], 1
    while reach < n:
        before = [reach if a == axis else 0 for a in range(len(x.shape))]
        after = [-reach if a == axis else 0 for a in range(len(x.shape))]
        x = b.combine((x, b.pad(x, before, after)), (1, 1))
        reach *= 2
    return x


def product_over(b: Builder, x: ir.Node, axes: Sequence[int]) -> ir.Node:
    """Build the product over some axes, which are dropped: pairs first, then pairs of these."""
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    shape = [x.shape[axis] for axis in kept]
    x = b.reshape(b.permute(x, [*kept, *axes]), (*shape, math.prod(x.shape[axis] for axis in axes)))
    along = len(shape)
    while (n := x.shape[along]) > 1:
        half = n // 2
        both = b.mul(b.slice(x, along, 0, half), b.slice(x, along, half, 2 * half))
        x = both if n % 2 == 0 else b.concat([both, b.slice(x, along, n - 1, n)], along)
    return b.reshape(x, shape)
