"""Bringing a value into a narrow range: y = v 16^(J-1-j), where j of J - 1 hinges are reached. Three rounds.

    1. open v^ = v + r             (k bits a value)                 all of v
    2. open the looked-up bits     (one byte a hinge and value)     gives shares of the masked signs    sign.py
    3. open b^_i = b_i xor beta_i  (one bit a hinge and value)      b_i = 1 below hinge i

The signs are those of t - h_i, where t = floor(v^ / 2^g) - floor(r / 2^g) mod 2^(k-g). That is floor((v + u) / 2^g)
with u = r mod 2^g = v^ - v mod 2^g. The mask's upper bits hide t, and its lower bits are the dither u. The dealer fixes
beta_i and beta_i r beside the signs. Each party then computes alone

    [b_i]    =  b^_i + (1 - 2 b^_i) beta_i
    [v b_i]  =  b^_i v + (1 - 2 b^_i) (v^ beta_i - beta_i r)          v = v^ - r
    y        =  v + sum over i of (16^(J-1-i) - 16^(J-2-i)) v b_i     i from 0; 4 in place of 16, and 1 for v: 4^(J-1-j)
    j        =  J - 1 - sum over i of b_i

All of it is linear, so y has v's bits to the last, and the result is a function of v and v^ for every v there is.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan.normalise import STEP_BITS, Normalise
from moiety_shared.protocols import reduce, sign
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring


class PreparedNormalise(NamedTuple):
    """[r]_p (rows, size); the tables and words of `sign`; [beta]_p and [beta r]_p (rows, 2, hinges size)."""

    mask: Array
    tables: Array
    words: Array
    beta: Array


def compared(layer: Normalise, values: Array) -> Array:
    """Drop the bits below the comparison's, of v^ or of r."""
    return reduce.opened_ring(layer).reduce(values, layer.shift)


def gains(layer: Normalise, bits: int) -> list[int]:
    """What a value below hinge i gains, i = 0, 1, ..., where 2^bits is a step."""
    above = [len(layer.hinges) - place for place in range(len(layer.hinges))]
    return [(1 << (bits * steps)) - (1 << (bits * (steps - 1))) for steps in above]


def summed(layer: Normalise, party: int, opened: Array, signs: Array, mask: Array, beta: Array) -> Array:
    """Compute party p's share of y, 4^(J-1-j) and j (rows, 3, size) from v^ (rows, size), the masked signs and the
    dealer's words. The result is not wrapped."""
    rows, size = opened.shape
    flipped = signs.astype(opened.dtype)
    turn = 1 - 2 * flipped
    below = (party * flipped + turn * beta[:, 0]).reshape(rows, -1, size)
    value = party * opened - mask
    each = sign.each_hinge(layer, opened) * beta[:, 0]
    part = (flipped * sign.each_hinge(layer, value) + turn * (each - beta[:, 1])).reshape(rows, -1, size)
    out = np.empty((rows, 3, size), dtype=opened.dtype)
    for place, step, wire, first in ((0, STEP_BITS, part, value), (1, STEP_BITS // 2, below, party)):
        factors = np.array(gains(layer, step)).astype(opened.dtype)[:, None]  # those of eight hinges wrap
        out[:, place] = first + (wire * factors).sum(axis=1, dtype=opened.dtype)
    out[:, 2] = party * len(layer.hinges) - below.sum(axis=1, dtype=opened.dtype)
    return out


def reference(layer: Normalise, v: Array, opened: Array) -> Array:
    """Compute the result on plain ring elements v (rows, *shape), for the v^ that was opened: (rows, 3, *shape)."""
    masked, value = opened.reshape(len(v), -1), v.reshape(len(v), -1)
    small, whole = reduce.opened_ring(layer), Ring(layer.shift + layer.opened_bits)
    t = small.wrap(compared(layer, masked) - compared(layer, whole.wrap(masked - value)))
    beyond = sign.beyond_hinges(layer, small, t)
    below = (beyond >> layer.range_bits & 1).astype(np.uint8)
    nothing = np.zeros((len(v), 2, below.shape[1]), dtype=v.dtype)
    return summed(layer, 1, value, below, np.zeros_like(value), nothing).reshape(len(v), *layer.output_shape)


def deal(dealer: Dealer, layer: Normalise) -> None:
    """Fix the tables of the signs for the upper bits of r, beta, and beta r."""
    r = dealer.mask("value", (layer.size,))
    beta = sign.deal(dealer, layer, sign.each_hinge(layer, compared(layer, r))).astype(r.dtype)
    dealer.fix("beta", np.stack((beta, beta * sign.each_hinge(layer, r)), axis=1))


def prepare(holder: Holder, layer: Normalise) -> PreparedNormalise:
    """Gather party p's randomness for the three openings."""
    mask = holder.mask("value", (layer.size,))
    return PreparedNormalise(mask, *sign.prepare(holder, layer), holder.fixed("beta", (2, layer.comparisons)))


def evaluate(ring: Ring, party: int, layer: Normalise, x: Array, prepared: PreparedNormalise) -> Evaluation:
    """Turn [v]_p (rows, *shape) into [y], [4^(J-1-j)] and [j]_p (rows, 3, *shape). Three openings."""
    opened = yield Opening(ring.wrap(x.reshape(prepared.mask.shape) + prepared.mask), Kind.RING, ring)
    beyond = sign.beyond_hinges(layer, reduce.opened_ring(layer), compared(layer, opened))
    masked = yield from sign.evaluate(party, layer, beyond, prepared.tables, prepared.words)
    signs = yield Opening(masked, Kind.BITS)
    found = summed(layer, party, opened, signs, prepared.mask, prepared.beta)
    return ring.wrap(found).reshape(len(x), *layer.output_shape)
