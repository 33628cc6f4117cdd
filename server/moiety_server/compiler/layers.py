"""Layers that consist of several nodes of the IR: activations, pools, norms, products with constants.

Both front ends build them here, so a hard swish from ONNX equals one from torch. Where several forms are exact, the one
with the fewest comparisons is used: a leaky ReLU takes one ReLU, as relu(-x) = relu(x) - x.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.builder import AffineNode, Builder
from moiety_server.compiler.ir import Pair


def leaky_relu(b: Builder, x: ir.Node, slope: float) -> ir.Node:
    return _two_slopes(b, x, lambda negative: b.scale(negative, slope))


def prelu(b: Builder, x: ir.Node, slope: Tensor) -> ir.Node:
    """Build a PReLU. `slope` broadcasts against x (without the batch)."""
    return _two_slopes(b, x, lambda negative: b.affine(negative, scale=slope))


def _two_slopes(b: Builder, x: ir.Node, scaled: Callable[[ir.Node], ir.Node]) -> ir.Node:
    positive = b.relu(x)
    return b.combine((positive, scaled(b.combine((positive, x), (1, -1)))), (1, -1))


def hardsigmoid(b: Builder, x: ir.Node, slope: float = 1 / 6, middle: float = 0.5) -> ir.Node:
    """Build min(max(slope * x + middle, 0), 1). It multiplies last, where a public factor costs nothing."""
    b.require(slope > 0, f"a hard sigmoid of slope {slope} is not supported", "use a positive slope")
    return b.scale(b.clamp(b.shift(x, middle / slope), 0.0, 1 / slope), slope)


def hardswish(b: Builder, x: ir.Node) -> ir.Node:
    return b.mul(x, hardsigmoid(b, x))


def celu(b: Builder, x: ir.Node, alpha: float) -> ir.Node:
    b.require(alpha > 0, f"a CELU of alpha {alpha:g} is not supported", "use a positive alpha")
    return b.scale(b.smooth(b.scale(x, 1 / alpha), "elu"), alpha)


def mish(b: Builder, x: ir.Node) -> ir.Node:
    return b.mul(x, b.smooth(b.smooth(x, "softplus"), "tanh"))


def product(b: Builder, x: ir.Node, y: ir.Node) -> ir.Node:
    """Multiply two wires. Where the product spells out a smooth function, build that instead: x * sigmoid(x), or x * (1
    + erf(x / sqrt(2))) / 2."""
    for value, gate in ((x, y), (y, x)):
        if isinstance(gate, ir.SmoothNode) and gate.function == "sigmoid" and gate.inputs == (value.name,):
            return b.smooth(value, "silu")
        (value, factor), (gate, other) = _unscaled(b, value), _unscaled(b, gate)
        if _is_gaussian(b, gate, value):
            return b.scale(b.smooth(value, "gelu"), 2 * factor * other)
    return b.mul(x, y)


def _unscaled(b: Builder, x: ir.Node) -> tuple[ir.Node, float]:
    return (b.nodes[x.inputs[0]], x.factor) if isinstance(x, ir.ScaleNode) else (x, 1.0)


def _is_gaussian(b: Builder, gate: ir.Node, value: ir.Node) -> bool:
    """Whether `gate` is 1 + erf(value / sqrt(2))."""
    if not (isinstance(gate, AffineNode) and gate.scale is None and gate.shift is not None):
        return False
    error = b.nodes[gate.inputs[0]]
    if (
        gate.shift.numel() != 1
        or gate.shift.item() != 1
        or not isinstance(error, ir.SmoothNode)
        or error.function != "erf"
    ):
        return False
    source, factor = _unscaled(b, b.nodes[error.inputs[0]])
    return source is value and math.isclose(factor, math.sqrt(0.5), rel_tol=1e-5)


def batch_norm(
    b: Builder, x: ir.Node, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
) -> ir.Node:
    """Build a batch norm with its running statistics, over the first axis behind the batch."""
    b.require(x.shape[:1] == tuple(mean.shape), f"normalises {len(mean)} channels, but gets {x.shape}")
    scale = (variance.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    shape = (-1,) + (1,) * (len(x.shape) - 1)
    return b.affine(x, scale.reshape(shape), shift.reshape(shape))


def power(b: Builder, x: ir.Node, exponent: float) -> ir.Node:
    b.require(exponent in (1, 2, 3, 4), f"raises to the power {exponent}", "use a whole power from 1 to 4")
    if exponent == 4:
        return power(b, power(b, x, 2), 2)
    result = x
    for _ in range(int(exponent) - 1):
        result = b.mul(result, x)
    return result


def mean(b: Builder, x: ir.Node, axes: Sequence[int]) -> ir.Node:
    return b.scale(b.sum(x, axes), 1 / math.prod(x.shape[axis] for axis in axes))


def keep(b: Builder, reduced: ir.Node, x: ir.Node, axes: Sequence[int]) -> ir.Node:
    """Restore the axes of x that were reduced, with size one."""
    return b.reshape(reduced, [1 if axis in axes else n for axis, n in enumerate(x.shape)])


def largest(b: Builder, x: ir.Node, axes: Sequence[int]) -> ir.Node:
    """Build the maximum over some axes, which are dropped. It is a max pool over all of them, flattened."""
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    shape = [x.shape[axis] for axis in kept]
    size = math.prod(x.shape[axis] for axis in axes)
    planes = b.reshape(b.permute(x, [*kept, *axes]), (1, math.prod(shape), size))
    return b.reshape(max_pool(b, planes, (1, size), (1, size)), shape)


def pooled_size(
    size: Sequence[int],
    kernel: Pair,
    stride: Pair,
    before: Pair,
    after: Pair,
    dilation: Pair = (1, 1),
    ceil: bool = False,
) -> Pair:
    """Return the size of a pool's output. It is rounded up, but no window may start in the padding behind the input."""
    height, width = (
        _windows(n, d * (k - 1) + 1, s, low, high, ceil)
        for n, k, s, low, high, d in zip(size, kernel, stride, before, after, dilation, strict=True)
    )
    return height, width


def _windows(n: int, reach: int, stride: int, before: int, after: int, ceil: bool) -> int:
    room = n + before + after - reach
    count = (-(-room // stride) if ceil else room // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= n + before else count


def max_pool(
    b: Builder,
    x: ir.Node,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    ceil: bool = False,
    after: Pair | None = None,
) -> ir.Node:
    """Build a max pool. `after` is the padding behind the input, where it differs from the padding before."""
    b.planes(x, "a max pool")
    size = pooled_size(x.shape[1:], kernel, stride, padding, after or padding, dilation, ceil)
    plain = [pooled_size(x.shape[1:], kernel, stride, padding, padding, dilation, up) for up in (False, True)]
    if size in plain:
        return b.max_pool(x, size, kernel, stride, padding, dilation)
    b.require(
        dilation == (1, 1), f"pads a dilated max pool by {padding} and {after}", "pad both sides by the same amount"
    )
    for axis, (low, high) in enumerate(zip(padding, after or padding, strict=True), 1):
        x = _edged(b, x, axis, low, high)
    return b.max_pool(x, size, kernel, stride)


def _edged(b: Builder, x: ir.Node, axis: int, before: int, after: int) -> ir.Node:
    """Repeat the values at both ends of an axis. For a max pool that pads with -infinity: a window that reaches beyond
    an end also has the value there."""
    last = x.shape[axis] - 1
    first, end = b.slice(x, axis, 0, 1), b.slice(x, axis, last, last + 1)
    return b.concat([*[first] * before, x, *[end] * after], axis)


def avg_pool(
    b: Builder,
    x: ir.Node,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
    after: Pair | None = None,
) -> ir.Node:
    """Build an average pool as a scaled sum pool. Where windows at the border are divided by less, a constant for each
    position scales them."""
    b.planes(x, "an average pool")
    after = after or padding
    size = pooled_size(x.shape[1:], kernel, stride, padding, after, ceil=ceil)
    in_torch = all(2 * p <= k for p, k in zip(padding, kernel, strict=True))
    if in_torch and pooled_size(x.shape[1:], kernel, stride, padding, padding) == size:
        summed = b.sum_pool(x, kernel, stride, padding)
    else:  # pad as far as the last window reaches
        reach = [(m - 1) * s + k for m, s, k in zip(size, stride, kernel, strict=True)]
        behind = [max(0, r - n - p) for r, n, p in zip(reach, x.shape[1:], padding, strict=True)]
        summed = b.sum_pool(b.pad(x, (0, *padding), (0, *behind)), kernel, stride)
    rows, columns = (
        _counts(n, m, k, s, low, high, count_padding)
        for n, m, k, s, low, high in zip(x.shape[1:], size, kernel, stride, padding, after, strict=True)
    )
    counts = torch.outer(rows, columns) if divisor is None else torch.full(size, divisor, dtype=torch.float64)
    if (counts == counts[0, 0]).all():
        return b.scale(summed, 1 / float(counts[0, 0]))
    return b.affine(summed, scale=counts.reciprocal()[None])


def _counts(n: int, windows: int, kernel: int, stride: int, before: int, after: int, count_padding: bool) -> Tensor:
    """Return the number that each window divides by, along one axis. What hangs over beyond the padding never
    counts."""
    low, high = (-before, n + after) if count_padding else (0, n)
    starts = torch.arange(windows) * stride - before
    return ((starts + kernel).clamp(max=high) - starts.clamp(min=low)).double()


def adaptive_avg_pool(b: Builder, x: ir.Node, size: Pair) -> ir.Node:
    if size == (1, 1):
        return keep(b, mean(b, x, (1, 2)), x, (1, 2))
    repeats = tuple(m // n for m, n in zip(size, x.shape[1:], strict=True))
    if all(r >= 1 and r * n == m for r, n, m in zip(repeats, x.shape[1:], size, strict=True)):
        return b.upsample(x, (repeats[0], repeats[1]))
    return _adaptive(b, x, size, lambda x, kernel, stride: avg_pool(b, x, kernel, stride))


def adaptive_max_pool(b: Builder, x: ir.Node, size: Pair) -> ir.Node:
    return _adaptive(b, x, size, lambda x, kernel, stride: max_pool(b, x, kernel, stride))


def _adaptive(b: Builder, x: ir.Node, size: Pair, pool: Callable[[ir.Node, Pair, Pair], ir.Node]) -> ir.Node:
    """Build a plain pool along each axis whose windows have one size and distance, else one pool for each window."""
    b.planes(x, "an adaptive pool")
    if x.shape[1:] == size:
        return x
    kernels, strides = [1, 1], [1, 1]
    for axis, (n, m) in enumerate(zip(x.shape[1:], size, strict=True)):
        windows = [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        lengths = {stop - start for start, stop in windows}
        steps = {later[0] - earlier[0] for earlier, later in pairwise(windows)} or {1}
        if len(lengths) == len(steps) == 1 and min(steps) >= 1:
            kernels[axis], strides[axis] = lengths.pop(), steps.pop()
            continue
        parts = [b.slice(x, axis + 1, start, stop) for start, stop in windows]
        whole = [(part.shape[1], 1) if axis == 0 else (1, part.shape[2]) for part in parts]
        x = b.concat(
            [part if k == (1, 1) else pool(part, k, k) for part, k in zip(parts, whole, strict=True)], axis + 1
        )
    kernel, stride = (kernels[0], kernels[1]), (strides[0], strides[1])
    return x if kernel == stride == (1, 1) else pool(x, kernel, stride)


def flat(b: Builder, x: ir.Node, apply: Callable[[ir.Node], ir.Node]) -> ir.Node:
    """Apply a layer over (C, 1, L) to a wire (C, L)."""
    b.require(len(x.shape) == 2, f"a 1-d layer needs (batch, C, L), got (batch, {', '.join(map(str, x.shape))})")
    y = apply(b.reshape(x, (x.shape[0], 1, x.shape[1])))
    return b.reshape(y, (y.shape[0], y.shape[2]))


def split(b: Builder, x: ir.Node, sizes: Sequence[int], axis: int) -> list[ir.Node]:
    limits = [0]
    for size in sizes:
        limits.append(limits[-1] + size)
    return [b.slice(x, axis, start, stop) for start, stop in pairwise(limits)]


def stack(b: Builder, parts: Sequence[ir.Node], axis: int) -> ir.Node:
    shape = [*parts[0].shape[:axis], 1, *parts[0].shape[axis:]]
    return b.concat([b.reshape(part, shape) for part in parts], axis)
