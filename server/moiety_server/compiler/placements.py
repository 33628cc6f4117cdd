"""Operations that put values into public places: gathers, paddings, windows, resizing.

The places are part of the architecture. So each party takes them from its own share: it costs no round and no byte.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import Shape

_MOST = 1 << 16  # places of one layer of a plan
_MODES = {"reflect": "reflect", "replicate": "edge", "edge": "edge", "circular": "wrap", "wrap": "wrap"}


def gather(b: Builder, x: ir.Node, axis: int, places: Tensor) -> ir.Node:
    """Take places along an axis, which becomes as many axes as `places` has."""
    _check(b, places)
    taken = b.take(x, axis, [places.reshape(-1).tolist()])
    return b.reshape(taken, (*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def place(b: Builder, x: ir.Node, places: Tensor) -> ir.Node:
    """Take places of the flattened wire, in the shape that `places` has. A place of -1 is a zero."""
    _check(b, places)
    flat = b.reshape(x, (math.prod(x.shape),))
    if bool((places < 0).any()):
        flat = b.pad(flat, (0,), (1,))
        places = torch.where(places < 0, flat.shape[0] - 1, places)
    return b.reshape(b.take(flat, 0, [places.reshape(-1).tolist()]), tuple(places.shape))


def _check(b: Builder, places: Tensor) -> None:
    """Refuse more places than a plan has, before they become a list."""
    b.require(places.numel() <= _MOST, f"takes {places.numel():,} places, more than {_MOST:,}", "take fewer, or slices")


def numbered(shape: Shape) -> Tensor:
    """The places of a wire of this shape, for a movement to be tried on."""
    return torch.arange(math.prod(shape)).reshape(shape)


def flip(b: Builder, x: ir.Node, axes: Sequence[int]) -> ir.Node:
    for axis in axes:
        x = b.take(x, axis, [range(x.shape[axis] - 1, -1, -1)])
    return x


def roll(b: Builder, x: ir.Node, axis: int, shift: int) -> ir.Node:
    return b.take(x, axis, [np.roll(np.arange(x.shape[axis]), shift).tolist()])


def pad_with_values(b: Builder, x: ir.Node, before: Sequence[int], after: Sequence[int], mode: str) -> ir.Node:
    """Pad by reflection, by the values at the edges, or around. A negative number cuts values off."""
    b.require(mode in _MODES, f"padding mode {mode!r}", "constant, reflect, replicate and circular are served")
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        n = x.shape[axis]
        b.check_size((n + max(low, 0) + max(high, 0),))
        places = np.pad(np.arange(n), (max(low, 0), max(high, 0)), mode=_MODES[mode])  # type: ignore[call-overload]
        places = places[max(-low, 0) : len(places) - max(-high, 0)]
        x = b.take(x, axis, [places.tolist()])
    return x


def windows(b: Builder, x: ir.Node, axis: int, size: int, step: int, dilation: int = 1) -> ir.Node:
    """Cut an axis into windows: it becomes two, the windows and the places within each."""
    count = (x.shape[axis] - dilation * (size - 1) - 1) // step + 1
    b.require(count > 0, f"takes windows of {size} of {x.shape[axis]} values")
    places = torch.arange(count)[:, None] * step + torch.arange(size) * dilation
    return gather(b, x, axis, places)


def columns(b: Builder, x: ir.Node, kernel: ir.Pair, dilation: ir.Pair, padding: ir.Pair, stride: ir.Pair) -> ir.Node:
    """Write each window of (C, H, W) as a column, as torch's Unfold does."""
    b.planes(x, "Unfold")
    x = b.pad(x, (0, *padding), (0, *padding))
    x = windows(b, x, 2, kernel[1], stride[1], dilation[1])
    x = windows(b, x, 1, kernel[0], stride[0], dilation[0])
    channels, rows, height, wide, width = x.shape
    x = b.permute(x, (0, 2, 4, 1, 3))
    return b.reshape(x, (channels * height * width, rows * wide))


def weigh(b: Builder, x: ir.Node, axis: int, matrix: Tensor) -> ir.Node:
    """Multiply an axis by a public matrix (out, in) with few numbers in a row, such as a resizing has."""
    matrix = matrix.double()
    b.require(bool(matrix.isfinite().all()), "weighs by numbers that are not finite")
    most = max(int((matrix != 0).sum(dim=1).max()), 1)
    # The largest ones first; among them are zeros where a row has less.
    order = matrix.abs().argsort(dim=1, descending=True, stable=True)[:, :most].sort(dim=1).values
    factors = matrix.gather(1, order)
    if most == 1 and bool((factors == 1).all()):
        return b.take(x, axis, [order[:, 0].tolist()])
    return b.take(x, axis, order.T.tolist(), factors.T.tolist())


def with_constants(b: Builder, parts: Sequence[ir.Node | Tensor], axis: int) -> ir.Node:
    """Put wires and constants together along an axis. The constants are secret; they are added where zeros were
    padded."""
    first = next(part for part in parts if isinstance(part, ir.Node))
    rest = [n for i, n in enumerate(first.shape) if i != axis]
    sizes = []
    for part in parts:
        fits = len(part.shape) == len(first.shape) and [n for i, n in enumerate(part.shape) if i != axis] == rest
        b.require(fits, f"puts {tuple(part.shape)} together with {first.shape}")
        sizes.append(part.shape[axis])
    wires = [part for part in parts if isinstance(part, ir.Node)]
    if len(wires) == len(parts):
        return b.concat(wires, axis)
    padded: list[ir.Node] = []
    added = torch.zeros(*first.shape[:axis], sum(sizes), *first.shape[axis + 1 :], dtype=torch.float64)
    held = start = 0  # zeros in front of the next wire
    for part, size in zip(parts, sizes, strict=True):
        if isinstance(part, ir.Node):
            padded.append(b.pad(part, [held if a == axis else 0 for a in range(len(rest) + 1)], [0] * (len(rest) + 1)))
            held = 0
        else:
            added.narrow(axis, start, size).copy_(part)
            held += size
        start += size
    if held:
        padded[-1] = b.pad(padded[-1], [0] * (len(rest) + 1), [held if a == axis else 0 for a in range(len(rest) + 1)])
    return b.affine(b.concat(padded, axis), shift=added)
