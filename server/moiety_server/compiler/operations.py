"""Operations as frameworks have them: axes counted with the batch, constants on either side, sizes for one or two axes.

The operations of one framework alone are in its table: `aten`, or `operators` of `onnx`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import ir, layers
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import Pair

Value = ir.Node | Tensor
MASKED = -9999.0
"""What is added to a score so that its weight is 0, or put in its place, is at most as much: -1e4, -1e9, -infinity."""


def pair(value: int | Sequence[int]) -> Pair:
    """Return a pair from one size for both axes, or from one for each."""
    both = [value] if isinstance(value, int) else list(value)
    return both[0], both[-1]


def across(value: int | Sequence[int], across: int) -> Pair:
    """Return a pair for a 1-d layer, whose only axis is the second of two."""
    return across, pair(value)[0]


def axis(b: Builder, x: ir.Node, dim: int, what: str, extra: int = 0) -> int:
    """Return the axis counted without the batch, of a tensor that has `extra` axes more than x."""
    rank = len(x.shape) + b.lead + extra
    b.require(-rank <= dim < rank, f"has no axis {dim}")
    index = dim % rank - b.lead
    b.require(index >= 0, f"{what} the batch", "compute each input of a batch by itself")
    return index


def axes(b: Builder, x: ir.Node, dims: int | Sequence[int] | None, what: str) -> list[int]:
    listed = [dims] if isinstance(dims, int) else dims or range(len(x.shape) + b.lead)
    return sorted({axis(b, x, dim, what) for dim in listed})


def secret(b: Builder, value: Value | None, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        b.refuse(f"{what} is computed from the input", "use a parameter, a buffer or a constant")
    return value


def optional(b: Builder, value: Value | None, what: str) -> Tensor | None:
    return None if value is None else secret(b, value, what)


def aligned(b: Builder, constant: Tensor, x: ir.Node) -> Tensor:
    """Return the constant without the axis that meets the batch."""
    if constant.dim() <= len(x.shape) or not b.lead:
        return constant
    b.require(
        constant.dim() == len(x.shape) + 1 and bool((constant == constant[:1]).all()),
        f"a constant of shape {tuple(constant.shape)} differs along the batch",
        "give it the size 1 in its first dimension",
    )
    return constant[0]


# Arithmetic. Numbers are public; constant tensors are not.


def add(b: Builder, x: Value | float, y: Value | float, alpha: float = 1) -> ir.Node:
    """x + alpha * y."""
    if isinstance(x, ir.Node) and isinstance(y, ir.Node):
        return b.combine((x, y), (1, alpha))
    if isinstance(y, ir.Node):
        x, y, alpha = b.scale(y, alpha), x, 1
    if not isinstance(x, ir.Node) or isinstance(y, ir.Node):
        b.refuse("adds two constants")
    if not isinstance(y, Tensor):
        return b.shift(x, alpha * y)
    shift = alpha * aligned(b, y, x)
    if not bool((shift <= MASKED).any()):
        return b.affine(x, shift=shift)
    keys, fill = shift > MASKED, float(shift.min())
    shift = torch.where(keys, shift, 0)
    return b.masked(b.affine(x, shift=shift) if bool(shift.any()) else x, keys, fill)


def mul(b: Builder, x: Value | float, y: Value | float) -> ir.Node:
    if isinstance(x, ir.Node) and isinstance(y, ir.Node):
        return layers.product(b, x, y)
    if isinstance(y, ir.Node):
        x, y = y, x
    if not isinstance(x, ir.Node) or isinstance(y, ir.Node):
        b.refuse("multiplies two constants")
    return b.affine(x, scale=aligned(b, y, x)) if isinstance(y, Tensor) else b.scale(x, y)


def linear(b: Builder, x: Value, weight: Value, bias: Value | None = None) -> ir.Node:
    if isinstance(x, Tensor) or isinstance(weight, ir.Node) or isinstance(bias, ir.Node):
        b.refuse("multiplies by a matrix computed from the input", "make the matrix a parameter")
    return b.linear(x, weight, bias)


def matmul(b: Builder, x: Value, matrix: Value) -> ir.Node:
    if isinstance(x, ir.Node) and isinstance(matrix, ir.Node):
        return b.matmul(x, matrix)
    if isinstance(matrix, Tensor) and isinstance(x, ir.Node) and matrix.dim() == 1:
        return b.reshape(linear(b, x, matrix[None]), x.shape[:-1])
    return linear(b, x, matrix.T if isinstance(matrix, Tensor) and matrix.dim() == 2 else matrix)


def einsum(b: Builder, equation: str, parts: Sequence[Value], *_: Any) -> ir.Node:
    """A product of a wire and a constant, or of two wires, written as an equation: the letters that they share are
    summed over."""
    given, out = (*equation.replace(" ", "").split("->"), "")[:2]
    letters = given.split(",")
    wires = [i for i, part in enumerate(parts) if isinstance(part, ir.Node)]
    if len(parts) == len(wires) == 2:
        return _einsum_of_wires(b, equation, [part for part in parts if isinstance(part, ir.Node)], letters, out)
    b.require(
        len(parts) == 2 and len(wires) == 1 and out != "" and "." not in equation,
        f"the einsum {equation} is not supported",
        "write the product with a parameter as nn.Linear, or x @ parameter",
    )
    x, matrix = parts[wires[0]], secret(b, parts[1 - wires[0]], "a factor")
    own, other = letters[wires[0]], letters[1 - wires[0]]
    if not isinstance(x, ir.Node):
        raise TypeError
    batch, own = own[: b.lead], own[b.lead :]
    summed = [i for i in own if i in other and i not in out]
    added = [i for i in other if i not in own]
    kept = [i for i in own if i not in other]
    b.require(
        out[: b.lead] == batch and batch not in other and len(summed) + len(added) == len(other)
        and sorted(out[b.lead :]) == sorted((*kept, *added)) and len(set(own)) == len(own),
        f"the einsum {equation} is not supported",
        "write the product with a parameter as nn.Linear, or x @ parameter",
    )  # fmt: skip
    x = b.permute(x, [own.index(i) for i in (*kept, *summed)])
    rest, joined = x.shape[: len(kept)], math.prod(x.shape[len(kept) :])
    shape = [matrix.shape[other.index(i)] for i in added]
    weight = matrix.permute([other.index(i) for i in (*added, *summed)]).reshape(math.prod(shape), joined)
    y = b.reshape(b.linear(b.reshape(x, (*rest, joined)), weight), (*rest, *shape))
    return b.permute(y, [(*kept, *added).index(i) for i in out[b.lead :]])


def _einsum_of_wires(b: Builder, equation: str, parts: Sequence[ir.Node], letters: Sequence[str], out: str) -> ir.Node:
    """A product of matrices: the letters of both wires that the result has count matrices, the others are summed."""
    batch, given, made = out[: b.lead], [own[b.lead :] for own in letters], out[b.lead :]
    both = [i for i in given[0] if i in given[1]]
    lead, summed = [i for i in both if i in made], [i for i in both if i not in made]
    kept = [[i for i in own if i not in both] for own in given]
    b.require(
        all(own[: b.lead] == batch and len(set(own)) == len(own) for own in letters)
        and sorted(made) == sorted((*lead, *kept[0], *kept[1])) and "." not in equation,
        f"the einsum {equation} is not supported",
        "write it as a product of two matrices, with the batch in the first dimension",
    )  # fmt: skip
    sizes = {i: n for own, x in zip(given, parts, strict=True) for i, n in zip(own, x.shape, strict=True)}

    def size(axes: Sequence[str]) -> list[int]:
        return [sizes[i] for i in axes]

    x, y = (
        b.reshape(b.permute(x, [own.index(i) for i in axes]), (*size(lead), *map(math.prod, map(size, ends))))
        for x, own, axes, ends in (
            (parts[0], given[0], (*lead, *kept[0], *summed), (kept[0], summed)),
            (parts[1], given[1], (*lead, *summed, *kept[1]), (summed, kept[1])),
        )
    )
    found = b.reshape(b.matmul(x, y), size((*lead, *kept[0], *kept[1])))
    return b.permute(found, [(*lead, *kept[0], *kept[1]).index(i) for i in made])


def addmm(b: Builder, bias: Value, x: Value, matrix: Value, beta: float, alpha: float) -> ir.Node:
    """beta * bias + alpha * (x @ matrix)."""
    product = matmul(b, x, matrix)
    return add(b, b.scale(product, alpha), bias, beta)


# Convolutions and pools.


def conv2d(
    b: Builder, x: ir.Node, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> ir.Node:
    kernel, shift = secret(b, weight, "a kernel"), optional(b, bias, "a bias")
    b.planes(x, "Conv2d")
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(pair(dilation), kernel.shape[2:], strict=True)]
        padding = [n // 2 for n in total]
        if any(n % 2 for n in total):  # one more behind than before, which a Conv has no form for
            x = b.pad(x, (0, *padding), (0, *(n - n // 2 for n in total)))
            padding = 0
    padding = 0 if padding == "valid" else padding
    return b.conv(x, kernel, shift, pair(stride), pair(padding), pair(dilation), groups)


def conv1d(
    b: Builder, x: ir.Node, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> ir.Node:
    kernel = secret(b, weight, "a kernel")[:, :, None]
    padding = padding if isinstance(padding, str) else across(padding, 0)
    rest = (across(stride, 1), padding, across(dilation, 1), groups)
    return layers.flat(b, x, lambda x: conv2d(b, x, kernel, bias, *rest))


def conv_transpose2d(
    b: Builder,
    x: ir.Node,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    extra: Any,
    groups: int,
    d: Any,
) -> ir.Node:
    kernel, shift = secret(b, weight, "a kernel"), optional(b, bias, "a bias")
    return b.conv(x, kernel, shift, pair(stride), pair(padding), pair(d), groups, True, pair(extra))


def conv_transpose1d(
    b: Builder,
    x: ir.Node,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    extra: Any,
    groups: int,
    d: Any,
) -> ir.Node:
    kernel = secret(b, weight, "a kernel")[:, :, None]
    rest = (across(stride, 1), across(padding, 0), across(extra, 0), groups, across(d, 1))
    return layers.flat(b, x, lambda x: conv_transpose2d(b, x, kernel, bias, *rest))


def max_pool2d(b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> ir.Node:
    return layers.max_pool(b, x, pair(kernel), pair(stride or kernel), pair(padding), pair(dilation), ceil)


def max_pool1d(b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> ir.Node:
    sizes = (across(kernel, 1), across(stride or kernel, 1), across(padding, 0), across(dilation, 1))
    return layers.flat(b, x, lambda x: layers.max_pool(b, x, *sizes, ceil))


def avg_pool2d(
    b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, ceil: bool, count: bool, divisor: int | None
) -> ir.Node:
    return layers.avg_pool(b, x, pair(kernel), pair(stride or kernel), pair(padding), ceil, count, divisor)


def avg_pool1d(b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, ceil: bool, count: bool) -> ir.Node:
    sizes = (across(kernel, 1), across(stride or kernel, 1), across(padding, 0))
    return layers.flat(b, x, lambda x: layers.avg_pool(b, x, *sizes, ceil, count))


# Reductions.


def mean(b: Builder, x: ir.Node, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> ir.Node:
    return _reduced(b, x, dims, keepdim, layers.mean)


def total(b: Builder, x: ir.Node, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> ir.Node:
    return _reduced(b, x, dims, keepdim, Builder.sum)


def _reduced(
    b: Builder, x: ir.Node, dims: Any, keepdim: bool, reduce: Callable[[Builder, ir.Node, list[int]], ir.Node]
) -> ir.Node:
    along = axes(b, x, dims, "reduces over")
    reduced = reduce(b, x, along)
    return layers.keep(b, reduced, x, along) if keepdim else reduced


def amax(b: Builder, x: ir.Node, dims: Any, keepdim: bool) -> ir.Node:
    return _reduced(b, x, dims, keepdim, layers.largest)


# Shapes.


def expand(b: Builder, x: ir.Node, size: Sequence[int], *_: bool) -> ir.Node:
    own = size[b.lead :]
    b.require(not b.lead or len(own) == len(x.shape), "puts a dimension before the batch")
    given = (1,) * (len(own) - len(x.shape)) + x.shape
    return b.expand(x, [n if m == -1 else m for n, m in zip(given, own, strict=True)])


def repeat(b: Builder, x: ir.Node, times: Sequence[int]) -> ir.Node:
    b.require(not b.lead or (len(times) == len(x.shape) + 1 and times[0] == 1), "repeats the batch")
    x = b.reshape(x, (1,) * (len(times) - b.lead - len(x.shape)) + x.shape)
    for along, n in enumerate(times[b.lead :]):
        x = b.concat([x] * n, along)
    return x


def permute(b: Builder, x: ir.Node, dims: Sequence[int]) -> ir.Node:
    order = [dim % len(dims) for dim in dims]
    b.require(not b.lead or order[0] == 0, "moves the batch", "keep the batch in the first dimension")
    return b.permute(x, [dim - b.lead for dim in order[b.lead :]])


def transpose(b: Builder, x: ir.Node, first: int, second: int) -> ir.Node:
    order = list(range(len(x.shape) + b.lead))
    order[first], order[second] = order[second], order[first]
    return permute(b, x, order)


def slice_(b: Builder, x: ir.Node, dim: int, start: int | None, stop: int | None, step: int) -> ir.Node:
    if b.lead and dim % (len(x.shape) + 1) == 0 and not start and (stop or 0) >= 1 << 31 and step == 1:
        return x
    along = axis(b, x, dim, "slices")
    places = range(*slice(start, stop, step).indices(x.shape[along]))
    b.require(bool(places), f"takes the empty slice {start}:{stop}:{step}")
    return b.take(x, along, [places])


def select(b: Builder, x: ir.Node, dim: int, index: int) -> ir.Node:
    along = axis(b, x, dim, "selects from")
    index %= x.shape[along]
    return b.reshape(b.slice(x, along, index, index + 1), x.shape[:along] + x.shape[along + 1 :])


def narrow(b: Builder, x: ir.Node, dim: int, start: int, length: int) -> ir.Node:
    return slice_(b, x, dim, start, start + length, 1)


def split(b: Builder, x: ir.Node, size: int | Sequence[int], dim: int) -> list[ir.Node]:
    along = axis(b, x, dim, "splits")
    n = x.shape[along]
    sizes = [min(size, n - start) for start in range(0, n, size)] if isinstance(size, int) else size
    return layers.split(b, x, sizes, along)


def chunk(b: Builder, x: ir.Node, chunks: int, dim: int) -> list[ir.Node]:
    return split(b, x, -(-x.shape[axis(b, x, dim, "splits")] // chunks), dim)


def unbind(b: Builder, x: ir.Node, dim: int) -> list[ir.Node]:
    return [select(b, x, dim, i) for i in range(x.shape[axis(b, x, dim, "splits")])]


def pad(b: Builder, x: ir.Node, sizes: Sequence[int], value: float | None = 0.0) -> ir.Node:
    """Pad. `sizes` are in torch's order: before and after, for the last axis first."""
    axes = len(x.shape)
    b.require(len(sizes) <= 2 * axes or not any(sizes[2 * axes :]), "pads the batch")
    before, after = ([0] * axes + list(reversed(sizes[i : 2 * axes : 2])) for i in (0, 1))
    padded = b.pad(b.shift(x, -(value or 0.0)), before[-axes:], after[-axes:])
    return b.shift(padded, value or 0.0)


# Activations.


def prelu(b: Builder, x: ir.Node, slope: Value) -> ir.Node:
    weight = secret(b, slope, "a slope")
    return layers.prelu(b, x, weight.reshape(-1, *(1,) * (len(x.shape) - 1)) if x.shape else weight.reshape(()))


def softplus(b: Builder, x: ir.Node, beta: float, threshold: float) -> ir.Node:
    b.require(
        threshold >= 15, f"a softplus that is linear from {threshold} is not supported", "leave the threshold at 20"
    )
    return b.smooth(x, "softplus", beta=beta)


def elu(b: Builder, x: ir.Node, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> ir.Node:
    b.require(input_scale == 1, "an ELU of a scaled input is not supported")
    return b.scale(b.smooth(x, "elu", alpha=alpha), scale)


def norm(
    b: Builder, x: ir.Node, weight: Value | None, bias: Value | None, mean: Value, variance: Value, _: float, eps: float
) -> list[ir.Node]:
    statistics = (secret(b, mean, "a mean"), secret(b, variance, "a variance"))
    return [layers.batch_norm(b, x, optional(b, weight, "a scale"), optional(b, bias, "a shift"), *statistics, eps)]


def smooth(function: str) -> Callable[[Builder, ir.Node], ir.Node]:
    return lambda b, x: b.smooth(x, function)
