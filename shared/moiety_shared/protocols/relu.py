"""ReLU, clamps, and their truncation in one: the sum over hinges h of +-max(0, t - h). Three rounds.

    1. open t^ = t + r             (q bits a wire)                 opening a value truncates it       reduce.py
    2. open the looked-up bits     (one byte a hinge and wire)     gives shares of the masked signs    sign.py
    3. open the masked signs       (one bit)                       keeps or drops the lifted values    select.py

The parties know t^ - h once t^ is open; it is t - h under the same mask. Each hinge has tables and mask bits of its
own. The protocol compares the sign of the truncated value itself, so no term is ever negative.

Sign and lift read the same bits, 0 to B. With v = (t - h) mod 2^(B+1), a term is v where v < 2^B, and else 0. For t - h
in -2^B .. 2^B - 1 that is max(0, t - h). For any other t the term is still a function of t alone. Only a client that
shares more than it may can bring such a t about. A lift mod 2^q instead would make the term depend on r.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import ReLU
from moiety_shared.protocols import reduce, select, sign, truncation
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring, blocks


class PreparedReLU(NamedTuple):
    """[r]_p (rows, size) mod 2^q; the tables and words of `sign`; ([rho]_p, [mu]_p) of the lift; the shares that
    `select` needs."""

    mask: Array
    tables: Array
    words: Array
    lift: Array
    select: Array


def compared_ring(layer: ReLU) -> Ring:
    """The ring of v, Z_{2^(B+1)}."""
    return Ring(layer.range_bits + 1)


def deal(dealer: Dealer, layer: ReLU) -> None:
    """Fix the sign tables of each hinge, the lift, and what `select` needs to keep or drop each term."""
    opened, compared = reduce.opened_ring(layer), compared_ring(layer)
    one, other = dealer.halves("value", (layer.size,), opened)
    beta = sign.deal(dealer, layer, sign.each_hinge(layer, opened.wrap(one + other)))
    rho, m = truncation.deal_lift(dealer, compared, (compared.reduce(one, 0), compared.reduce(other, 0)))
    select.deal(dealer, beta, sign.each_hinge(layer, rho), dealer.ring)
    ring = truncation.lift_ring(compared, dealer.ring)
    dealer.fix_long("carry", (sign.each_hinge(layer, m) * beta).astype(ring.dtype), ring)


def prepare(holder: Holder, layer: ReLU) -> PreparedReLU:
    """Gather party p's randomness for the three openings."""
    mask = holder.mask("value", (layer.size,), reduce.opened_ring(layer))
    tables, words = sign.prepare(holder, layer)
    compared = compared_ring(layer)
    lift = truncation.prepare_lift(holder, compared, compared.reduce(mask, 0))
    carry = holder.fixed_long("carry", (layer.comparisons,), truncation.lift_ring(compared, holder.ring))
    chosen = holder.fixed("select", (2, layer.comparisons)), truncation.above(compared, holder.ring, carry)[:, None]
    return PreparedReLU(mask, tables, words, lift, np.concatenate(chosen, axis=1))


def evaluate(ring: Ring, party: int, layer: ReLU, x: Array, prepared: PreparedReLU) -> Evaluation:
    """Turn [x]_p into a share of the sum over the hinges, both (rows, *shape). Three openings."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    beyond = sign.beyond_hinges(layer, reduce.opened_ring(layer), opened)
    masked = yield from sign.evaluate(party, layer, beyond, prepared.tables, prepared.words)
    compared = compared_ring(layer)
    signs = yield Opening(masked, Kind.BITS)
    total = np.zeros(opened.shape, dtype=ring.dtype)
    for part in blocks(total):
        for hinge in range(len(layer.hinges)):
            at = slice(hinge * layer.size + part.start, hinge * layer.size + part.stop)
            known, carry = truncation.public_parts(compared, ring, compared.reduce(beyond[:, at], 0))
            t = truncation.lifted(ring, party, known, carry, prepared.lift[:, :, part])
            kept = select.kept(ring, signs[:, at], t, known, carry, prepared.select[:, :, at])
            total[:, part] += -kept if hinge % 2 else kept
    return ring.wrap(total).reshape(x.shape)
