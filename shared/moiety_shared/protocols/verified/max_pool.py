"""Max pooling of open wires: the knock-out of max_pool.py, whose winners are words. Three openings a level, and one.

The parties cut t^ = t + r mod 2^q from the open y^, so they know a^ - b^, which is a - b under r_a - r_b, of all pairs
of the first level. r is fixed as words R, so p t^ - [R]_p are shares of t. From there on values are words mod 2^72, of
which the lowest q bits are right:

    1. the looked-up bits    (a byte a comparison)     and
    2. the masked signs      (a bit)                   of the differences that are open
    3. D^ = a - b + m        (a word)                  of the winners that the next level compares

m is a free word, as two D may hold the same winners. After the last level the winners are opened under the mask r' of
the result. A winner holds [beta R] of its own last comparison, so r' needs not to be more than a mask.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import MaxPool
from moiety_shared.protocols.max_pool import advanced, first_level, in_play, paired
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.select import kept
from moiety_shared.protocols.verified.comparison import Signs
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, ProvableSigns, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened, scaled
from moiety_shared.protocols.verified.truncation import LIMB
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.ring import Array


class VerifiedMaxPool(NamedTuple):
    """The look-ups; [R] (2, rows, size); the masks m of the differences behind the first level (2, rows, n); [beta] and
    [beta R] of each comparison (2, rows, 2, comparisons); the mask r' of the result (rows, *output shape)."""

    signs: ProvableSigns
    values: Authentic
    differences: Authentic
    select: Authentic
    mask: Authentic


def _later(layer: MaxPool) -> int:
    """The number of comparisons behind the first level."""
    return layer.comparisons - layer.levels[0]


def deal(dealer: LayerDealer, layer: MaxPool, y: DealtWire) -> DealtWire:
    """Deal what all levels compare, and what picks the larger value."""
    ring, r = opened_ring(layer), cut_mask(layer, y.low)
    rows, (left, right) = len(r), first_level(layer, r)
    dealer.fix("values", ring.lift(r, LIMB))
    later = dealer.word.lowest(dealer.free("differences", (rows, _later(layer))))
    masks = np.concatenate((ring.wrap(left - right), ring.reduce(later, 0)), axis=1)
    beta = dealer.signs(layer, masks)
    dealer.fix("select", np.stack((beta, beta * ring.lift(masks, LIMB)), axis=1))
    return dealer.result((rows, *layer.output_shape))


def prepare(holder: LayerHolder, layer: MaxPool, mask: object) -> tuple[VerifiedMaxPool, Authentic]:
    """Gather party p's randomness for all levels."""
    rows, result = holder.rows, holder.result((holder.rows, *layer.output_shape))
    return VerifiedMaxPool(
        holder.signs(layer),
        holder.fixed("values", (rows, layer.size)),
        holder.free("differences", (rows, _later(layer))),
        holder.fixed("select", (rows, 2, layer.comparisons)),
        result,
    ), result


def evaluate(
    party: RunningParty, layer: MaxPool, prepared: VerifiedMaxPool, y: Array
) -> Generator[Opening, Array, Array]:
    """Turn the open y^ (rows, C, H, W) into the open maxima (rows, C, H', W') mod 2^q, under r'."""
    word, ring, t = party.word, opened_ring(layer), cut(layer, y)
    signs, at, rows, known = Signs(party, layer, prepared.signs), 0, len(t), ring.lift(t, LIMB)
    pairs = zip(party.one[:2], prepared.values[:2], strict=True)
    values = np.stack([scaled(word, one, known) - r for one, r in pairs])  # two limbs of t, and two of its tag
    chosen, values = np.stack(prepared.select[:2]).reshape(4, rows, 2, -1), values.reshape(-1, *layer.shape)
    for axis, taps in layer.stages:
        alive = in_play(values, axis, taps)
        while alive.shape[1] > 1:
            left, right, rest = paired(alive)
            shares = (left - right).reshape(4, rows, -1)
            part = slice(at, at + shares.shape[2])
            if at:
                mask = _later_masks(layer, prepared, part)
                whole = yield from opened(party, f"{layer.name}/{at}", shares[:2], shares[2:], mask)
                difference = ring.reduce(word.lowest(whole), 0)
            else:
                difference = ring.wrap(np.subtract(*first_level(layer, t)))
            bits, known = (yield from signs.of(difference)), ring.lift(difference, LIMB)
            won = [
                kept(LIMB, bits, share, known, None, each[:, :, part])
                for share, each in zip(shares, chosen, strict=True)
            ]
            winners = np.stack(won) + right.reshape(shares.shape)
            wrapped = np.concatenate((word.wrap(winners[:2]), word.wrap(winners[2:])))
            alive, at = advanced(wrapped.reshape(4 * rows, -1), rest), part.stop
        values = alive[:, 0]
    words = values.reshape(4, rows, *layer.output_shape)
    return word.lowest((yield from opened(party, layer.name, words[:2], words[2:], prepared.mask)))


def _later_masks(layer: MaxPool, prepared: VerifiedMaxPool, part: slice) -> Authentic:
    """The masks m of a level behind the first."""
    first = layer.levels[0]
    value, tag, bits = prepared.differences
    return Authentic(
        value[..., part.start - first : part.stop - first], tag[..., part.start - first : part.stop - first], bits
    )
