"""Lifting: from t^ = t + r mod 2^q, which the parties opened, back to shares of t in the plan's ring. With it,
truncation.

As integers in 0 .. 2^q - 1, t^ - r is t or, when the sum wrapped, t - 2^q. For 0 <= t < 2^(q-1) the sum wraps exactly
when msb(r) = 1 and msb(t^) = 0, so in the ring

    t  =  t^  -  r  +  (1 - msb(t^)) * 2^q msb(r)
       = known - rho +      carry    *     mu

where the dealer fixes rho = r and mu = 2^q msb(r), and each party computes the rest alone. ReLU lifts mod 2^(B+1) the
values that it found to be 0 <= t < 2^B, so its lift is exact whatever it is given. Truncate takes |t| < 2^(q-2): it
adds 2^(q-2) to t^ first and subtracts it from the result again. For any other t the result is right mod 2^q only: r
decides which multiple of 2^q comes on top.

No other choice of carry and mu is better. A lift that is a function of t alone is a matrix over t^ and r that is
constant along its diagonals: 0 on those of 0 <= t < 2^(q-1) without a wrap, and 1 on those with one. Beside the last
diagonal that is odd there are 2^(q-1) - 1 even ones, so as many rows are independent mod 2, and the dealer would have
to fix as many words. A lift that is exact for every t therefore takes a comparison.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import Truncate
from moiety_shared.protocols import reduce
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring, blocks


class PreparedTruncate(NamedTuple):
    """[r]_p (rows, size) mod 2^q, and ([rho]_p, [mu]_p) as (rows, 2, size) in the plan's ring."""

    mask: Array
    lift: Array


def deal_lift(dealer: Dealer, opened: Ring, r: Array) -> Array:
    """Fix rho and mu for the mask r (rows, size). Returns both, (rows, 2, size), for `select`."""
    ring = dealer.ring
    lift = np.empty((len(r), 2, r.shape[1]), dtype=ring.dtype)
    lift[:, 0] = opened.lift(r, ring)
    lift[:, 1] = ring.wrap((lift[:, 0] >> (opened.bits - 1)) << opened.bits) if opened.bits < ring.bits else 0
    dealer.fix("lift", lift)
    return lift


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
    """Fix rho and mu for the mask of the opened values."""
    ring = reduce.opened_ring(layer)
    deal_lift(dealer, ring, dealer.mask("value", (layer.size,), ring))


def prepare(holder: Holder, layer: Truncate) -> PreparedTruncate:
    """Gather party p's mask and its shares of rho and mu."""
    mask = holder.mask("value", (layer.size,), reduce.opened_ring(layer))
    return PreparedTruncate(mask, holder.fixed("lift", (2, layer.size)))


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
