"""The model between its framework and the plan: a short list of float operations on tensors with the batch first.

Front ends (torch.export, ONNX) produce it, and `compilation` turns it into a plan. Every node can compute itself in
torch. So the graph that is compiled is the graph that was calibrated, and tests of a front end compare `run` with the
model. Operations are called nodes here (`ConvNode`); what the plan makes of them are layers (`Conv`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler.functions import FUNCTIONS
from moiety_shared.plan.plan import Final, InputPart, OutputPart

Shape = tuple[int, ...]
Pair = tuple[int, int]


class NotServable(ValueError):
    """The model cannot be served as it is; says which layer, where in the user's code, and what to do instead."""


class Inaccurate(NotServable):
    """The plan answers too inexactly to be published unasked; says which layer costs most, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation. `shape` is that of its output without the batch: () for one number a row. `origin` is the layer's
    name and, where known, the user's line; messages show it. `limits` bound its values where more of them is known."""

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    origin: str
    limits: tuple[float, float] | None = None

    def forward(self, *x: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class InputNode(Node):
    inputs: tuple[str, ...] = ()

    def forward(self, *x: Tensor) -> Tensor:
        return x[0]


@dataclass(frozen=True, kw_only=True)
class LinearNode(Node):
    """A linear layer over the last axis. `weight` is (out, in), and `bias` is (out,) or None. Both are secrets.

    `bounds` are the least and the largest value of any output, where whoever made the node knows more of them than the
    bounds of each input say.
    """

    weight: Tensor
    bias: Tensor | None
    bounds: tuple[float, float] | None = None

    def forward(self, *x: Tensor) -> Tensor:
        return F.linear(x[0], self.weight, self.bias)


@dataclass(frozen=True, kw_only=True)
class ConvNode(Node):
    """2-d convolution over (C, H, W). `weight` has torch's layout: (out, in / groups, kh, kw), and for a transposed
    convolution (in, out / groups, kh, kw). A per-channel scale and shift is a convolution with groups = C and a 1 x 1
    kernel."""

    weight: Tensor
    bias: Tensor | None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    transposed: bool = False
    output_padding: Pair = (0, 0)

    def forward(self, *x: Tensor) -> Tensor:
        plain = (self.stride, self.padding, self.output_padding) == ((1, 1), (0, 0), (0, 0))
        if plain and self.weight.shape[1:] == (1, 1, 1) and self.groups == len(self.weight):  # torch loops over groups
            return x[0] * self.weight[..., 0] + (0 if self.bias is None else self.bias[:, None, None])
        if self.transposed:
            return F.conv_transpose2d(
                x[0], self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation
            )
        return F.conv2d(x[0], self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, kw_only=True)
class BiasNode(Node):
    """Adds a secret constant that broadcasts against the input's shape."""

    value: Tensor

    def forward(self, *x: Tensor) -> Tensor:
        return x[0] + self.value


@dataclass(frozen=True, kw_only=True)
class ClampNode(Node):
    """min(max(x, low), high) + offset. ReLU has low = 0 and high = None. All three are part of the architecture."""

    low: float
    high: float | None = None
    offset: float = 0.0

    def forward(self, *x: Tensor) -> Tensor:
        return x[0].clamp(self.low, self.high) + self.offset


@dataclass(frozen=True, kw_only=True)
class SmoothNode(Node):
    """A smooth function of one value, one of FUNCTIONS. `alpha` is ELU's parameter, `beta` softplus's."""

    function: str
    alpha: float = 1.0
    beta: float = 1.0

    def forward(self, *x: Tensor) -> Tensor:
        if self.function == "elu":
            return F.elu(x[0], self.alpha)
        if self.function == "softplus":
            return F.softplus(x[0], self.beta)
        return FUNCTIONS[self.function].apply(x[0])


@dataclass(frozen=True, kw_only=True)
class DecideNode(Node):
    """1 where a value is greater than 0, not less than 0, or equal to 0, else 0.

    Values nearer to 0 than `tolerance` count as 0. `whole` values are whole numbers, and their bits must not be cut.
    """

    kind: Literal["greater", "not_less", "equal"]
    tolerance: float
    whole: bool = False

    def forward(self, *x: Tensor) -> Tensor:
        match self.kind:
            case "greater":
                found = x[0] >= self.tolerance
            case "not_less":
                found = x[0] > -self.tolerance
            case "equal":
                found = x[0].abs() < self.tolerance
        return found.to(x[0].dtype)


@dataclass(frozen=True, kw_only=True)
class LookupNode(Node):
    """A public function of a whole number: values[x mod 2^bits]. Its input is a LinearNode whose weights, biases and
    inputs are whole numbers, so nothing is rounded."""

    values: tuple[int, ...]
    bits: int

    def forward(self, *x: Tensor) -> Tensor:
        table = torch.tensor(self.values, dtype=x[0].dtype, device=x[0].device)
        return table[x[0].round().long() % len(self.values)]


@dataclass(frozen=True, kw_only=True)
class ArgmaxNode(Node):
    """The place of the largest of (n,) values, as (1,). Among equals it is the first one."""

    def forward(self, *x: Tensor) -> Tensor:
        return x[0].argmax(dim=1, keepdim=True).to(x[0].dtype)


@dataclass(frozen=True, kw_only=True)
class MaxPoolNode(Node):
    """Max pool over (C, H, W). Padding is -infinity. `shape` states the output's size, so ceil_mode needs no flag:
    windows may hang over the lower and right edge."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def forward(self, *x: Tensor) -> Tensor:
        ceil = self.shape[1:] != tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(x[0].shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        )
        return F.max_pool2d(x[0], self.kernel, self.stride, self.padding, self.dilation, ceil)


@dataclass(frozen=True, kw_only=True)
class SumPoolNode(Node):
    """Sum over windows of (C, H, W), with zero padding. An average pool is a sum pool with a Scale behind it."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def forward(self, *x: Tensor) -> Tensor:
        return F.avg_pool2d(x[0], self.kernel, self.stride, self.padding, divisor_override=1)


@dataclass(frozen=True, kw_only=True)
class SumNode(Node):
    """Sum over some axes (counted without the batch), which are dropped."""

    axes: tuple[int, ...]

    def forward(self, *x: Tensor) -> Tensor:
        return x[0].sum(dim=tuple(axis + 1 for axis in self.axes))


@dataclass(frozen=True, kw_only=True)
class ScaleNode(Node):
    """Multiplies by one public number, such as 1 / 49 of an average pool. It only changes a scale, which is free."""

    factor: float

    def forward(self, *x: Tensor) -> Tensor:
        return x[0] * self.factor


@dataclass(frozen=True, kw_only=True)
class AddNode(Node):
    """Sum of two or more wires with public signs or small integer factors; inputs broadcast to `shape`."""

    factors: tuple[int, ...]

    def forward(self, *x: Tensor) -> Tensor:
        total = sum(f * v for f, v in zip(self.factors, x, strict=True))
        assert isinstance(total, Tensor)  # noqa: S101  there are at least two inputs
        return total


@dataclass(frozen=True, kw_only=True)
class MulNode(Node):
    """Product of two secret wires, broadcast to `shape`. Both inputs may be the same wire."""

    def forward(self, *x: Tensor) -> Tensor:
        return x[0] * x[1]


@dataclass(frozen=True, kw_only=True)
class ReshapeNode(Node):
    def forward(self, *x: Tensor) -> Tensor:
        return x[0].reshape(len(x[0]), *self.shape)


@dataclass(frozen=True, kw_only=True)
class PermuteNode(Node):
    """Puts the axes, counted without the batch, into `order`."""

    order: tuple[int, ...]

    def forward(self, *x: Tensor) -> Tensor:
        return x[0].permute(0, *(axis + 1 for axis in self.order))


@dataclass(frozen=True, kw_only=True)
class SliceNode(Node):
    """Takes start : stop : step along one axis (counted without the batch); 0 <= start < stop, step >= 1."""

    axis: int
    start: int
    stop: int
    step: int = 1

    def forward(self, *x: Tensor) -> Tensor:
        index = (slice(None),) * (self.axis + 1) + (slice(self.start, self.stop, self.step),)
        return x[0][index]


@dataclass(frozen=True, kw_only=True)
class TakeNode(Node):
    """Takes public places along one axis (counted without the batch), in any order and any number of times.

    Each value is the sum of what the tuples of `places` take, times their public `factors`. Without factors there is
    one tuple, and values only move.
    """

    axis: int
    places: tuple[tuple[int, ...], ...]
    factors: tuple[tuple[float, ...], ...] = ()

    def forward(self, *x: Tensor) -> Tensor:
        taken = [x[0].index_select(self.axis + 1, self._on(x[0], one, torch.int64)) for one in self.places]
        if not self.factors:
            return taken[0]
        behind = (1,) * (len(self.shape) - self.axis - 1)
        factors = [self._on(x[0], one, x[0].dtype).reshape(-1, *behind) for one in self.factors]
        total = sum(t * f for t, f in zip(taken, factors, strict=True))
        assert isinstance(total, Tensor)  # noqa: S101  there is at least one tuple of places
        return total

    @staticmethod
    def _on(x: Tensor, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=x.device)


@dataclass(frozen=True, kw_only=True)
class ConcatNode(Node):
    """Joins wires along one axis, counted without the batch."""

    axis: int

    def forward(self, *x: Tensor) -> Tensor:
        return torch.cat(x, dim=self.axis + 1)


@dataclass(frozen=True, kw_only=True)
class PadNode(Node):
    """Puts zeros around the input: `before` and `after` for each axis."""

    before: Shape
    after: Shape

    def forward(self, *x: Tensor) -> Tensor:
        pairs = [n for both in zip(reversed(self.before), reversed(self.after), strict=True) for n in both]
        return F.pad(x[0], pairs)


@dataclass(frozen=True, kw_only=True)
class UpsampleNode(Node):
    """Repeats the nearest neighbour over (C, H, W), by whole factors."""

    factors: Pair

    def forward(self, *x: Tensor) -> Tensor:
        return x[0].repeat_interleave(self.factors[0], dim=2).repeat_interleave(self.factors[1], dim=3)


@dataclass(frozen=True)
class Graph:
    """Nodes in the order they run. The first is the Input. `final` is the function that the client applies to the
    output. `labels` says that the model gives out the place of the largest output alone.

    A model of several inputs has `inputs`, cut out of a flat one. A model of several outputs has `outputs`, flattened
    and joined in this order.
    """

    nodes: Sequence[Node]
    output: str
    final: Final = "none"
    inputs: tuple[InputPart, ...] = ()
    outputs: tuple[OutputPart, ...] = ()
    labels: bool = False

    @torch.inference_mode()
    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Compute every wire's value on inputs (n, ...), by node name."""
        return dict(self.wires(x, keep=True))

    def wires(self, x: Tensor, *, keep: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Yield each wire's name and value in turn. Without `keep`, a value is released after its last reader."""
        values: dict[str, Tensor] = {}
        for node, done in zip(self.nodes, self._read_last(), strict=True):
            given = [x] if isinstance(node, InputNode) else [values[i] for i in node.inputs]
            values[node.name] = node.forward(*given)
            yield node.name, values[node.name]
            for name in () if keep else done:
                del values[name]

    @property
    def peak(self) -> int:
        """Return how many values of one input `wires` holds at once."""
        held = most = 0
        sizes = {node.name: math.prod(node.shape) for node in self.nodes}
        for node, done in zip(self.nodes, self._read_last(), strict=True):
            held += sizes[node.name]
            most = max(most, held)
            held -= sum(sizes[name] for name in done)
        return most

    def _read_last(self) -> list[list[str]]:
        """Return for each node the wires that no later node reads."""
        last = {node.name: at for at, node in enumerate(self.nodes)}
        last |= {name: at for at, node in enumerate(self.nodes) for name in node.inputs}
        done: list[list[str]] = [[] for _ in self.nodes]
        for name, at in last.items():
            done[at].append(name)
        return done

    @torch.inference_mode()
    def check(self) -> None:
        """Raises NotServable where a node does not give the shape that it states. This computes shapes alone."""
        shapes: dict[str, Tensor] = {}
        for node in self.nodes:
            tensors: dict[str, Any] = {k: v.to("meta") for k, v in vars(node).items() if isinstance(v, Tensor)}
            x = [shapes[name] for name in node.inputs] or [torch.empty((2, *node.shape), device="meta")]
            try:
                shapes[node.name] = replace(node, **tensors).forward(*x)
            except (RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError):
                raise NotServable(f"{node.origin}: its sizes do not fit together. Instead: export it again") from None
            if shapes[node.name].shape != (2, *node.shape):
                raise NotServable(f"{node.origin}: gives {tuple(shapes[node.name].shape[1:])}, not {node.shape}")
