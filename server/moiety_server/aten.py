"""What each ATen operation is in the IR: a table from its name to a function of the builder and its arguments.

The functions take the arguments in the order of the operation's schema, defaults filled in. A tensor among them is a
node where it depends on the input, else a constant: a parameter, a buffer or what was computed from these.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from moiety_server import ir, layers
from moiety_server.builder import Builder
from moiety_server.ir import Pair

Value = ir.Node | Tensor
Result = ir.Node | list[ir.Node]


def pair(value: int | Sequence[int]) -> Pair:
    """Of a size for both axes or for each."""
    both = [value] if isinstance(value, int) else list(value)
    return both[0], both[-1]


def _across(value: int | Sequence[int], across: int) -> Pair:
    """Of a size for the only axis of a 1-d layer, which is the second of two."""
    return across, pair(value)[0]


def _axis(b: Builder, x: ir.Node, dim: int, what: str, extra: int = 0) -> int:
    """Counted without the batch, of a tensor of so many axes more."""
    axis = dim % (len(x.shape) + 1 + extra) - 1
    b.require(axis >= 0, f"{what} the batch", "each input of a batch has to be computed by itself")
    return axis


def _axes(b: Builder, x: ir.Node, dims: int | Sequence[int] | None, what: str) -> list[int]:
    listed = [dims] if isinstance(dims, int) else dims or range(len(x.shape) + 1)
    return sorted({_axis(b, x, dim, what) for dim in listed})


def _secret(b: Builder, value: Value | None, what: str) -> Tensor:
    if not isinstance(value, Tensor):
        b.refuse(f"{what} is computed from the input", "only parameters, buffers and constants can be one")
    return value


def _optional(b: Builder, value: Value | None, what: str) -> Tensor | None:
    return None if value is None else _secret(b, value, what)


def _aligned(b: Builder, constant: Tensor, x: ir.Node) -> Tensor:
    """Without the axis that meets the batch."""
    if constant.dim() <= len(x.shape):
        return constant
    b.require(
        constant.dim() == len(x.shape) + 1 and len(constant) == 1,
        f"a constant of shape {tuple(constant.shape)} differs along the batch",
        "give it the size 1 in its first dimension",
    )
    return constant[0]


# Arithmetic. Numbers are public, constant tensors are not.


def _add(b: Builder, x: Value | float, y: Value | float, alpha: float = 1) -> ir.Node:
    """x + alpha * y."""
    if isinstance(x, ir.Node) and isinstance(y, ir.Node):
        return b.combine((x, y), (1, alpha))
    if isinstance(y, ir.Node):
        x, y, alpha = b.scale(y, alpha), x, 1
    if not isinstance(x, ir.Node) or isinstance(y, ir.Node):
        b.refuse("adds constants")
    return b.affine(x, shift=alpha * _aligned(b, y, x)) if isinstance(y, Tensor) else b.shift(x, alpha * y)


def _mul(b: Builder, x: Value | float, y: Value | float) -> ir.Node:
    if isinstance(x, ir.Node) and isinstance(y, ir.Node):
        return b.mul(x, y)
    if isinstance(y, ir.Node):
        x, y = y, x
    if not isinstance(x, ir.Node) or isinstance(y, ir.Node):
        b.refuse("multiplies constants")
    return b.affine(x, scale=_aligned(b, y, x)) if isinstance(y, Tensor) else b.scale(x, y)


def _div(b: Builder, x: Value | float, y: Value | float) -> ir.Node:
    if isinstance(y, ir.Node):
        b.refuse("divides by a value computed from the input", "divide by a number or a parameter")
    return _mul(b, x, y.double().reciprocal() if isinstance(y, Tensor) else 1 / y)


def _linear(b: Builder, x: Value, weight: Value, bias: Value | None = None) -> ir.Node:
    if isinstance(x, Tensor) or isinstance(weight, ir.Node) or isinstance(bias, ir.Node):
        b.refuse("multiplies with a matrix computed from the input", "the matrix has to be a parameter")
    return b.linear(x, weight, bias)


def _matmul(b: Builder, x: Value, matrix: Value) -> ir.Node:
    if isinstance(matrix, Tensor) and isinstance(x, ir.Node) and matrix.dim() == 1:
        return b.reshape(_linear(b, x, matrix[None]), x.shape[:-1])
    return _linear(b, x, matrix.T if isinstance(matrix, Tensor) and matrix.dim() == 2 else matrix)


def _addmm(b: Builder, bias: Value, x: Value, matrix: Value, beta: float, alpha: float) -> ir.Node:
    """beta * bias + alpha * (x @ matrix)."""
    product = _matmul(b, x, matrix)
    return _add(b, b.scale(product, alpha), bias, beta)


# Convolutions and pools.


def _conv2d(
    b: Builder, x: ir.Node, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> ir.Node:
    kernel, shift = _secret(b, weight, "a kernel"), _optional(b, bias, "a bias")
    b.planes(x, "Conv2d")
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(pair(dilation), kernel.shape[2:], strict=True)]
        padding = [n // 2 for n in total]
        if any(n % 2 for n in total):  # one more behind than before, which a Conv has no form for
            x = b.pad(x, (0, *padding), (0, *(n - n // 2 for n in total)))
            padding = 0
    padding = 0 if padding == "valid" else padding
    return b.conv(x, kernel, shift, pair(stride), pair(padding), pair(dilation), groups)


def _conv1d(
    b: Builder, x: ir.Node, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> ir.Node:
    kernel = _secret(b, weight, "a kernel")[:, :, None]
    padding = padding if isinstance(padding, str) else _across(padding, 0)
    rest = (_across(stride, 1), padding, _across(dilation, 1), groups)
    return layers.flat(b, x, lambda x: _conv2d(b, x, kernel, bias, *rest))


def _conv_transpose2d(
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
    kernel, shift = _secret(b, weight, "a kernel"), _optional(b, bias, "a bias")
    return b.conv_transpose(x, kernel, shift, pair(stride), pair(padding), pair(extra), groups, pair(d))


def _conv_transpose1d(
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
    kernel = _secret(b, weight, "a kernel")[:, :, None]
    rest = (_across(stride, 1), _across(padding, 0), _across(extra, 0), groups, _across(d, 1))
    return layers.flat(b, x, lambda x: _conv_transpose2d(b, x, kernel, bias, *rest))


def _max_pool2d(b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> ir.Node:
    return layers.max_pool(b, x, pair(kernel), pair(stride or kernel), pair(padding), pair(dilation), ceil)


def _max_pool1d(b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> ir.Node:
    sizes = (_across(kernel, 1), _across(stride or kernel, 1), _across(padding, 0), _across(dilation, 1))
    return layers.flat(b, x, lambda x: layers.max_pool(b, x, *sizes, ceil))


def _avg_pool2d(
    b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, ceil: bool, count: bool, divisor: int | None
) -> ir.Node:
    return layers.avg_pool(b, x, pair(kernel), pair(stride or kernel), pair(padding), ceil, count, divisor)


def _avg_pool1d(b: Builder, x: ir.Node, kernel: Any, stride: Any, padding: Any, ceil: bool, count: bool) -> ir.Node:
    sizes = (_across(kernel, 1), _across(stride or kernel, 1), _across(padding, 0))
    return layers.flat(b, x, lambda x: layers.avg_pool(b, x, *sizes, ceil, count))


def _nearest(b: Builder, x: ir.Node, size: Sequence[int] | None, scales: Sequence[float | None] | None) -> ir.Node:
    """Over (C, H, W)."""
    b.planes(x, "an upsampling")
    factors: list[float] = [
        s or m / n for n, m, s in zip(x.shape[1:], size or (0, 0), scales or (None, None), strict=True)
    ]
    b.require(
        all(factor >= 1 and float(factor).is_integer() for factor in factors),
        f"resizes {x.shape[1:]} by {tuple(factors)}",
        "nearest neighbours by whole factors",
    )
    return b.upsample(x, (int(factors[0]), int(factors[1])))


def _nearest1d(b: Builder, x: ir.Node, size: Sequence[int] | None, scales: Sequence[float | None] | None) -> ir.Node:
    both = None if size is None else (1, size[0])
    return layers.flat(b, x, lambda x: _nearest(b, x, both, None if scales is None else (1.0, scales[0])))


# Reductions.


def _mean(b: Builder, x: ir.Node, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> ir.Node:
    return _reduced(b, x, dims, keepdim, layers.mean)


def _sum(b: Builder, x: ir.Node, dims: Any = None, keepdim: bool = False, dtype: Any = None) -> ir.Node:
    return _reduced(b, x, dims, keepdim, Builder.sum)


def _reduced(
    b: Builder, x: ir.Node, dims: Any, keepdim: bool, reduce: Callable[[Builder, ir.Node, list[int]], ir.Node]
) -> ir.Node:
    axes = _axes(b, x, dims, "reduces over")
    reduced = reduce(b, x, axes)
    return layers.keep(b, reduced, x, axes) if keepdim else reduced


# Shapes.


def _expand(b: Builder, x: ir.Node, size: Sequence[int], *_: bool) -> ir.Node:
    b.require(len(size) == len(x.shape) + 1, "puts a dimension before the batch")
    return b.expand(x, [n if m == -1 else m for n, m in zip(x.shape, size[1:], strict=True)])


def _permute(b: Builder, x: ir.Node, dims: Sequence[int]) -> ir.Node:
    order = [dim % len(dims) for dim in dims]
    b.require(order[0] == 0, "moves the batch", "keep the batch the first dimension")
    return b.permute(x, [dim - 1 for dim in order[1:]])


def _transpose(b: Builder, x: ir.Node, first: int, second: int) -> ir.Node:
    order = list(range(len(x.shape) + 1))
    order[first], order[second] = order[second], order[first]
    return _permute(b, x, order)


def _cat(b: Builder, parts: Sequence[Value], dim: int) -> ir.Node:
    nodes = _wires(b, parts)
    return b.concat(nodes, _axis(b, nodes[0], dim, "concatenates along"))


def _stack(b: Builder, parts: Sequence[Value], dim: int) -> ir.Node:
    nodes = _wires(b, parts)
    return layers.stack(b, nodes, _axis(b, nodes[0], dim, "stacks along", extra=1))


def _wires(b: Builder, parts: Sequence[Value]) -> list[ir.Node]:
    nodes = [part for part in parts if isinstance(part, ir.Node)]
    b.require(len(nodes) == len(parts), "concatenates a constant with what is computed from the input")
    return nodes


def _slice(b: Builder, x: ir.Node, dim: int, start: int | None, stop: int | None, step: int) -> ir.Node:
    if dim % (len(x.shape) + 1) == 0 and not start and (stop or 0) >= 1 << 31 and step == 1:
        return x
    axis = _axis(b, x, dim, "slices")
    return b.slice(x, axis, *slice(start, stop, step).indices(x.shape[axis]))


def _select(b: Builder, x: ir.Node, dim: int, index: int) -> ir.Node:
    axis = _axis(b, x, dim, "selects from")
    index %= x.shape[axis]
    return b.reshape(b.slice(x, axis, index, index + 1), x.shape[:axis] + x.shape[axis + 1 :])


def _narrow(b: Builder, x: ir.Node, dim: int, start: int, length: int) -> ir.Node:
    return _slice(b, x, dim, start, start + length, 1)


def _split(b: Builder, x: ir.Node, size: int | Sequence[int], dim: int) -> list[ir.Node]:
    axis = _axis(b, x, dim, "splits")
    n = x.shape[axis]
    sizes = [min(size, n - start) for start in range(0, n, size)] if isinstance(size, int) else size
    return layers.split(b, x, sizes, axis)


def _chunk(b: Builder, x: ir.Node, chunks: int, dim: int) -> list[ir.Node]:
    return _split(b, x, -(-x.shape[_axis(b, x, dim, "splits")] // chunks), dim)


def _unbind(b: Builder, x: ir.Node, dim: int) -> list[ir.Node]:
    return [_select(b, x, dim, i) for i in range(x.shape[_axis(b, x, dim, "splits")])]


def _pad(b: Builder, x: ir.Node, pad: Sequence[int], value: float | None = 0.0) -> ir.Node:
    """`pad` as torch has it: before and after, of the last axis first."""
    axes = len(x.shape)
    b.require(len(pad) <= 2 * axes or not any(pad[2 * axes :]), "pads the batch")
    before, after = ([0] * axes + list(reversed(pad[i : 2 * axes : 2])) for i in (0, 1))
    padded = b.pad(b.shift(x, -(value or 0.0)), before[-axes:], after[-axes:])
    return b.shift(padded, value or 0.0)


def _pad_mode(b: Builder, x: ir.Node, pad: Sequence[int], mode: str, value: float | None) -> ir.Node:
    b.require(mode == "constant", f"padding mode {mode!r}", "pad with zeros")
    return _pad(b, x, pad, value)


# Activations.


def _clamp(b: Builder, x: ir.Node, low: Any = None, high: Any = None) -> ir.Node:
    b.require(not isinstance(low, Value) and not isinstance(high, Value), "clamps to tensors", "clamp to numbers")
    return b.clamp(x, low, high)


def _prelu(b: Builder, x: ir.Node, slope: Value) -> ir.Node:
    weight = _secret(b, slope, "a slope")
    return layers.prelu(b, x, weight.reshape(-1, *(1,) * (len(x.shape) - 1)))


def _softplus(b: Builder, x: ir.Node, beta: float, threshold: float) -> ir.Node:
    b.require(threshold >= 15, f"a softplus that is linear from {threshold}", "leave the threshold at 20")
    return b.smooth(x, "softplus", beta=beta)


def _elu(b: Builder, x: ir.Node, alpha: float, scale: float = 1.0, input_scale: float = 1.0) -> ir.Node:
    b.require(input_scale == 1, "an ELU of a scaled input")
    return b.scale(b.smooth(x, "elu", alpha=alpha), scale)


def _norm(
    b: Builder, x: ir.Node, weight: Value | None, bias: Value | None, mean: Value, variance: Value, _: float, eps: float
) -> list[ir.Node]:
    statistics = (_secret(b, mean, "a mean"), _secret(b, variance, "a variance"))
    return [layers.batch_norm(b, x, _optional(b, weight, "a scale"), _optional(b, bias, "a shift"), *statistics, eps)]


def _smooth(function: str) -> Callable[[Builder, ir.Node], ir.Node]:
    return lambda b, x: b.smooth(x, function)


# What changes at most the shape: the exported graph says what to.
RESHAPES = {
    *("reshape", "reshape_as", "view", "view_as", "_unsafe_view", "flatten", "flatten.using_ints", "unflatten.int"),
    *(
        "squeeze",
        "squeeze.dim",
        "squeeze.dims",
        "unsqueeze",
        "contiguous",
        "clone",
        "alias",
        "detach",
        "lift_fresh_copy",
    ),
    *("to.dtype", "_to_copy", "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"),
}
# What may have a constant on its left.
EITHER_SIDE = {"add", "sub", "rsub", "mul", "div", "linear", "matmul", "mm", "addmm"}

OPS: dict[str, Callable[..., Result]] = {
    "linear": _linear,
    "matmul": _matmul,
    "mm": _matmul,
    "addmm": _addmm,
    **dict.fromkeys(("conv2d", "conv2d.padding"), _conv2d),
    **dict.fromkeys(("conv1d", "conv1d.padding"), _conv1d),
    "conv_transpose2d.input": _conv_transpose2d,
    "conv_transpose1d": _conv_transpose1d,
    "_native_batch_norm_legit_no_training": _norm,
    "max_pool2d": _max_pool2d,
    "max_pool1d": _max_pool1d,
    "max_pool2d_with_indices": lambda b, *a: [_max_pool2d(b, *a)],
    "max_pool1d_with_indices": lambda b, *a: [_max_pool1d(b, *a)],
    "avg_pool2d": _avg_pool2d,
    "avg_pool1d": _avg_pool1d,
    "adaptive_avg_pool2d": lambda b, x, size: layers.adaptive_avg_pool(b, x, pair(size)),
    "adaptive_max_pool2d": lambda b, x, size: [layers.adaptive_max_pool(b, x, pair(size))],
    "adaptive_avg_pool1d": lambda b, x, size: layers.flat(
        b, x, lambda x: layers.adaptive_avg_pool(b, x, _across(size, 1))
    ),
    "adaptive_max_pool1d": lambda b, x, size: [
        layers.flat(b, x, lambda x: layers.adaptive_max_pool(b, x, _across(size, 1)))
    ],
    **dict.fromkeys(("upsample_nearest2d.vec", "_upsample_nearest_exact2d.vec"), _nearest),
    **dict.fromkeys(
        ("upsample_nearest2d", "_upsample_nearest_exact2d"), lambda b, x, size, *scales: _nearest(b, x, size, scales)
    ),
    **dict.fromkeys(("upsample_nearest1d.vec", "_upsample_nearest_exact1d.vec"), _nearest1d),
    **dict.fromkeys(
        ("upsample_nearest1d", "_upsample_nearest_exact1d"), lambda b, x, size, *scales: _nearest1d(b, x, size, scales)
    ),
    **dict.fromkeys(("mean", "mean.dim"), _mean),
    **dict.fromkeys(("sum", "sum.dim_IntList"), _sum),
    **dict.fromkeys(("add.Tensor", "add.Scalar"), _add),
    **dict.fromkeys(("sub.Tensor", "sub.Scalar"), lambda b, x, y, alpha: _add(b, x, y, -alpha)),
    **dict.fromkeys(("rsub.Tensor", "rsub.Scalar"), lambda b, x, y, alpha: _add(b, y, x, -alpha)),
    **dict.fromkeys(("mul.Tensor", "mul.Scalar"), _mul),
    **dict.fromkeys(("div.Tensor", "div.Scalar"), _div),
    "neg": lambda b, x: b.scale(x, -1.0),
    "square": lambda b, x: b.mul(x, x),
    "pow.Tensor_Scalar": layers.power,
    "relu": Builder.relu,
    "relu6": lambda b, x: b.clamp(x, 0.0, 6.0),
    **dict.fromkeys(("clamp", "clamp.Tensor", "hardtanh"), _clamp),
    **dict.fromkeys(("clamp_min", "clamp_min.Tensor"), _clamp),
    **dict.fromkeys(("clamp_max", "clamp_max.Tensor"), lambda b, x, high: _clamp(b, x, None, high)),
    "leaky_relu": layers.leaky_relu,
    "prelu": _prelu,
    "hardsigmoid": layers.hardsigmoid,
    "hardswish": layers.hardswish,
    **{name: _smooth(name) for name in ("sigmoid", "tanh", "silu", "exp")},
    "gelu": lambda b, x, approximate: b.smooth(x, "gelu" if approximate == "none" else "gelu_tanh"),
    "elu": _elu,
    "celu": lambda b, x, alpha: b.scale(_elu(b, b.scale(x, 1 / alpha), 1.0), alpha),
    "softplus": _softplus,
    "log_sigmoid": lambda b, x: b.scale(b.smooth(b.scale(x, -1.0), "softplus"), -1.0),
    "mish": lambda b, x: b.mul(x, b.smooth(b.smooth(x, "softplus"), "tanh")),
    "expand": _expand,
    "permute": _permute,
    **dict.fromkeys(("transpose.int", "swapaxes"), _transpose),
    "t": lambda b, x: _transpose(b, x, 0, len(x.shape)),
    "cat": _cat,
    "stack": _stack,
    "slice.Tensor": _slice,
    "select.int": _select,
    "narrow": _narrow,
    "split.Tensor": _split,
    "split_with_sizes": _split,
    "chunk": _chunk,
    "unbind.int": _unbind,
    "pad": _pad_mode,
    "constant_pad_nd": _pad,
}
