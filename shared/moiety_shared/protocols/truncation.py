"""Lifting: from t^ = t + r mod 2^q, which the parties opened, back to shares of t in the plan's ring. With it,
truncation.

As integers in 0 .. 2^q - 1, t^ - r is t or, when the sum wrapped, t - 2^q. For 0 <= t < 2^(q-1) the sum wraps exactly
when msb(r) = 1 and msb(t^) = 0, so in the ring

    t  =  t^  -  r  +  (1 - msb(t^)) * 2^q msb(r)
       = known - rho +      carry    *     mu

with rho = r and mu = 2^q msb(r). Of their shares in the plan's ring, Z_{2^k}, the dealer fixes the bits from q on
alone. The parties' halves of r are integers too: r = r_0 + r_1 - 2^q c, where c is 1 if their sum wraps. The dealer
fixes c and m = msb(r), modulo 2^(k-q), and

    [rho]_p  =  r_p - 2^q [c]_p         [mu]_p  =  2^q [m]_p

Below bit q a party's share of t is -r_0 at alice and t^ - r_1 at bob. Both are uniform whatever t is, also beside t^.

Each party computes the rest alone. ReLU lifts mod 2^(B+1) the values that it found to be 0 <= t < 2^B, so its lift is
exact whatever it is given. Truncate takes |t| < 2^(q-2): it
adds 2^(q-2) to t^ first and subtracts it from the result again. For any other t the result is right mod 2^q only: r
decides which multiple of 2^q comes on top.

No other choice of carry and mu is better. A lift that is a function of t alone is a matrix over t^ and r that is
constant along its diagonals: 0 on those of 0 <= t < 2^(q-1) without a wrap, and 1 on those with one. Beside the last
diagonal that is odd there are 2^(q-1) - 1 even ones, so as many rows are independent mod 2, and the dealer would have
to fix as many words. A lift that is exact for every t therefore takes a comparison.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan.layers import lift_bits
from moiety_shared.plan.lookups import Truncate
from moiety_shared.protocols import reduce
from moiety_shared.protocols.dealing import Dealer, Holder, Words
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring, blocks


class PreparedTruncate(NamedTuple):
    """[r]_p (rows, size) mod 2^q, and ([rho]_p, [mu]_p) as (rows, 2, size) in the plan's ring."""

    mask: Array
    lift: Array


def lift_ring(opened: Ring, ring: Ring) -> Ring:
    """The ring of c and m."""
    return Ring(lift_bits(opened.bits, ring.bits))


def deal_lift(dealer: Dealer, opened: Ring, halves: tuple[Array, Array]) -> tuple[Array, Array]:
    """Fix c and m for the parties' halves of the mask r (rows, size) mod 2^q. Returns rho and m (rows, size), in the
    plan's ring, for `select`."""
    ring = dealer.ring
    total = np.add(*(opened.lift(half, ring) for half in halves))
    words = np.zeros((len(total), 2, total.shape[1]), dtype=lift_ring(opened, ring).dtype)
    rho = ring.wrap(total)
    if opened.bits < ring.bits:  # else nothing lies above the opened bits
        words[:, 0] = ring.bit(total, opened.bits)
        rho &= (1 << opened.bits) - 1
        words[:, 1] = ring.bit(rho, opened.bits - 1)
    dealer.fix_long("lift", words, lift_ring(opened, ring))
    return rho, words[:, 1].astype(ring.dtype)


def above(opened: Ring, ring: Ring, words: Words) -> Array:
    """Turn shares of words of `lift_ring` into shares of 2^q times them, in the plan's ring."""
    raised: Array = words[...].astype(ring.dtype)
    if opened.bits == ring.bits:
        return raised * 0
    raised <<= opened.bits
    return ring.wrap(raised)


def prepare_lift(holder: Holder, opened: Ring, half: Array) -> Array:
    """Compute ([rho]_p, [mu]_p), (rows, 2, size) in the plan's ring, from party p's half of the mask mod 2^q."""
    ring = holder.ring
    lift = above(opened, ring, holder.fixed_long("lift", (2, half.shape[1]), lift_ring(opened, ring)))
    np.subtract(opened.lift(half, ring), lift[:, 0], out=lift[:, 0])
    return ring.wrap(lift)


def public_parts(opened_ring: Ring, ring: Ring, opened: Array) -> tuple[Array, Array]:
    """Compute (known, carry) of the formula above from t^ (rows, size), as elements of the plan's ring."""
    known = opened_ring.lift(opened, ring)
    carry = ring.bit(known, opened_ring.bits - 1)
    carry ^= 1
    return known, carry


def lifted(ring: Ring, party: int, known: Array, carry: Array, lift: Array) -> Array:
    """Compute [t]_p (rows, size). The result is not wrapped."""
    share = carry * lift[:, 1]
    share -= lift[:, 0]
    if party == 1:
        share += known
    return share


def deal(dealer: Dealer, layer: Truncate) -> None:
    """Fix c and m for the mask of the opened values."""
    ring = reduce.opened_ring(layer)
    deal_lift(dealer, ring, dealer.halves("value", (layer.size,), ring))


def prepare(holder: Holder, layer: Truncate) -> PreparedTruncate:
    """Gather party p's mask and its shares of rho and mu."""
    ring = reduce.opened_ring(layer)
    mask = holder.mask("value", (layer.size,), ring)
    return PreparedTruncate(mask, prepare_lift(holder, ring, mask))


def evaluate(ring: Ring, party: int, layer: Truncate, x: Array, prepared: PreparedTruncate) -> Evaluation:
    """Turn [x]_p into [t]_p, both (rows, *shape). One opening."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    small, middle = reduce.opened_ring(layer), 1 << (layer.opened_bits - 2)
    out = np.empty(opened.shape, dtype=ring.dtype)
    for part in blocks(opened):
        known, carry = public_parts(small, ring, small.wrap(opened[:, part] + opened.dtype.type(middle)))
        share = lifted(ring, party, known, carry, prepared.lift[:, :, part])
        out[:, part] = ring.wrap(share - middle if party == 1 else share)
    return out.reshape(x.shape)
