"""ReLU, its clipped kin and truncation in one: the sum over hinges h of +-max(0, t - h). Three rounds.

    1. open t^ = t + r             (q bits a wire)                 t is truncated by being opened      reduce.py
    2. open the looked-up bits     (one byte a hinge and wire)     gives shares of the masked signs    sign.py
    3. open the masked signs       (one bit)                       keeps or drops the lifted values    select.py

t - h is open as t^ - h under the same mask; each hinge has tables and mask bits of its own. The sign that is compared
is the sign of the truncated value itself, so no term is ever negative.

Sign and lift read the same bits, 0 to B: with v = (t - h) mod 2^(B+1), a term is v where v < 2^B and else 0. For t - h
in -2^B .. 2^B - 1 that is max(0, t - h); for any other t, which only a client can bring about that shares more than it
may, it is still a function of t alone. Lifted mod 2^q instead, it would depend on r.
"""

from typing import NamedTuple

from moiety_shared.plan.lookups import ReLU
from moiety_shared.protocols import reduce, select, sign, truncation
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring


class PreparedReLU(NamedTuple):
    """[r]_p (rows, size) mod 2^q; sign's tables and monomials; ([rho]_p, [mu]_p); select's shares."""

    mask: Array
    tables: Array
    monomials: Array
    lift: Array
    select: Array


def compared_ring(layer: ReLU) -> Ring:
    """Z_{2^(B+1)}, in which v lies."""
    return Ring(layer.range_bits + 1)


def deal(dealer: Dealer, layer: ReLU) -> None:
    r = dealer.mask("value", (layer.size,), reduce.opened_ring(layer))
    beta = sign.deal(dealer, layer, sign.each_hinge(layer, r))
    compared = compared_ring(layer)
    lift = truncation.deal_lift(dealer, compared, compared.reduce(r, 0))
    select.deal(dealer, beta, sign.each_hinge(layer, lift), dealer.ring)


def prepare(holder: Holder, layer: ReLU) -> PreparedReLU:
    mask = holder.mask("value", (layer.size,), reduce.opened_ring(layer))
    tables, monomials = sign.prepare(holder, layer)
    lift = holder.fixed("lift", (2, layer.size))
    return PreparedReLU(mask, tables, monomials, lift, holder.fixed("select", (3, layer.comparisons)))


def evaluate(ring: Ring, party: int, layer: ReLU, x: Array, prepared: PreparedReLU) -> Evaluation:
    """[x]_p to the sum of the hinges' shares, both (rows, *shape). Three openings."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    beyond = sign.beyond_hinges(layer, reduce.opened_ring(layer), opened)
    masked = yield from sign.evaluate(party, layer, beyond, prepared.tables, prepared.monomials)
    compared = compared_ring(layer)
    known, carry = truncation.public_parts(compared, ring, compared.reduce(beyond, 0))
    t = truncation.lifted(ring, party, known, carry, sign.each_hinge(layer, prepared.lift))
    kept = yield from select.evaluate(ring, masked, t, known, carry, prepared.select)
    hinges = kept.reshape(len(kept), len(layer.hinges), *x.shape[1:])
    total = hinges[:, 0]
    for index in range(1, len(layer.hinges)):
        total = total - hinges[:, index] if index % 2 else total + hinges[:, index]
    return ring.wrap(total)
