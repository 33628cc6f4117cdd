"""Translates each ONNX operator to the IR: a table from its name to a function of the builder and the file's node."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from moiety_server.compiler import ir, layers
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable, Pair
from moiety_server.compiler.operations import Value

_MOST_NUMBERS = 64  # two for each axis of any tensor
Result = ir.Node | list[ir.Node]


@dataclass(frozen=True)
class OnnxNode:
    """One operator with its inputs: nodes, constants, and None where one is left out. `public` are the constants that
    the file holds as Constant nodes, which are part of the architecture. Its initializers are secret. `batch` is the
    number that stands for the batch in constant shapes."""

    inputs: Sequence[Value | None]
    public: Sequence[bool]
    attributes: dict[str, Any]
    outputs: int
    batch: int

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def x(self) -> Any:
        return self.inputs[0]

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def operand(self, index: int) -> Any:
        """Return an operand for arithmetic. A public constant of one element becomes the number that it holds."""
        value = self.inputs[index]
        if isinstance(value, Tensor) and self.public[index] and value.numel() == 1:
            return float(value)
        return value

    def constants(self, index: int, name: str) -> list[Any] | None:
        """Return numbers that are an input in newer operator sets and were an attribute in older ones."""
        value = self[index]
        if isinstance(value, Tensor) and value.numel() > _MOST_NUMBERS:
            raise NotServable(f"has {value.numel()} numbers where its {name} is")
        numbers: list[Any] | None = value.reshape(-1).tolist() if isinstance(value, Tensor) else self.get(name)
        return numbers


# Layers.


def _pairs(values: Sequence[int], default: int) -> Pair:
    """Return a pair for both axes, of a layer over one or two."""
    return (values[0], values[1]) if len(values) == 2 else (default, values[0])


@dataclass(frozen=True)
class _Window:
    kernel: Pair
    stride: Pair
    dilation: Pair
    before: Pair
    after: Pair


def _window(b: Builder, node: OnnxNode, kernel: Sequence[int], size: Sequence[int]) -> _Window:
    axes = len(kernel)
    b.require(axes in (1, 2) and len(size) == axes, "only 1-d and 2-d layers are served")
    stride, dilation = node.get("strides", [1] * axes), node.get("dilations", [1] * axes)
    pads, auto = node.get("pads", [0] * 2 * axes), node.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(size, stride, reach, strict=True)]
        less, more = [n // 2 for n in total], [n - n // 2 for n in total]
        pads = less + more if auto == "SAME_UPPER" else more + less
    elif auto == "VALID":
        pads = [0] * 2 * axes
    return _Window(
        _pairs(kernel, 1), _pairs(stride, 1), _pairs(dilation, 1), _pairs(pads[:axes], 0), _pairs(pads[axes:], 0)
    )


def _over_planes(b: Builder, x: ir.Node, apply: Callable[[ir.Node], ir.Node]) -> ir.Node:
    return layers.flat(b, x, apply) if len(x.shape) == 2 else apply(x)


def _kernel(b: Builder, node: OnnxNode) -> Tensor:
    weight = ops.secret(b, node[1], "a kernel")
    b.require(weight.dim() in (3, 4), "only 1-d and 2-d convolutions are served")
    return weight


def _conv(b: Builder, node: OnnxNode) -> ir.Node:
    weight, bias = _kernel(b, node), ops.optional(b, node[2], "a bias")
    w = _window(b, node, weight.shape[2:], node.x.shape[1:])
    kernel = weight if weight.dim() == 4 else weight[:, :, None]

    def planes(x: ir.Node) -> ir.Node:
        padding = w.before
        if w.before != w.after:
            x, padding = b.pad(x, (0, *w.before), (0, *w.after)), (0, 0)
        return b.conv(x, kernel, bias, w.stride, padding, w.dilation, node.get("group", 1))

    return _over_planes(b, node.x, planes)


def _conv_transpose(b: Builder, node: OnnxNode) -> ir.Node:
    b.require(
        node.get("output_shape") is None and not node.get("auto_pad", "NOTSET").startswith("SAME"),
        "a transposed convolution by its output's shape",
        "give its pads",
    )
    weight, bias = _kernel(b, node), ops.optional(b, node[2], "a bias")
    w = _window(b, node, weight.shape[2:], node.x.shape[1:])
    kernel = weight if weight.dim() == 4 else weight[:, :, None]
    extra = _pairs(node.get("output_padding", [0] * (weight.dim() - 2)), 0)

    def planes(x: ir.Node) -> ir.Node:
        alike = w.before == w.after
        y = b.conv_transpose(
            x, kernel, bias, w.stride, w.before if alike else (0, 0), extra, node.get("group", 1), w.dilation
        )
        return y if alike else b.pad(y, (0, *(-n for n in w.before)), (0, *(-n for n in w.after)))

    return _over_planes(b, node.x, planes)


def _batch_norm(b: Builder, node: OnnxNode) -> ir.Node:
    b.require(
        not node.get("training_mode", 0), "a BatchNormalization in training mode", "export the model for inference"
    )
    scale, bias, mean, variance = (ops.secret(b, node[i], "a statistic") for i in range(1, 5))
    return layers.batch_norm(b, node.x, scale, bias, mean, variance, node.get("epsilon", 1e-5))


def _gemm(b: Builder, node: OnnxNode) -> ir.Node:
    b.require(not node.get("transA", 0), "a transposed input", "keep the batch the first dimension")
    matrix = ops.secret(b, node[1], "a matrix")
    y = ops.linear(b, node.x, node.get("alpha", 1.0) * (matrix if node.get("transB", 0) else matrix.T))
    bias = ops.optional(b, node[2], "a bias")
    return y if bias is None else ops.add(b, y, bias, node.get("beta", 1.0))


def _max_pool(b: Builder, node: OnnxNode) -> list[ir.Node]:
    w = _window(b, node, node.get("kernel_shape"), node.x.shape[1:])
    ceil = bool(node.get("ceil_mode", 0))
    return [
        _over_planes(
            b, node.x, lambda x: layers.max_pool(b, x, w.kernel, w.stride, w.before, w.dilation, ceil, w.after)
        )
    ]


def _average_pool(b: Builder, node: OnnxNode) -> ir.Node:
    w = _window(b, node, node.get("kernel_shape"), node.x.shape[1:])
    b.require(w.dilation == (1, 1), "a dilated average pool")
    ceil, count = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    return _over_planes(
        b, node.x, lambda x: layers.avg_pool(b, x, w.kernel, w.stride, w.before, ceil, count, after=w.after)
    )


def _resize(b: Builder, node: OnnxNode) -> ir.Node:
    """Translate Resize, and Upsample, whose scales are its second input."""
    b.require(node.get("mode", "nearest") == "nearest", f"resizes by {node.get('mode')}", "nearest neighbours")
    rule = (node.get("coordinate_transformation_mode", "half_pixel"), node.get("nearest_mode", "round_prefer_floor"))
    scales = node.constants(2 if len(node.inputs) > 2 else 1, "scales") or []
    sizes = node.constants(3, "sizes")
    if sizes and not scales:
        scales = [1, *(m / n for m, n in zip(sizes[1:], node.x.shape, strict=True))]
    b.require(scales[:2] == [1, 1], f"resizes by {scales}", "only what lies behind the channels")
    exact = rule == ("asymmetric", "floor") or (rule[0].endswith("half_pixel") and rule[1].startswith("round"))
    b.require(exact, f"resizes by the rule {' and '.join(rule)}", "asymmetric and floor, as torch has it")
    return _over_planes(b, node.x, lambda x: ops.nearest(b, x, None, _pairs(scales[2:], 1)))


# Activations.


def _clip(b: Builder, node: OnnxNode) -> ir.Node:
    low, high = (node.constants(i, name) for i, name in ((1, "min"), (2, "max")))
    low, high = (v[0] if isinstance(v, list) else v for v in (low, high))
    b.require(not any(isinstance(node[i], ir.Node) for i in (1, 2)), "clips to computed limits", "clip to numbers")
    unlimited = [v is None or abs(v) > 1e38 for v in (low, high)]
    if all(unlimited):
        return node.x  # type: ignore[no-any-return]
    return b.clamp(node.x, *(None if none else v for none, v in zip(unlimited, (low, high), strict=True)))


def _prelu(b: Builder, node: OnnxNode) -> ir.Node:
    return layers.prelu(b, node.x, ops.aligned(b, ops.secret(b, node[1], "a slope"), node.x))


def _pow(b: Builder, node: OnnxNode) -> ir.Node:
    exponent = node[1]
    b.require(isinstance(exponent, Tensor) and exponent.numel() == 1, "raises to a computed power")
    return layers.power(b, node.x, float(exponent))


def _activation(apply: Callable[..., ir.Node], *attributes: tuple[str, Any]) -> Callable[[Builder, OnnxNode], ir.Node]:
    """Translate a function of the input and of some attributes, given by name and default."""
    return lambda b, node: apply(b, node.x, *(node.get(name, default) for name, default in attributes))


def _smooth(function: str) -> Callable[[Builder, OnnxNode], ir.Node]:
    return lambda b, node: b.smooth(node.x, function)


# Shapes and reductions.


def _flatten(b: Builder, node: OnnxNode) -> ir.Node:
    axis = node.get("axis", 1)
    b.require(axis % (len(node.x.shape) + 1) == 1, "flattens the batch", "flatten from axis 1")
    return b.reshape(node.x, (math.prod(node.x.shape),))


def _reshape(b: Builder, node: OnnxNode) -> ir.Node:
    x, target = node.x, node.constants(1, "shape") or []
    b.require(bool(target), "reshapes to a computed shape", "give the shape as a constant")
    full = (node.batch, *x.shape)
    if not node.get("allowzero", 0):
        target = [full[i] if n == 0 and i < len(full) else n for i, n in enumerate(target)]
    rest = target[1:]
    if -1 in rest:
        missing = math.prod(x.shape) // max(1, math.prod(n for n in rest if n != -1))
        rest = [missing if n == -1 else n for n in rest]
    b.require(
        target[0] in (-1, node.batch) and min(rest, default=1) > 0,
        f"reshapes to {target}, which does not start with the batch",
        "keep the batch the first dimension",
    )
    return b.reshape(x, rest)


def _squeeze(b: Builder, node: OnnxNode) -> ir.Node:
    x, axes = node.x, node.constants(1, "axes")
    axes = [i + 1 for i, n in enumerate(x.shape) if n == 1] if axes is None else axes
    dropped = {ops.axis(b, x, axis, "squeezes") for axis in axes}
    return b.reshape(x, [n for i, n in enumerate(x.shape) if i not in dropped])


def _unsqueeze(b: Builder, node: OnnxNode) -> ir.Node:
    shape, axes = list(node.x.shape), node.constants(1, "axes") or []
    for axis in sorted(ops.axis(b, node.x, axis, "puts a dimension before", extra=len(axes)) for axis in axes):
        shape.insert(axis, 1)
    return b.reshape(node.x, shape)


def _transpose(b: Builder, node: OnnxNode) -> ir.Node:
    return ops.permute(b, node.x, node.get("perm") or list(reversed(range(len(node.x.shape) + 1))))


def _expand(b: Builder, node: OnnxNode) -> ir.Node:
    shape = node.constants(1, "shape") or []
    full = [1] * (len(node.x.shape) + 1 - len(shape)) + shape
    b.require(full[0] in (1, node.batch), "repeats the batch")
    return ops.expand(b, node.x, [-1 if n == 1 else n for n in full])


def _split(b: Builder, node: OnnxNode) -> list[ir.Node]:
    dim, sizes = node.get("axis", 0), node.constants(1, "split")
    n = node.x.shape[ops.axis(b, node.x, dim, "splits")]
    return ops.split(b, node.x, sizes or -(-n // node.outputs), dim)


def _slice(b: Builder, node: OnnxNode) -> ir.Node:
    starts, stops = node.constants(1, "starts") or [], node.constants(2, "ends") or []
    axes = node.constants(3, "axes") or list(range(len(starts)))
    steps = node.constants(4, "steps") or [1] * len(starts)
    x: ir.Node = node.x
    for limits in zip(axes, starts, stops, steps, strict=True):
        x = ops.slice_(b, x, *limits)
    return x


def _gather(b: Builder, node: OnnxNode) -> ir.Node:
    indices = ops.secret(b, node[1], "an index")
    b.require(indices.dim() <= 1 and indices.numel() <= 64, "picks many elements", "take slices")
    dim, picked = node.get("axis", 0), [int(i) for i in indices.reshape(-1)]
    if indices.dim() == 0:
        return ops.select(b, node.x, dim, picked[0])
    axis = ops.axis(b, node.x, dim, "picks from")
    n = node.x.shape[axis]
    return b.concat([b.slice(node.x, axis, i % n, i % n + 1) for i in picked], axis)


def _pad(b: Builder, node: OnnxNode) -> ir.Node:
    mode, value = node.get("mode", "constant"), node.constants(2, "value") or [0.0]
    b.require(mode == "constant", f"padding mode {mode!r}", "pad with zeros")
    pads, rank = node.constants(1, "pads") or [], len(node.x.shape) + 1
    axes = [axis % rank for axis in node.constants(3, "axes") or range(rank)]
    both = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        both[axis] = (before, after)
    sizes = [n for pair in reversed(both) for n in pair]
    return ops.pad(b, node.x, sizes, float(value[0] if isinstance(value, list) else value))


def _reduce(reduce: Callable[..., ir.Node]) -> Callable[[Builder, OnnxNode], ir.Node]:
    def reduced(b: Builder, node: OnnxNode) -> ir.Node:
        axes = node.constants(1, "axes")
        if not axes and node.get("noop_with_empty_axes", 0):
            return node.x  # type: ignore[no-any-return]
        return reduce(b, node.x, axes, bool(node.get("keepdims", 1)))

    return reduced


def _global(pool: Callable[[Builder, ir.Node, Pair], ir.Node]) -> Callable[[Builder, OnnxNode], ir.Node]:
    return lambda b, node: _over_planes(b, node.x, lambda x: pool(b, x, (1, 1)))


def _concat(b: Builder, node: OnnxNode) -> ir.Node:
    return ops.cat(b, [part for part in node.inputs if part is not None], node.get("axis"))


def _sum(b: Builder, node: OnnxNode) -> ir.Node:
    total = node.operand(0)
    for i in range(1, len(node.inputs)):
        total = ops.add(b, total, node.operand(i))
    return total  # type: ignore[no-any-return]


def _nothing(b: Builder, node: OnnxNode) -> ir.Node:
    return node.x  # type: ignore[no-any-return]


def _dropout(b: Builder, node: OnnxNode) -> ir.Node:
    training = node[2]
    b.require(not isinstance(training, Tensor) or not bool(training), "drops values at random", "export for inference")
    return _nothing(b, node)


OPS: dict[str, Callable[[Builder, OnnxNode], Result]] = {
    "Add": _sum,
    "Sum": _sum,
    "Sub": lambda b, node: ops.add(b, node.operand(0), node.operand(1), -1),
    "Mul": lambda b, node: ops.mul(b, node.operand(0), node.operand(1)),
    "Div": lambda b, node: ops.div(b, node.operand(0), node.operand(1)),
    "Neg": lambda b, node: b.scale(node.x, -1.0),
    "Pow": _pow,
    "Gemm": _gemm,
    "MatMul": lambda b, node: ops.matmul(b, node.x, node[1]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "BatchNormalization": lambda b, node: [_batch_norm(b, node)],
    "Relu": lambda b, node: b.relu(node.x),
    "Clip": _clip,
    "LeakyRelu": _activation(layers.leaky_relu, ("alpha", 0.01)),
    "PRelu": _prelu,
    "HardSigmoid": _activation(layers.hardsigmoid, ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _activation(layers.hardswish),
    "Elu": _activation(ops.elu, ("alpha", 1.0)),
    "Selu": _activation(ops.elu, ("alpha", 1.6732632423543772), ("gamma", 1.0507009873554805)),
    "Celu": _activation(layers.celu, ("alpha", 1.0)),
    "Mish": _activation(layers.mish),
    "Sigmoid": _smooth("sigmoid"),
    "Tanh": _smooth("tanh"),
    "Softplus": _smooth("softplus"),
    "Exp": _smooth("exp"),
    "Erf": _smooth(layers.ERF),
    "Gelu": lambda b, node: b.smooth(node.x, "gelu" if node.get("approximate", "none") == "none" else "gelu_tanh"),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global(layers.adaptive_avg_pool),
    "GlobalMaxPool": _global(layers.adaptive_max_pool),
    "ReduceMean": _reduce(ops.mean),
    "ReduceSum": _reduce(ops.total),
    "ReduceMax": _reduce(ops.amax),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _resize,
    "Dropout": lambda b, node: [_dropout(b, node)],
    "Identity": _nothing,
    "Cast": _nothing,
}
