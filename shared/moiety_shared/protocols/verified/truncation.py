"""Truncation of an open wire, and fresh masks for one: the result is opened under the next mask (1 round).

    Truncate    h^ = t + r', with t lifted from t^ = t + r as truncation.py lifts it
    Reshare     h^ = y + r', with y = y^ - R for a fixed word R that has the value of y's mask

A client knows the mask of its input, and with it the dither of what would read it. Reshare gives the wire another one.
"""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.layers import Reshare
from moiety_shared.plan.lookups import Truncate
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.truncation import lifted, public_parts
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened, scaled
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array, Ring

LIMB = Ring(64)
"""A limb's ring for formulas of one ring. It does not wrap: words do, when they are opened."""


class VerifiedLift(NamedTuple):
    """([r], [mu]) of a Truncate, words (2, rows, 2, size), or [R] of a Reshare (2, rows, *shape); the mask r' of the
    result (rows, *shape)."""

    lift: Authentic
    mask: Authentic


def lift_of(small: Ring, r: Array) -> Array:
    """What the dealer fixes to lift values mod 2^q under masks r (rows, n): r and mu, int64 (rows, 2, n)."""
    low = small.lift(small.reduce(r, 0), LIMB)
    return np.stack((low, (low >> (small.bits - 1)) << small.bits), axis=1)


def deal(dealer: LayerDealer, layer: Truncate | Reshare, y: DealtWire) -> DealtWire:
    """Deal the lift, or the word R, and the mask r'."""
    dealer.fix("lift", lift_of(opened_ring(layer), cut_mask(layer, y.low)) if isinstance(layer, Truncate) else y.low)
    return dealer.result((dealer.rows, *layer.shape))


def prepare(holder: LayerHolder, layer: Truncate | Reshare, mask: object) -> tuple[VerifiedLift, Authentic]:
    """Gather party p's randomness."""
    rows, result = holder.rows, holder.result((holder.rows, *layer.shape))
    shape = (rows, 2, layer.size) if isinstance(layer, Truncate) else (rows, *layer.shape)
    return VerifiedLift(holder.fixed("lift", shape), result), result


def added_up(prepared: VerifiedLift, starts: Sequence[int]) -> VerifiedLift:
    """What a Reshare needs for the sums of some rows' wires each, (sums, *shape): the sums of R, and the masks of the
    rows that the sums begin with, which are those of numbers `starts`."""
    (value, tag, bits), mask = prepared
    lift = Authentic(np.add.reduceat(value, starts, axis=1), np.add.reduceat(tag, starts, axis=1), bits)
    return VerifiedLift(lift, Authentic(mask.value[:, starts], mask.tag[:, starts], mask.bits))


def evaluate(
    party: RunningParty, layer: Truncate | Reshare, prepared: VerifiedLift, y: Array
) -> Generator[Opening, Array, Array]:
    """Turn the open y^ (rows, *shape) into the open wire h^. One opening."""
    value, tag = (
        _lifted(party.word, layer, one, lift, y) for one, lift in zip(party.one[:2], prepared.lift[:2], strict=True)
    )
    return party.word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))


def _lifted(word: Word, layer: Truncate | Reshare, one: Array, lift: Array, y: Array) -> Array:
    """Compute t or y, words (2, rows, *shape), from the public 1 (2,) and what was dealt."""
    if isinstance(layer, Reshare):
        return scaled(word, one, y) - lift
    small, middle = opened_ring(layer), 1 << (layer.opened_bits - 2)
    t = cut(layer, y)
    known, carry = public_parts(small, LIMB, small.wrap(t + t.dtype.type(middle)))
    share = [lifted(LIMB, 0, known, carry, limb) for limb in lift]
    return (np.stack(share) + scaled(word, one, known - middle)).reshape(2, *y.shape)
