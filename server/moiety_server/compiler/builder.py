"""Appends nodes to a graph and works out their shapes.

Both front ends use it, and `layers` builds on it whatever needs several nodes. A wire is the node that computes it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.attention import MaskedNode, MatMulNode
from moiety_server.compiler.embedding import Digits, EmbeddingNode
from moiety_server.compiler.ir import Shape
from moiety_server.compiler.softmax import CentredNode, SoftmaxNode
from moiety_server.compiler.windows import Windows

_MASKING = -99.0  # a constant so low that is added to some scores of a softmax leaves the others all of its sum


@dataclass(frozen=True, kw_only=True)
class AffineNode(ir.Node):
    """x * scale + shift with secret constants of as many axes as x: a batch norm, or a parameter that is added or
    multiplied.

    A front end writes it, and `simplification` removes it: it folds the node into the layer before it, or rewrites it
    as a ConvNode or a BiasNode.
    """

    scale: Tensor | None
    shift: Tensor | None


class Builder(Windows):
    """A graph under construction, and the methods that append nodes which compute."""

    def input(self, shape: Shape) -> ir.Node:
        return self._add(ir.InputNode(**self._head(shape)))

    def linear(
        self, x: ir.Node, weight: Tensor, bias: Tensor | None = None, bounds: tuple[float, float] | None = None
    ) -> ir.Node:
        """Append a linear layer over the last axis. `weight` is (out, in). `bounds` are known of its outputs."""
        self.require(weight.dim() == 2, f"has a matrix of shape {tuple(weight.shape)} where (out, in) is needed")
        self.require(
            bool(x.shape) and x.shape[-1] == weight.shape[1], f"needs {weight.shape[1]} features, got {x.shape}"
        )
        head = self._head((*x.shape[:-1], len(weight)), x)
        return self._add(ir.LinearNode(**head, weight=weight, bias=bias, bounds=bounds))

    def embedding(self, x: ir.Node, table: Tensor, digits: Digits) -> ir.Node:
        """Append a look-up in a secret table (vocabulary, width) of ids, whose digits x holds."""
        head = self._head((x.shape[0], table.shape[1]), x)
        return self._add(EmbeddingNode(**head, table=EmbeddingNode.padded(table, digits), digits=digits))

    def affine(self, x: ir.Node, scale: Tensor | None = None, shift: Tensor | None = None) -> ir.Node:
        """Append x * scale + shift. Both broadcast against x (without the batch), and x grows if they are larger."""
        shapes = [tuple(t.shape) for t in (scale, shift) if t is not None]
        self.require(
            not self.lead or all(len(shape) <= len(x.shape) for shape in shapes),
            f"{shapes} do not broadcast against {x.shape}",
        )
        x = self.expand(x, _broadcast(x.shape, *shapes))  # makes x as large as the constants

        def full(value: Tensor | None) -> Tensor | None:
            return value if value is None else value.reshape((1,) * (len(x.shape) - value.dim()) + tuple(value.shape))

        return self._add(AffineNode(**self._head(x.shape, x), scale=full(scale), shift=full(shift)))

    def clamp(self, x: ir.Node, low: float | None, high: float | None) -> ir.Node:
        if low is None:
            self.require(high is not None, "clamps without limits")
            return self.scale(self.clamp(self.scale(x, -1.0), -float(high or 0.0), None), -1.0)
        if high is not None and high < low:  # frameworks take the upper limit then
            return self.shift(self.scale(x, 0.0), float(high))
        offset = 0.0
        match x:
            case AffineNode(scale=None, shift=Tensor() as shift) if high is not None and shift.numel() == 1:
                # A small value that a constant was added to would lose the bits that the sum takes.
                offset, x = float(shift), self.nodes[x.inputs[0]]
                low, high = low - offset, high - offset
        top = None if high is None else float(high)
        return self._add(ir.ClampNode(**self._head(x.shape, x), low=float(low), high=top, offset=offset))

    def relu(self, x: ir.Node) -> ir.Node:
        return self.clamp(x, 0.0, None)

    def decide(
        self, x: ir.Node, kind: Literal["greater", "not_less", "equal"], tolerance: float, whole: bool
    ) -> ir.Node:
        """Append a node that yields 0 or 1; see ir.DecideNode."""
        return self._add(ir.DecideNode(**self._head(x.shape, x), kind=kind, tolerance=tolerance, whole=whole))

    def look_up(self, x: ir.Node, values: tuple[int, ...], bits: int) -> ir.Node:
        """Append a public function of whole numbers; see ir.LookupNode. `values` are 2^bits."""
        self.require(isinstance(x, ir.LinearNode) and len(values) == 1 << bits, "looks up what is no whole number")
        return self._add(ir.LookupNode(**self._head(x.shape, x), values=values, bits=bits))

    def argmax(self, x: ir.Node) -> ir.Node:
        """Append the argmax of (n,) values, as (1,)."""
        return self._add(ir.ArgmaxNode(**self._head((1,), x)))

    def smooth(self, x: ir.Node, function: str, alpha: float = 1.0, beta: float = 1.0) -> ir.Node:
        return self._add(ir.SmoothNode(**self._head(x.shape, x), function=function, alpha=alpha, beta=beta))

    def softmax(self, x: ir.Node, axis: int, keys: Tensor | None = None, *, logarithm: bool = False) -> ir.Node:
        """Append a softmax over an axis, counted without the batch, or its logarithm. `keys`, if any, broadcast against
        x: where they are false a value counts as -infinity, and yields 0."""
        keys = torch.ones((), dtype=torch.bool) if keys is None else keys.bool()
        if not logarithm:
            x, seen = self._unmasked(x)
            keys = keys & seen
        last = len(x.shape) - 1
        if axis != last:
            order = [*(at for at in range(len(x.shape)) if at != axis), axis]
            made = self.softmax(self.permute(x, order), last, keys.expand(x.shape).permute(order), logarithm=logarithm)
            return self.permute(made, [order.index(at) for at in range(len(order))])
        keys = keys.reshape((1,) * (len(x.shape) - keys.dim()) + tuple(keys.shape))
        self.require(bool(keys.expand(x.shape).any(dim=-1).all()), "leaves a row of a softmax without a key")
        few = None if bool(keys.all()) else keys
        centred = self._add(CentredNode(**self._head(x.shape, x), keys=few))
        return self._add(SoftmaxNode(**self._head(x.shape, centred), keys=few, logarithm=logarithm))

    def _unmasked(self, x: ir.Node) -> tuple[ir.Node, Tensor]:
        """Return scores without what masks them, and which of them are not masked."""
        every = torch.ones((), dtype=torch.bool)
        match x:
            case MaskedNode():
                return self.nodes[x.inputs[0]], x.keys.bool()
            case AffineNode(scale=None, shift=Tensor() as shift):
                keys = shift > _MASKING
                if bool(keys.all()) or not bool(keys.expand(x.shape).any(dim=-1).all()):
                    return x, every
                shift = torch.where(keys, shift, 0)
                source = self.nodes[x.inputs[0]]
                return self.affine(source, shift=shift) if bool(shift.any()) else source, keys
            case ir.ReshapeNode():
                source, keys = self._unmasked(under := self.nodes[x.inputs[0]])
                if source is under:
                    return x, every
                return self.reshape(source, x.shape), keys.expand(source.shape).reshape(x.shape)
        return x, every

    def sum(self, x: ir.Node, axes: Sequence[int]) -> ir.Node:
        """Sum over axes, which are counted without the batch and dropped."""
        if not axes:
            return x
        shape = [n for axis, n in enumerate(x.shape) if axis not in axes]
        return self._add(ir.SumNode(**self._head(shape, x), axes=tuple(sorted(axes))))

    def bounded(self, x: ir.Node, low: float, high: float) -> ir.Node:
        """State bounds of a sum, which hold for reasons that the ranges of its terms do not show."""
        if not isinstance(x, ir.AddNode | ir.SumNode):  # of one term
            return x
        self.nodes[x.name] = x = replace(x, limits=(low, high))
        return x

    def scale(self, x: ir.Node, factor: float) -> ir.Node:
        """Multiply by a public number. One Scale behind another becomes one."""
        self.require(math.isfinite(factor), f"multiplies by {factor}")
        if factor == 0:
            return self._add(ir.AddNode(**self._head(x.shape, x, x), factors=(1, -1)))
        if isinstance(x, ir.ScaleNode):
            factor *= x.factor
            x = self.nodes[x.inputs[0]]
        return x if factor == 1 else self._add(ir.ScaleNode(**self._head(x.shape, x), factor=float(factor)))

    def shift(self, x: ir.Node, value: float) -> ir.Node:
        """Add a public number. The IR holds it in the form of a secret one."""
        return x if value == 0 else self.affine(x, shift=torch.tensor(value, dtype=torch.float64))

    def combine(self, terms: Sequence[ir.Node], factors: Sequence[float]) -> ir.Node:
        """Sum wires times public factors. The IR's Add takes whole factors; the others become Scales."""
        terms = self._aligned(*terms)
        whole = [float(factor).is_integer() and abs(factor) < 16 for factor in factors]
        scaled = [x if ok else self.scale(x, f) for x, f, ok in zip(terms, factors, whole, strict=True)]
        return self._add(
            ir.AddNode(
                **self._head(self.broadcast(*terms), *scaled),
                factors=tuple(int(f) if ok else 1 for f, ok in zip(factors, whole, strict=True)),
            )
        )

    def mul(self, x: ir.Node, y: ir.Node) -> ir.Node:
        """Multiply two wires. Public factors are multiplied last: so -x * x is known to be a square."""
        factor = 1.0
        if isinstance(x, ir.ScaleNode):
            factor, x = factor * x.factor, self.nodes[x.inputs[0]]
        if isinstance(y, ir.ScaleNode):
            factor, y = factor * y.factor, self.nodes[y.inputs[0]]
        x, y = self._aligned(x, y)
        return self.scale(self._add(ir.MulNode(**self._head(self.broadcast(x, y), x, y))), factor)

    def matmul(self, x: ir.Node, y: ir.Node) -> ir.Node:
        """Multiply the matrices of two wires: (..., n, d) and (..., d, m). Public factors are multiplied last, and the
        axes before broadcast."""
        self.require(min(len(x.shape), len(y.shape)) >= 2, "multiplies a matrix and a vector that are both computed")
        factor, order = 1.0, [*range(len(y.shape) - 2), len(y.shape) - 1, len(y.shape) - 2]
        if isinstance(x, ir.ScaleNode):
            factor, x = factor * x.factor, self.nodes[x.inputs[0]]
        if isinstance(y, ir.ScaleNode):
            factor, y = factor * y.factor, self.nodes[y.inputs[0]]
        x, y = self._aligned(x, self.permute(y, order))
        self.require(x.shape[-1] == y.shape[-1], f"multiplies {x.shape} by the transpose of {y.shape}")
        self.require(len(x.shape) == len(y.shape), f"multiplies {x.shape} by the transpose of {y.shape}")
        lead = _broadcast(x.shape[:-2], y.shape[:-2])
        x, y = (self.expand(one, (*lead, *one.shape[-2:])) for one in (x, y))
        return self.scale(self._add(MatMulNode(**self._head((*x.shape[:-1], y.shape[-2]), x, y))), factor)

    def masked(self, x: ir.Node, keys: Tensor, fill: float) -> ir.Node:
        """Put `fill` where `keys` is 0; see MaskedNode. `keys` broadcasts against x, without the batch."""
        self.require(bool(keys.bool().any(-1).all()), "masks all places of a row", "leave one place of each row")
        x = self.expand(x, _broadcast(x.shape, tuple(keys.shape)))
        return self._add(MaskedNode(**self._head(x.shape, x), keys=keys, fill=fill))

    def _aligned(self, *terms: ir.Node) -> list[ir.Node]:
        """Give all terms the same number of axes, where none is the batch."""
        most = 0 if self.lead else max(len(x.shape) for x in terms)
        return [self.reshape(x, (1,) * (most - len(x.shape)) + x.shape) if self.lead == 0 else x for x in terms]

    def broadcast(self, *terms: ir.Node) -> Shape:
        """Return the common shape. All terms need the same number of axes, or the batch of one would meet another's
        first axis."""
        self.require(
            len({len(x.shape) for x in terms}) == 1,
            f"combines tensors of different dimensions: {' and '.join(str(x.shape) for x in terms)} behind the batch",
            "give both the same number of dimensions with unsqueeze or view",
        )
        return _broadcast(*(x.shape for x in terms))


def _broadcast(*shapes: Shape) -> Shape:
    return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
