"""Max pooling: a knock-out over each window, max(a, b) = b + d (a - b) with d = 1 where a - b >= 0.

The parties open all inputs once, masked, as t^ = t + r mod 2^q. That truncates them; from there on everything is exact,
mod 2^q. The first level needs no further opening for its differences: a^ - b^ is a - b under the mask r_a - r_b. Each
later level opens its own differences under fresh masks. The knock-out goes along the columns first, then along the
rows, so a 3 x 3 window takes 2 comparisons along each axis instead of 8. Where a window hangs over the edge, one of its
own values stands in for each that is missing.

Each level takes three rounds: it opens the masked differences (the first level: the masked inputs), the looked-up bits,
and the masked signs.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import MaxPool
from moiety_shared.protocols import reduce, select, sign
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring


class PreparedMaxPool(NamedTuple):
    """[r]_p (rows, size); the masks of all differences [R]_p (rows, comparisons); the tables and words of `sign`;
    [beta]_p and [beta R]_p (rows, 2, comparisons). All but those of `sign` are mod 2^q."""

    mask: Array
    differences: Array
    tables: Array
    words: Array
    select: Array


def in_play(values: Array, axis: int, taps: Array) -> Array:
    """What a stage begins with (rows, taps, C, H', W'), of values (rows, C, H, W)."""
    return np.stack([values.take(tap, axis=axis) for tap in taps], axis=1)


def paired(alive: Array) -> tuple[Array, Array, Array]:
    """What a level compares, left and right (rows, comparisons), and what waits for the next level. After a level, its
    winners come first, and the values that waited follow them."""
    pairs = alive.shape[1] // 2
    left, right = alive[:, 0 : 2 * pairs : 2], alive[:, 1 : 2 * pairs : 2]
    return left.reshape(len(alive), -1), right.reshape(len(alive), -1), alive[:, 2 * pairs :]


def advanced(winners: Array, rest: Array) -> Array:
    """What is still in play after a level: its winners (rows, comparisons), and what waited."""
    return np.concatenate((winners.reshape(len(rest), -1, *rest.shape[2:]), rest), axis=1)


def first_level(layer: MaxPool, values: Array) -> tuple[Array, Array]:
    """What the first level compares (rows, comparisons), of values (rows, size)."""
    alive = values.reshape(-1, *layer.shape)
    for axis, taps in layer.stages:
        found = in_play(alive, axis, taps)
        if len(taps) > 1:
            break
        alive = found[:, 0]
    return paired(found)[:2]


def _differences(layer: MaxPool, source: Dealer | Holder, r: Array) -> Array:
    """The masks of all differences (rows, comparisons): r_a - r_b at the first level, fresh masks at the others."""
    ring, (left, right) = reduce.opened_ring(layer), first_level(layer, r)
    fresh = source.mask("differences", (layer.comparisons - left.shape[1],), ring)
    return np.concatenate((ring.wrap(left - right), fresh), axis=1)


def deal(dealer: Dealer, layer: MaxPool) -> None:
    """Fix the sign tables of all differences, and what `select` needs to pick the larger value."""
    ring = reduce.opened_ring(layer)
    differences = _differences(layer, dealer, dealer.mask("value", (layer.size,), ring))
    beta = sign.deal(dealer, layer, differences)
    select.deal(dealer, beta, differences, ring)


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
    values, at = values.reshape(-1, *layer.shape), 0
    for axis, taps in layer.stages:
        alive = in_play(values, axis, taps)
        while alive.shape[1] > 1:
            left, right, rest = paired(alive)
            part = slice(at, at + left.shape[1])
            masks = prepared.differences[:, part]
            if at == 0:
                difference = ring.wrap(np.subtract(*first_level(layer, opened)))
            else:
                difference = yield Opening(ring.wrap(left - right + masks), Kind.RING, ring)
            masked = yield from sign.evaluate(
                party, layer, difference, prepared.tables[:, :, part], prepared.words[:, part]
            )
            mine = difference - masks if party == 1 else -masks
            won = yield from select.evaluate(ring, masked, mine, difference, None, prepared.select[:, :, part])
            alive, at = advanced(ring.wrap(won + right), rest), part.stop
        values = alive[:, 0]
    return values
