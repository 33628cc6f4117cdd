"""Max pooling: a knock-out over each window, max(a, b) = b + d (a - b) with d = 1 where a - b >= 0.

The parties open all inputs once, masked, as t^ = t + r mod 2^q. That truncates them; from there on everything is exact,
mod 2^q. The first level needs no further opening for its differences: a^ - b^ is a - b under the mask r_a - r_b. Each
later level opens its own differences under fresh masks. The knock-out goes along the columns first, then along the
rows, so a 3 x 3 window takes 2 comparisons along each axis instead of 8. Where a window hangs over the edge, one of its
own values stands in for each that is missing.

Each level takes three rounds: it opens the masked differences (the first level: the masked inputs), the looked-up bits,
and the masked signs.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import MaxPool
from moiety_shared.protocols import reduce, select, sign
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring


class Level(NamedTuple):
    """Positions among the values still in play: those that this level compares, and those that wait for the next
    level."""

    left: Array
    right: Array
    rest: Array


class PreparedMaxPool(NamedTuple):
    """[r]_p (rows, size); the masks of all differences [R]_p (rows, comparisons); the tables and monomials of `sign`;
    [beta]_p and [beta R]_p (rows, 2, comparisons). All but those of `sign` are mod 2^q."""

    mask: Array
    differences: Array
    tables: Array
    monomials: Array
    select: Array


@cache
def knock_out(layer: MaxPool) -> tuple[Level, ...]:
    """The levels in order. After a level, its winners come first, and the values that waited follow them."""
    channels, height, width = layer.shape
    grid = np.arange(layer.size).reshape(layer.shape)
    columns = _taps(width, layer.output_size[1], layer.kernel[1], layer.stride[1], layer.padding[1], layer.dilation[1])
    rows = _taps(height, layer.output_size[0], layer.kernel[0], layer.stride[0], layer.padding[0], layer.dilation[0])
    if layer.kernel[0] == 1:  # rows that no window reads drop out at once
        return tuple(_levels([grid[:, rows[0]][:, :, c] for c in columns]))
    first = _levels([grid[:, :, c] for c in columns])
    if first:
        grid = np.arange(channels * height * layer.output_size[1]).reshape(channels, height, -1)
    else:
        grid = grid[:, :, columns[0]]
    return (*first, *_levels([grid[:, r] for r in rows]))


def _taps(size: int, places: int, kernel: int, stride: int, padding: int, dilation: int) -> list[Array]:
    """For each tap of the window, the index that it reads at every place. The index is always inside of the input."""
    at = np.arange(places) * stride - padding
    taps = [at + k * dilation for k in range(kernel)]
    inside = [(tap >= 0) & (tap < size) for tap in taps]
    valid = np.select(inside, taps)  # the first tap that is inside stands in for those that are not
    return [np.where(ok, tap, valid) for ok, tap in zip(inside, taps, strict=True)]


def _levels(taps: Sequence[Array]) -> list[Level]:
    alive = [tap.reshape(-1) for tap in taps]
    nothing = np.zeros(0, dtype=np.int64)
    levels = []
    while len(alive) > 1:
        pairs = len(alive) // 2
        odd = alive[2 * pairs :]
        left, right = np.concatenate(alive[0 : 2 * pairs : 2]), np.concatenate(alive[1 : 2 * pairs : 2])
        levels.append(Level(left, right, odd[0] if odd else nothing))
        alive = np.split(np.arange(len(left) + sum(map(len, odd))), pairs + len(odd))
    return levels


def _differences(layer: MaxPool, source: Dealer | Holder, r: Array) -> Array:
    """The masks of all differences (rows, comparisons): r_a - r_b at the first level, fresh masks at the others."""
    ring, (first, *_) = reduce.opened_ring(layer), knock_out(layer)
    fresh = source.mask("differences", (layer.comparisons - len(first.left),), ring)
    return np.concatenate((ring.wrap(r[:, first.left] - r[:, first.right]), fresh), axis=1)


def deal(dealer: Dealer, layer: MaxPool) -> None:
    """Fix the sign tables of all differences, and what `select` needs to pick the larger value."""
    ring = reduce.opened_ring(layer)
    differences = _differences(layer, dealer, dealer.mask("value", (layer.size,), ring))
    beta = sign.deal(dealer, layer, differences)
    select.deal(dealer, beta, differences[:, None], ring)


def prepare(holder: Holder, layer: MaxPool) -> PreparedMaxPool:
    """Gather party p's randomness for all levels."""
    ring = reduce.opened_ring(layer)
    mask = holder.mask("value", (layer.size,), ring)
    differences = _differences(layer, holder, mask)
    return PreparedMaxPool(
        mask, differences, *sign.prepare(holder, layer), holder.fixed("select", (2, layer.comparisons), ring)
    )


def evaluate(ring: Ring, party: int, layer: MaxPool, x: Array, prepared: PreparedMaxPool) -> Evaluation:
    """Turn [x]_p (rows, C, H, W) into [max]_p (rows, C, H', W') mod 2^q. `ring` is Z_{2^q}. Three openings a level."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    values = ring.wrap(opened - prepared.mask) if party == 1 else ring.wrap(-prepared.mask)
    at = 0
    for level in knock_out(layer):
        part = slice(at, at + len(level.left))
        masks, right = prepared.differences[:, part], values.take(level.right, axis=1)
        if at == 0:
            difference = ring.wrap(opened.take(level.left, axis=1) - opened.take(level.right, axis=1))
        else:
            share = values.take(level.left, axis=1) - right
            difference = yield Opening(ring.wrap(share + masks), Kind.RING, ring)
        masked = yield from sign.evaluate(
            party, layer, difference, prepared.tables[:, :, part], prepared.monomials[:, part]
        )
        mine = difference - masks if party == 1 else -masks
        won = yield from select.evaluate(ring, masked, mine, difference, None, prepared.select[:, :, part])
        winners = ring.wrap(won + right)
        values = np.concatenate((winners, values.take(level.rest, axis=1)), axis=1) if len(level.rest) else winners
        at = part.stop
    return values.reshape(len(x), *layer.output_shape)
