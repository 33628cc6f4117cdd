"""Translates each ONNX operator to the IR: a table from its name to a function of the builder and the file's node."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from moiety_server.compiler import ir, layers
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable, Pair
from moiety_server.compiler.operations import Value

_MOST_NUMBERS = 64  # two for each axis of any tensor
_MOST_ITEMS = 16  # of a file without a batch, in a layer over pictures
Result = ir.Node | list[ir.Node]


@dataclass(frozen=True)
class OnnxNode:
    """One operator with its inputs: nodes, constants, and None where one is left out. `public` are the constants that
    the file holds as Constant nodes, which are part of the architecture. Its initializers are secret. `batch` is the
    number that stands for the batch in constant shapes. `opset` is the version of the operators."""

    inputs: Sequence[Value | None]
    public: Sequence[bool]
    attributes: dict[str, Any]
    outputs: int
    batch: int
    opset: int = 17

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
        if not isinstance(value, Tensor | None):
            raise NotServable(f"computes its {name} from the input. Instead: state {name} in the file")
        if isinstance(value, Tensor) and value.numel() > _MOST_NUMBERS:
            raise NotServable(f"has {value.numel()} numbers as its {name}, more than {_MOST_NUMBERS}")
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
    b.require(axes in (1, 2) and len(size) == axes, "only 1-d and 2-d layers are supported")
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


def by_item(translate: Callable[[Builder, OnnxNode], Result]) -> Callable[[Builder, OnnxNode], Result]:
    """Make a layer over (N, C, ...) one for files without a batch: it treats the N items one after the other."""

    def each(b: Builder, node: OnnxNode) -> Result:
        if b.lead or not isinstance(node.x, ir.Node):
            return translate(b, node)
        b.require(len(node.x.shape) > 0 and node.x.shape[0] <= _MOST_ITEMS, f"has more than {_MOST_ITEMS} items")
        b.lead = 1
        try:
            made = [
                translate(b, replace(node, inputs=[ops.select(b, node.x, 1, i), *node.inputs[1:]], batch=1))
                for i in range(node.x.shape[0])
            ]
        finally:
            b.lead = 0
        if isinstance(made[0], list):
            return [layers.stack(b, [one[0] for one in made if isinstance(one, list)], 0)]
        return layers.stack(b, [one for one in made if isinstance(one, ir.Node)], 0)

    return each


def _over_planes(b: Builder, x: ir.Node, apply: Callable[[ir.Node], ir.Node]) -> ir.Node:
    return layers.flat(b, x, apply) if len(x.shape) == 2 else apply(x)


def _kernel(b: Builder, node: OnnxNode) -> Tensor:
    weight = ops.secret(b, node[1], "a kernel")
    b.require(weight.dim() in (3, 4), "only 1-d and 2-d convolutions are supported")
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
        "states its output's shape",
        "state its pads",
    )
    weight, bias = _kernel(b, node), ops.optional(b, node[2], "a bias")
    w = _window(b, node, weight.shape[2:], node.x.shape[1:])
    kernel = weight if weight.dim() == 4 else weight[:, :, None]
    extra = _pairs(node.get("output_padding", [0] * (weight.dim() - 2)), 0)

    def planes(x: ir.Node) -> ir.Node:
        alike = w.before == w.after
        before = w.before if alike else (0, 0)
        y = b.conv(x, kernel, bias, w.stride, before, w.dilation, node.get("group", 1), True, extra)
        return y if alike else b.pad(y, (0, *(-n for n in w.before)), (0, *(-n for n in w.after)))

    return _over_planes(b, node.x, planes)


def _batch_norm(b: Builder, node: OnnxNode) -> ir.Node:
    b.require(not node.get("training_mode", 0), "is in training mode", "export the model for inference")
    scale, bias, mean, variance = (ops.secret(b, node[i], "a statistic") for i in range(1, 5))
    return layers.batch_norm(b, node.x, scale, bias, mean, variance, node.get("epsilon", 1e-5))


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
    b.require(w.dilation == (1, 1), "a dilated average pool is not supported")
    ceil, count = bool(node.get("ceil_mode", 0)), bool(node.get("count_include_pad", 0))
    return _over_planes(
        b, node.x, lambda x: layers.avg_pool(b, x, w.kernel, w.stride, w.before, ceil, count, after=w.after)
    )


# Activations.


def _prelu(b: Builder, node: OnnxNode) -> ir.Node:
    return layers.prelu(b, node.x, ops.aligned(b, ops.secret(b, node[1], "a slope"), node.x))


def _activation(apply: Callable[..., ir.Node], *attributes: tuple[str, Any]) -> Callable[[Builder, OnnxNode], ir.Node]:
    """Translate a function of the input and of some attributes, given by name and default."""
    return lambda b, node: apply(b, node.x, *(node.get(name, default) for name, default in attributes))


def _smooth(function: str) -> Callable[[Builder, OnnxNode], ir.Node]:
    return lambda b, node: b.smooth(node.x, function)


# Shapes and reductions.


def _flatten(b: Builder, node: OnnxNode) -> ir.Node:
    shape = node.x.shape
    axis = node.get("axis", 1) % (len(shape) + b.lead) if shape else 0
    if not b.lead:
        return b.reshape(node.x, (math.prod(shape[:axis]), math.prod(shape[axis:])))
    b.require(axis == 1, "flattens the batch", "flatten from axis 1")
    return b.reshape(node.x, (math.prod(shape),))


def _reshape(b: Builder, node: OnnxNode) -> ir.Node:
    x, target = node.x, node.constants(1, "shape") or []
    b.require(bool(target), "reshapes to a computed shape", "give the shape as a constant")
    full = (*(node.batch,) * b.lead, *x.shape)
    if not node.get("allowzero", 0):
        target = [full[i] if n == 0 and i < len(full) else n for i, n in enumerate(target)]
    rest = target[b.lead :]
    if -1 in rest:
        missing = math.prod(x.shape) // max(1, math.prod(n for n in rest if n != -1))
        rest = [missing if n == -1 else n for n in rest]
    b.require(
        (not b.lead or target[0] in (-1, node.batch)) and min(rest, default=1) > 0,
        f"reshapes to {target}, which does not start with the batch",
        "keep the batch in the first dimension",
    )
    return b.reshape(x, rest)


def _squeeze(b: Builder, node: OnnxNode) -> ir.Node:
    x, axes = node.x, node.constants(1, "axes")
    axes = [i + b.lead for i, n in enumerate(x.shape) if n == 1] if axes is None else axes
    dropped = {ops.axis(b, x, axis, "squeezes") for axis in axes}
    return b.reshape(x, [n for i, n in enumerate(x.shape) if i not in dropped])


def _unsqueeze(b: Builder, node: OnnxNode) -> ir.Node:
    shape, axes = list(node.x.shape), node.constants(1, "axes") or []
    for axis in sorted(ops.axis(b, node.x, axis, "puts a dimension before", extra=len(axes)) for axis in axes):
        shape.insert(axis, 1)
    return b.reshape(node.x, shape)


def _transpose(b: Builder, node: OnnxNode) -> ir.Node:
    return ops.permute(b, node.x, node.get("perm") or list(reversed(range(len(node.x.shape) + b.lead))))


def _expand(b: Builder, node: OnnxNode) -> ir.Node:
    shape = node.constants(1, "shape") or []
    full = [1] * (len(node.x.shape) + b.lead - len(shape)) + shape
    b.require(not b.lead or full[0] in (1, node.batch), "repeats the batch")
    return ops.expand(b, node.x, [-1 if n == 1 else n for n in full])


def _slice(b: Builder, node: OnnxNode) -> ir.Node:
    starts, stops = node.constants(1, "starts") or [], node.constants(2, "ends") or []
    axes = node.constants(3, "axes") or list(range(len(starts)))
    steps = node.constants(4, "steps") or [1] * len(starts)
    x: ir.Node = node.x
    for limits in zip(axes, starts, stops, steps, strict=True):
        x = ops.slice_(b, x, *limits)
    return x


def _global(pool: Callable[[Builder, ir.Node, Pair], ir.Node]) -> Callable[[Builder, OnnxNode], ir.Node]:
    return lambda b, node: _over_planes(b, node.x, lambda x: pool(b, x, (1, 1)))


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
    "Neg": lambda b, node: b.scale(node.x, -1.0),
    "Conv": by_item(_conv),
    "ConvTranspose": by_item(_conv_transpose),
    "BatchNormalization": by_item(lambda b, node: [_batch_norm(b, node)]),
    "Relu": lambda b, node: b.relu(node.x),
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
    "Gelu": lambda b, node: b.smooth(node.x, "gelu" if node.get("approximate", "none") == "none" else "gelu_tanh"),
    "MaxPool": by_item(_max_pool),
    "AveragePool": by_item(_average_pool),
    "GlobalAveragePool": by_item(_global(layers.adaptive_avg_pool)),
    "GlobalMaxPool": by_item(_global(layers.adaptive_max_pool)),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Expand": _expand,
    "Slice": _slice,
    "Dropout": lambda b, node: [_dropout(b, node)],
    "Identity": _nothing,
    "Cast": _nothing,
}
