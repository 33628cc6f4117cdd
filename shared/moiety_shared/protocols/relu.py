"""ReLU and truncation in one: max(0, floor((y + u) / 2^f)), three rounds.

    1. open y^ = y + r             (one ring element a wire)   gives truncation's public parts, and the digits
    2. open the looked-up bits     (one byte a wire)           gives shares of the masked sign        sign.py
    3. open the masked sign        (one bit a wire)            keeps or drops the truncated value     select.py

The sign that is compared is the sign of the truncated value itself, so the result is never negative.
"""

from typing import NamedTuple

from moiety_shared.plan import ReLU
from moiety_shared.protocols import select, sign, truncation
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring


class Prepared(NamedTuple):
    """[r]_p (rows, size), then what sign and select prepared."""

    mask: Array
    tables: Array
    monomials: Array
    kept: Array
    change: Array


def deal(dealer: Dealer, layer: ReLU) -> None:
    r = dealer.mask("value", (layer.size,))
    beta = sign.deal(dealer, layer, r)
    select.deal(dealer, beta, truncation.deal_trunc(dealer, r, layer.frac_bits))


def prepare(holder: Holder, layer: ReLU) -> Prepared:
    mask = holder.mask("value", (layer.size,))
    trunc = holder.fixed("trunc", (2, layer.size))
    return Prepared(mask, *sign.prepare(holder, layer), *select.prepare(holder, layer.size, trunc))


def evaluate(ring: Ring, party: int, layer: ReLU, y: Array, prepared: Prepared) -> Evaluation:
    """[y]_p to [max(0, trunc(y))]_p, both (rows, size). Three openings."""
    opened = yield Opening(ring.wrap(y + prepared.mask), Kind.RING)
    known, carry = truncation.public_parts(ring, opened, layer.frac_bits)
    masked_sign = yield from sign.evaluate(party, layer, opened, sign.Prepared(prepared.tables, prepared.monomials))
    return (
        yield from select.evaluate(ring, masked_sign, known, carry, select.Prepared(prepared.kept, prepared.change))
    )
