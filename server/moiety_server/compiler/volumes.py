"""3-d convolutions and pools over (C, D, H, W), as 2-d ones.

A convolution is one 2-d convolution for each depth of its kernel. Each reads all depths at once, put below one another
as one high picture, so the wire is opened once and no weight is held twice. What windows read across the border of two
depths is cut off. Pools run over height and width first, and then over the depth.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from moiety_server.compiler import ir, layers
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import Pair

Triple = tuple[int, int, int]


def triple(value: int | Sequence[int]) -> Triple:
    """Return a triple from one size for all axes, or from one for each."""
    each = [value] * 3 if isinstance(value, int) else list(value) * (3 if len(value) == 1 else 1)
    return each[0], each[1], each[2]


def conv(
    b: Builder,
    x: ir.Node,
    weight: Tensor,
    bias: Tensor | None,
    stride: Triple = (1, 1, 1),
    before: Triple = (0, 0, 0),
    after: Triple | None = None,
    dilation: Triple = (1, 1, 1),
    groups: int = 1,
) -> ir.Node:
    """Build a 3-d convolution. `weight` is (out, in / groups, kd, kh, kw); `before` and `after` are its padding."""
    _check(b, x, "a 3-d convolution")
    after = after or before
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    sizes = [n + p + q for n, p, q in zip(x.shape[1:], before, after, strict=True)]
    depth, height, width = ((n - r) // s + 1 for n, r, s in zip(sizes, reach, stride, strict=True))
    b.require(min(depth, height, width) > 0, "a kernel larger than its input")
    rows = -(-sizes[1] // stride[1]) * stride[1]  # whole strides, so that each depth begins with a window
    x = b.pad(x, (0, *before), (0, after[0], after[1] + rows - sizes[1], after[2]))
    below = max(0, reach[1] - stride[1])
    high = b.pad(b.reshape(x, (x.shape[0], sizes[0] * rows, sizes[2])), (0, 0, 0), (0, below, 0))
    parts = []
    for at in range(weight.shape[2]):
        shift = bias if at == 0 else None
        y = b.conv(high, weight[:, :, at], shift, stride[1:], (0, 0), dilation[1:], groups)
        kept = b.slice(y, 1, 0, sizes[0] * rows // stride[1])
        y = b.reshape(kept, (y.shape[0], sizes[0], rows // stride[1], y.shape[2]))
        start = at * dilation[0]
        y = b.slice(y, 1, start, start + (depth - 1) * stride[0] + 1, stride[0])
        parts.append(b.slice(y, 2, 0, height))
    return parts[0] if len(parts) == 1 else b.combine(parts, [1] * len(parts))


def pool(b: Builder, x: ir.Node, apply: Callable[[ir.Node, tuple[int, int]], ir.Node]) -> ir.Node:
    """Build a pool as one over height and width, and one over the depth.

    `apply` pools a wire (C, H, W) over both its axes. It gets which axis of the volume each is: 0, 1, 2, or -1 for one
    that it leaves as it is.
    """
    _check(b, x, "a 3-d pool")
    c, d, h, w = x.shape
    flat = apply(b.reshape(x, (c * d, h, w)), (1, 2))
    _, h, w = flat.shape
    deep = apply(b.reshape(flat, (c, d, h * w)), (0, -1))
    return b.reshape(deep, (c, deep.shape[1], h, w))


def _check(b: Builder, x: ir.Node, what: str) -> None:
    text = f"{what} needs (batch, C, D, H, W), got (batch, {', '.join(map(str, x.shape))})"
    b.require(len(x.shape) == 4, text)


def _of(values: Triple, axes: tuple[int, int], neutral: int) -> Pair:
    first, second = (neutral if axis < 0 else values[axis] for axis in axes)
    return first, second


def max_pool(
    b: Builder, x: ir.Node, kernel: Triple, stride: Triple, before: Triple, dilation: Triple, ceil: bool,
    after: Triple | None = None,
) -> ir.Node:  # fmt: skip
    return pool(
        b, x, lambda y, axes: layers.max_pool(
            b, y, _of(kernel, axes, 1), _of(stride, axes, 1), _of(before, axes, 0), _of(dilation, axes, 1), ceil,
            _of(after or before, axes, 0),
        ),
    )  # fmt: skip


def avg_pool(
    b: Builder, x: ir.Node, kernel: Triple, stride: Triple, before: Triple, ceil: bool, count: bool,
    divisor: int | None = None, after: Triple | None = None,
) -> ir.Node:  # fmt: skip
    """Build an average pool. The number that a window divides by is a product of one for each axis."""
    of = None if divisor is None else 1
    y = pool(
        b, x, lambda y, axes: layers.avg_pool(
            b, y, _of(kernel, axes, 1), _of(stride, axes, 1), _of(before, axes, 0), ceil, count, of,
            _of(after or before, axes, 0),
        ),
    )  # fmt: skip
    return y if divisor is None else b.scale(y, 1 / divisor)


def adaptive(b: Builder, x: ir.Node, size: Triple, apply: Callable[[Builder, ir.Node, Pair], ir.Node]) -> ir.Node:
    """Build an adaptive pool whose output has `size`."""

    def of(y: ir.Node, axes: tuple[int, int]) -> ir.Node:
        height, width = (y.shape[place + 1] if axis < 0 else size[axis] for place, axis in enumerate(axes))
        return apply(b, y, (height, width))

    return pool(b, x, of)


# As torch has them.


def conv3d(
    b: Builder, x: ir.Node, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> ir.Node:
    kernel, shift = ops.secret(b, weight, "a kernel"), ops.optional(b, bias, "a bias")
    steps = triple(dilation)
    before = after = triple(padding) if not isinstance(padding, str) else (0, 0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(steps, kernel.shape[2:], strict=True)]
        before, after = triple([n // 2 for n in total]), triple([n - n // 2 for n in total])
    return conv(b, x, kernel, shift, triple(stride), before, after, steps, groups)


def max_pool3d(b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> ir.Node:
    return max_pool(b, x, triple(kernel), triple(stride or kernel), triple(padding), triple(dilation), ceil)


def avg_pool3d(
    b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, ceil: bool, count: bool, divisor: int | None
) -> ir.Node:
    return avg_pool(b, x, triple(kernel), triple(stride or kernel), triple(padding), ceil, count, divisor)


VOLUMES: dict[str, Callable[..., ir.Node | list[ir.Node]]] = {
    **dict.fromkeys(("conv3d", "conv3d.padding"), conv3d),
    "max_pool3d": max_pool3d,
    "max_pool3d_with_indices": lambda b, *a: [max_pool3d(b, *a)],
    "avg_pool3d": avg_pool3d,
    "adaptive_avg_pool3d": lambda b, x, size: adaptive(b, x, triple(size), layers.adaptive_avg_pool),
    "adaptive_max_pool3d": lambda b, x, size: [adaptive(b, x, triple(size), layers.adaptive_max_pool)],
}
