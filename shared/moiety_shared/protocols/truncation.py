"""Truncation, exact for the functionality it states.

For |y| < 2^(k-2), with y^ = y + r opened and u = 2^f - 1 - (y^ mod 2^f), which is public, uniform and independent of y:

    trunc(y) = floor((y + u) / 2^f)

Let y' = y + 2^(k-2), which is positive and below 2^(k-1). y'^ = y' + r wraps exactly when msb(r) = 1 and msb(y'^) = 0:

    trunc(y) = (y'^ >> f) - 2^(k-2-f)  -  (r >> f)  +  (1 - msb(y'^)) * 2^(k-f) msb(r)
             =        known            -    rho     +      carry      *       mu

so what the dealer fixes is rho = r >> f and mu = 2^(k-f) msb(r), and the rest is local.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan import Truncate
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring


class Prepared(NamedTuple):
    """[r]_p (rows, size) and ([rho]_p, [mu]_p) as (rows, 2, size)."""

    mask: Array
    trunc: Array


def deal_trunc(dealer: Dealer, r: Array, frac_bits: int) -> Array:
    """Fix rho and mu for the mask r (rows, size); returns them, (rows, 2, size), for `select`."""
    ring = dealer.ring
    mu = ring.wrap(ring.msb(r) << (ring.bits - frac_bits)) if frac_bits else np.zeros_like(r)
    trunc = np.stack((ring.shift_right(r, frac_bits), mu), axis=1)
    dealer.fix("trunc", trunc)
    return trunc


def public_parts(ring: Ring, opened: Array, frac_bits: int) -> tuple[Array, Array]:
    """(known, carry) of the formula above, for y^ (rows, size)."""
    shifted = ring.wrap(opened + (1 << (ring.bits - 2)))
    known = ring.shift_right(shifted, frac_bits) - (1 << (ring.bits - 2 - frac_bits))
    return known, 1 - ring.msb(shifted)


def deal(dealer: Dealer, layer: Truncate) -> None:
    deal_trunc(dealer, dealer.mask("value", (layer.size,)), layer.frac_bits)


def prepare(holder: Holder, layer: Truncate) -> Prepared:
    return Prepared(holder.mask("value", (layer.size,)), holder.fixed("trunc", (2, layer.size)))


def evaluate(ring: Ring, party: int, layer: Truncate, y: Array, prepared: Prepared) -> Evaluation:
    """[y]_p to [trunc(y)]_p, both (rows, size). One opening."""
    opened = yield Opening(ring.wrap(y + prepared.mask), Kind.RING)
    known, carry = public_parts(ring, opened, layer.frac_bits)
    rho, mu = prepared.trunc[:, 0], prepared.trunc[:, 1]
    return ring.wrap(party * known - rho + carry * mu)
