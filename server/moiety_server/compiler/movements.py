"""Nodes that only move values. Each returns its input where it would change nothing."""

import math
from collections.abc import Sequence
from itertools import pairwise

from moiety_server.compiler import ir
from moiety_server.compiler.draft import Draft
from moiety_server.compiler.ir import Pair

_MOST_PARTS = 256  # a plan has no more
_MOST_PLACES = 1 << 16  # a plan has no more


class Movements(Draft):
    """A graph under construction, and the methods that append nodes which move values."""

    def reshape(self, x: ir.Node, shape: Sequence[int]) -> ir.Node:
        self.require(
            math.prod(shape) == math.prod(x.shape), f"reshapes {x.shape} to {tuple(shape)}, which mixes up the batch"
        )
        if isinstance(x, ir.ReshapeNode):
            x = self.nodes[x.inputs[0]]
        return x if x.shape == tuple(shape) else self._add(ir.ReshapeNode(**self._head(shape, x)))

    def permute(self, x: ir.Node, order: Sequence[int]) -> ir.Node:
        """Permute the axes. `order` leaves the batch out. Where only axes of size one move, the node is a Reshape."""
        shape = [x.shape[axis] for axis in order]
        moved = [axis for axis in order if x.shape[axis] != 1]
        if moved == sorted(moved):
            return self.reshape(x, shape)
        if isinstance(x, ir.PermuteNode):
            source = self.nodes[x.inputs[0]]
            return self.permute(source, [x.order[axis] for axis in order])
        return self._add(ir.PermuteNode(**self._head(shape, x), order=tuple(order)))

    def slice(self, x: ir.Node, axis: int, start: int, stop: int, step: int = 1) -> ir.Node:
        """Take a slice. The limits are those of Python, but none is negative."""
        stop = min(stop, x.shape[axis])
        self.require(0 <= start < stop and step >= 1, f"takes an empty or reversed slice {start}:{stop}:{step}")
        if (start, stop, step) == (0, x.shape[axis], 1):
            return x
        shape = (*x.shape[:axis], len(range(start, stop, step)), *x.shape[axis + 1 :])
        return self._add(ir.SliceNode(**self._head(shape, x), axis=axis, start=start, stop=stop, step=step))

    def take(
        self, x: ir.Node, axis: int, places: Sequence[Sequence[int]], factors: Sequence[Sequence[float]] = ()
    ) -> ir.Node:
        """Take public places along an axis; see ir.TakeNode. Negative places count from the end, as in Python. Places
        at one distance become a slice."""
        n = x.shape[axis]
        self.require(all(-n <= i < n for one in places for i in one), f"takes places outside of the {n} there are")
        found = tuple(tuple(int(i) % n for i in one) for one in places)
        steps = {later - earlier for earlier, later in pairwise(found[0])} or {1}
        self.require(bool(found[0]), "takes nothing")
        if not factors and len(steps) == 1 and min(steps) > 0:
            return self.slice(x, axis, found[0][0], found[0][-1] + 1, steps.pop())
        self.require(
            len(found) <= _MOST_PARTS and max(map(len, found)) <= _MOST_PLACES,
            f"takes {len(found)} x {len(found[0])} places, more than {_MOST_PARTS} x {_MOST_PLACES}",
        )
        shape = (*x.shape[:axis], len(found[0]), *x.shape[axis + 1 :])
        weights = tuple(tuple(map(float, one)) for one in factors)
        return self._add(ir.TakeNode(**self._head(shape, x), axis=axis, places=found, factors=weights))

    def concat(self, parts: Sequence[ir.Node], axis: int) -> ir.Node:
        if len(parts) == 1:
            return parts[0]
        self.require(len(parts) <= _MOST_PARTS, f"puts {len(parts)} parts together, more than {_MOST_PARTS}")
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        return self._add(ir.ConcatNode(**self._head(shape, *parts), axis=axis))

    def pad(self, x: ir.Node, before: Sequence[int], after: Sequence[int]) -> ir.Node:
        """Pad with zeros. A negative number cuts values off, as in torch."""
        for axis, (low, high) in enumerate(zip(before, after, strict=True)):
            x = self.slice(x, axis, max(0, -low), x.shape[axis] - max(0, -high))
        front, back = tuple(max(0, n) for n in before), tuple(max(0, n) for n in after)
        if not any(front + back):
            return x
        shape = [f + n + b for f, n, b in zip(front, x.shape, back, strict=True)]
        return self._add(ir.PadNode(**self._head(shape, x), before=front, after=back))

    def upsample(self, x: ir.Node, factors: Pair) -> ir.Node:
        self.planes(x, "an upsampling")
        shape = (x.shape[0], x.shape[1] * factors[0], x.shape[2] * factors[1])
        return x if factors == (1, 1) else self._add(ir.UpsampleNode(**self._head(shape, x), factors=factors))

    def expand(self, x: ir.Node, shape: Sequence[int]) -> ir.Node:
        """Repeat axes of size one until x has this shape."""
        self.check_size(shape)
        x = self.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
        for axis, n in enumerate(shape):
            if x.shape[axis] != n:
                self.require(x.shape[axis] == 1, f"{x.shape} does not broadcast to {tuple(shape)}")
                x = self.concat([x] * n, axis)
        return x
