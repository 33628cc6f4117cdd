"""Norms: a wire divided by the root of a sum of its squares. They are found in a graph, however the model wrote them.

Layer, group, instance and RMS norms, F.normalize and quotients by a norm all come to x / sqrt(c sum x^2 + e), where x
may have lost its mean before. What multiplies it afterwards is a node of its own.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.builder import AffineNode

WIDEST = 2.0**19
"""How many times as large as the smallest sum of squares of a norm the largest one may be: one more bit is for rounding
both to powers of two."""
_FINEST = 1e-6  # a root is never less than this: then a lower limit of it hardly differs from a summand


@dataclass(frozen=True, kw_only=True)
class DeviationNode(ir.Node):
    """x less its mean over some axes, counted without the batch."""

    axes: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of values that a mean is of."""
        return math.prod(self.shape[axis] for axis in self.axes)

    def forward(self, *x: Tensor) -> Tensor:
        return x[0] - x[0].mean(dim=tuple(axis + 1 for axis in self.axes), keepdim=True)


@dataclass(frozen=True, kw_only=True)
class SquaresNode(ir.Node):
    """scale times the sum of squares over some axes (counted without the batch), which keep size one, plus `least`."""

    axes: tuple[int, ...]
    scale: float
    least: float

    def forward(self, *x: Tensor) -> Tensor:
        total = x[0].square().sum(dim=tuple(axis + 1 for axis in self.axes), keepdim=True)
        return total * self.scale + self.least


@dataclass(frozen=True, kw_only=True)
class NormNode(ir.Node):
    """The first input over the root of the second one, a SquaresNode of it. No value is larger than `most`."""

    most: float

    def forward(self, *x: Tensor) -> Tensor:
        # A sum of zeros is that of zeros alone, and stands for any other.
        return x[0] * torch.where(x[1] > 0, x[1], torch.ones_like(x[1])).rsqrt()


def find(nodes: dict[str, ir.Node]) -> dict[str, ir.Node]:
    """Write every product of a wire and the inverse root of its squares as a norm."""
    found: dict[str, ir.Node] = {}
    for node in nodes.values():
        pairs = [node.inputs, node.inputs[::-1]] if isinstance(node, ir.MulNode) else []
        squares = next((made for pair in pairs if (made := _squares(nodes, node, *pair))), None)
        if squares is None:
            found[node.name] = node
            continue
        apart = nodes[squares.inputs[0]]
        if mean := _mean(nodes, apart, squares.axes):
            found[apart.name] = DeviationNode(
                name=apart.name, inputs=(mean,), shape=apart.shape, origin=apart.origin, axes=squares.axes
            )
        found[squares.name] = squares
        inputs, most = (squares.inputs[0], squares.name), squares.scale**-0.5
        found[node.name] = NormNode(name=node.name, inputs=inputs, shape=node.shape, origin=node.origin, most=most)
    return found


def _squares(nodes: dict[str, ir.Node], node: ir.Node, x: str, root: str) -> SquaresNode | None:
    """Return the squares of x that `root` is the inverse root of, where it is."""
    repeats: list[ir.ConcatNode] = []
    at, floor = _past_moves(nodes, root, repeats), 0.0
    if isinstance(at, ir.SmoothNode) and at.function == "reciprocal":
        at = _past_moves(nodes, at.inputs[0], repeats)
        if isinstance(at, ir.ClampNode) and at.high is None and 0 <= at.low <= _FINEST:
            floor, at = at.low**2, _past_moves(nodes, at.inputs[0], repeats)
        if not isinstance(at, ir.SmoothNode) or at.function != "sqrt":
            return None
    elif not isinstance(at, ir.SmoothNode) or at.function != "rsqrt":
        return None
    at, scale, least = _past_moves(nodes, at.inputs[0], repeats), 1.0, floor
    while not isinstance(at, ir.SumNode):
        match at:
            case ir.ScaleNode() if at.factor > 0:
                scale *= at.factor
            case AffineNode(scale=None, shift=Tensor() as shift) if shift.numel() == 1 and float(shift) >= 0:
                least += scale * float(shift)
            case _:
                return None
        at = _past_moves(nodes, at.inputs[0], repeats)
    square, whole = nodes[at.inputs[0]], nodes[x].shape
    if not isinstance(square, ir.MulNode) or square.inputs != (x, x):
        return None
    kept = tuple(1 if axis in at.axes else n for axis, n in enumerate(whole))
    # What is repeated is repeated along the axes that were summed, so that each value still meets its own sum.
    shapes = nodes[root].shape, *(nodes[one.inputs[0]].shape for one in repeats), *(one.shape for one in repeats)
    ends = list(zip(kept, whole, strict=True))
    fits = all(len(one) == len(ends) and all(n in end for n, end in zip(one, ends, strict=True)) for one in shapes)
    if node.shape != whole or not fits or (not repeats and nodes[root].shape != kept):
        return None
    name = f"{node.name[:55]}-squares"
    origin, axes = node.origin, at.axes
    return SquaresNode(name=name, inputs=(x,), shape=kept, origin=origin, axes=axes, scale=scale, least=least)


def _mean(nodes: dict[str, ir.Node], node: ir.Node, axes: tuple[int, ...]) -> str | None:
    """Return what the node subtracts the mean over the axes from, where it does."""
    if not isinstance(node, ir.AddNode) or node.factors != (1, -1):
        return None
    repeats: list[ir.ConcatNode] = []
    x, mean = node.inputs[0], _past_moves(nodes, node.inputs[1], repeats)
    if not isinstance(mean, ir.ScaleNode):
        return None
    total = _past_moves(nodes, mean.inputs[0], repeats)
    if not isinstance(total, ir.SumNode) or total.inputs != (x,) or total.axes != axes or repeats:
        return None
    count = math.prod(nodes[x].shape[axis] for axis in axes)
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(node.shape))
    fits = nodes[x].shape == node.shape and nodes[node.inputs[1]].shape == kept
    return x if fits and math.isclose(mean.factor * count, 1) else None


def _past_moves(nodes: dict[str, ir.Node], name: str, repeats: list[ir.ConcatNode]) -> ir.Node:
    """Return what a node only reshapes or repeats, and put what repeats it into the list."""
    node = nodes[name]
    while isinstance(node, ir.ReshapeNode) or (isinstance(node, ir.ConcatNode) and len(set(node.inputs)) == 1):
        if isinstance(node, ir.ConcatNode):
            repeats.append(node)
        node = nodes[node.inputs[0]]
    return node
