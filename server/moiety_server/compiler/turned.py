"""Wires whose batch is not the first axis, as recurrent layers have them: sequences with the time first, last states.

A front end turns such a tensor into the wire of its other axes, which all of the compiler works on, and the place of
the batch. Every operation on it either leaves the batch where it is, or says where it goes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import Shape

HINT = "keep the batch the first dimension (batch_first=True), and compute on each sequence alone"


@dataclass(frozen=True)
class Turned:
    """A tensor whose batch is its axis `axis`, which is not 0. `node` is the wire of the other axes, in order."""

    node: ir.Node
    axis: int

    def full(self, batch: int) -> Shape:
        return (*self.node.shape[: self.axis], batch, *self.node.shape[self.axis :])

    def own(self, b: Builder, dim: int) -> int:
        """Return an axis of the tensor as an axis of a tensor with the batch first."""
        index = dim % (len(self.node.shape) + 1)
        b.require(index != self.axis, "computes across the batch", HINT)
        return index + 1 if index < self.axis else index


Wire = ir.Node | Turned


def placed(node: ir.Node, axis: int) -> Wire:
    return node if axis == 0 else Turned(node, axis)


def permuted(b: Builder, x: Wire, order: Sequence[int]) -> Wire:
    """Permute all axes, the batch among them."""
    node, axis = (x.node, x.axis) if isinstance(x, Turned) else (x, 0)
    full = [dim % (len(node.shape) + 1) for dim in order]
    kept = [dim - (dim > axis) for dim in full if dim != axis]
    return placed(b.permute(node, kept), full.index(axis))


def places(x: Wire, target: Sequence[int], batch: int) -> list[int]:
    """Return where the batch can be after a reshape: as many values lie before it as now."""
    node, axis = (x.node, x.axis) if isinstance(x, Turned) else (x, 0)
    before = math.prod(node.shape[:axis])
    return [at for at, n in enumerate(target) if n == batch and math.prod(target[:at]) == before]


def reshaped(b: Builder, x: Wire, target: Sequence[int], batch: int) -> Wire:
    """Reshape to a full shape. The batch remains an axis of its own."""
    at = next(iter(places(x, target, batch)), -1)
    b.require(at >= 0, f"reshapes to {tuple(target)}, which mixes up the batch", HINT)
    return placed(b.reshape(unturned(x), [*target[:at], *target[at + 1 :]]), at)


def checked(b: Builder, node: ir.Node, full: Sequence[int | None], axis: int) -> Wire:
    """Put the batch of a result at `axis`. Refuses one that does not have this full shape."""
    rest = (*full[:axis], *full[axis + 1 :])
    b.require(not full or None in rest or rest == node.shape, f"gives {tuple(full)}, which mixes up the batch", HINT)
    return placed(node, axis)


def common(b: Builder, values: Sequence[Any]) -> int:
    """Return where the batch of all wires among the values is. Refuses different places."""
    axes = {(v.axis, len(v.node.shape)) if isinstance(v, Turned) else (0, len(v.shape)) for v in values}
    b.require(len(axes) == 1, "combines wires with the batch in different places", HINT)
    return axes.pop()[0]


def unturned(value: Any) -> Any:
    """Return the wire itself, where the value is one whose batch is elsewhere. Also in lists."""
    if isinstance(value, list | tuple):
        return type(value)(unturned(one) for one in value)
    return value.node if isinstance(value, Turned) else value
