"""Tensors whose batch is not their first axis alone: sequences with the time first, heads or windows merged into it.

A front end traces whole tensors, and all of the compiler works on wires without the batch. So a front end keeps, beside
a wire, where the batch of its tensor is. Every operation either leaves it there, or says where it goes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable, Shape
from moiety_server.compiler.origin import shown

HINT = "keep the batch the first dimension (batch_first=True), and compute on each input of a batch alone"


@dataclass(frozen=True)
class Batched:
    """A tensor of which axis `axis` counts before x batch x after places, in this order.

    `node` is the wire of all values of one input. Its axes are those of the tensor; in place of `axis` it has one of
    size before x after, or none where the batch is alone there.
    """

    node: ir.Node
    axis: int
    before: int = 1
    after: int = 1

    @property
    def is_alone(self) -> bool:
        return self.before * self.after == 1

    @property
    def rank(self) -> int:
        return len(self.node.shape) + self.is_alone

    def full(self, batch: int) -> Shape:
        """The tensor's shape."""
        rest = self.node.shape[self.axis + (not self.is_alone) :]
        return (*self.node.shape[: self.axis], self.before * batch * self.after, *rest)

    def stripped(self, sizes: Sequence[int]) -> list[int]:
        """Return one input's part of a shape that has the batch where this tensor has it."""
        merged = [] if self.is_alone else [self.before * self.after]
        return [*sizes[: self.axis], *merged, *sizes[self.axis + 1 :]]

    def first(self, batch: Any, values: Sequence[Any]) -> list[Any]:
        """Return values for each axis as those of a tensor with the batch first, which has the value `batch`."""
        return [batch, *values[: self.axis], *values[self.axis + self.is_alone :]]

    def own(self, b: Builder, dim: int) -> int:
        """Return an axis of the tensor as one of a tensor with the batch first."""
        index = dim % self.rank
        b.require(index != self.axis, "computes across the batch", HINT)
        return index + 1 if index < self.axis or not self.is_alone else index

    def raised(self, b: Builder, rank: int) -> "Batched":
        """Put axes of size one before all, until there are `rank`."""
        more = rank - self.rank
        return replace(self, node=b.reshape(self.node, (1,) * more + self.node.shape), axis=self.axis + more)

    def without(self, axes: Sequence[int]) -> "Batched":
        """Return where the batch is when these axes, counted from 0, are dropped."""
        return replace(self, axis=self.axis - sum(axis < self.axis for axis in axes))

    def holding(self, b: Builder, node: ir.Node, full: Sequence[int | None]) -> "Wire":
        """Return a result whose batch is where this tensor's is. Refuses one that does not have this full shape."""
        made = replace(self, node=node)
        rest = (*full[: self.axis], *full[self.axis + 1 :])
        kept = node.shape if made.is_alone else (*node.shape[: self.axis], *node.shape[self.axis + 1 :])
        b.require(not full or None in rest or rest == kept, f"gives {tuple(full)}, which mixes up the batch", HINT)
        return placed(made)


Wire = ir.Node | Batched


def is_wire(value: Any) -> TypeGuard[Wire]:
    return isinstance(value, ir.Node | Batched)


def located(x: Wire) -> Batched:
    return x if isinstance(x, Batched) else Batched(x, 0)


def placed(x: Batched) -> Wire:
    """Return the wire itself where the batch is the first axis, and alone there."""
    return x.node if x.axis == 0 and x.is_alone else x


def unplaced(value: Any) -> Any:
    """Return the wire itself, where the value is one whose batch is elsewhere. Also in lists."""
    if isinstance(value, list | tuple):
        return type(value)(unplaced(one) for one in value)
    return value.node if isinstance(value, Batched) else value


def output_wire(name: str, output: Any) -> ir.Node:
    """Return the wire of an output. Refuses a constant, and a tensor whose rows are not those of the batch."""
    if not is_wire(output):
        raise NotServable(f"the model: its output {shown(name)} does not depend on its input. Instead: leave it out")
    if not located(output).is_alone:
        raise NotServable(f"the model: its output {shown(name)} mixes up the batch. Instead: {HINT}")
    return located(output).node


def permuted(b: Builder, x: Wire, order: Sequence[int]) -> Wire:
    """Permute all axes, the batch among them."""
    at = located(x)
    full = [dim % at.rank for dim in order]
    kept = [dim - (dim > at.axis) for dim in full if dim != at.axis] if at.is_alone else full
    return placed(replace(at, node=b.permute(at.node, kept), axis=full.index(at.axis)))


def reshaped(b: Builder, x: Wire, target: Sequence[int], batch: int) -> Wire:
    """Reshape to a full shape. As many values lie before the batch as now. An axis of its own is preferred: with a
    batch of one there may be a choice."""
    at = located(x)
    before = math.prod(at.full(batch)[: at.axis]) * at.before
    places = []
    for axis, size in enumerate(target):
        within, rest = divmod(before, math.prod(target[:axis]) or 1)
        if within and not rest and size % (within * batch) == 0 and size:
            places.append(replace(at, axis=axis, before=within, after=size // (within * batch)))
    place = next(iter(sorted(places, key=lambda one: not one.is_alone)), at)
    b.require(bool(places), f"gives {tuple(target)}, which does not start with the batch, but mixes it up", HINT)
    return placed(replace(place, node=b.reshape(at.node, place.stripped(target))))


def expanded(b: Builder, x: Wire, size: Sequence[int]) -> Wire:
    """Repeat axes of size one. A size of -1 leaves an axis as it is; axes may be put before all."""
    at = located(x).raised(b, len(size))
    given = at.full(0)
    wanted = [n if m == -1 else m for n, m in zip(given, size, strict=True)]
    return placed(replace(at, node=b.expand(at.node, at.stripped(wanted))))


def aligned(b: Builder, values: Sequence[Any]) -> tuple[list[Any], Batched]:
    """Return wires and constants that broadcast against one another in one number of axes, and where the batch is.

    Constants lose the axis that meets the batch, and what they repeat along it. Refuses batches in different places.
    """
    ranks = [
        v.dim() if isinstance(v, Tensor) else located(v).rank for v in values if is_wire(v) or isinstance(v, Tensor)
    ]
    wires = [located(v).raised(b, max(ranks)) for v in values if is_wire(v)]
    place = wires[0]
    b.require(
        len({(wire.axis, wire.before, wire.after) for wire in wires}) == 1,
        "combines wires with the batch in different places",
        HINT,
    )
    rest = iter(wires)
    made = [
        next(rest).node if is_wire(v) else _without_batch(b, v, place) if isinstance(v, Tensor) else v for v in values
    ]
    return made, place


def _without_batch(b: Builder, constant: Tensor, place: Batched) -> Tensor:
    axis = constant.dim() - (place.rank - place.axis)
    if axis < 0:
        return constant
    if constant.shape[axis] != 1:
        sizes = constant.shape
        alike = constant.reshape(*sizes[:axis], place.before, -1, place.after, *sizes[axis + 1 :])
        first = alike.narrow(axis + 1, 0, 1)
        b.require(bool((alike == first).all()), "has a constant that differs along the batch", HINT)
        constant = first.flatten(axis, axis + 2)
    return constant.squeeze(axis) if place.is_alone else constant
