"""Decisions: one bit for each value, as a ring element. Three rounds.

    1. open t^ = t + r             (q bits a wire)                                                 reduce.py
    2. open the looked-up bits     (one byte a hinge and wire)    gives shares of the masked signs  sign.py
    3. open b^ = b xor beta        (one bit a wire)               b, the XOR of all hinges' signs

The parties XOR the masked signs of all hinges before they open them, and the dealer XORs the masks. So they open one
bit of the decision, under the mask beta, and no single sign. A sign is 1 where t is below its hinge. The decision d is
b, inverted where the number of hinges is odd. Each party then computes d = d^ + (1 - 2 d^) beta alone, from the
dealer's shares of beta. d is 0 or 1 whatever t is, so a sum of decisions is a count.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import Decide
from moiety_shared.protocols import reduce, sign
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring


class PreparedDecide(NamedTuple):
    """[r]_p (rows, size) mod 2^q; the tables and words of `sign`; [beta]_p (rows, size) in the plan's ring."""

    mask: Array
    tables: Array
    words: Array
    beta: Array


def together(layer: Decide, bits: Array) -> Array:
    """XOR the bits of the hinges: (rows, hinges * size) to (rows, size)."""
    together: Array = np.bitwise_xor.reduce(bits.reshape(len(bits), len(layer.hinges), layer.size), axis=1)
    return together


def deal(dealer: Dealer, layer: Decide) -> None:
    """Fix the tables of the signs, and shares of beta (rows, size), the XOR of the hinges' sign masks."""
    r = dealer.mask("value", (layer.size,), reduce.opened_ring(layer))
    beta = sign.deal(dealer, layer, sign.each_hinge(layer, r))
    dealer.fix("beta", together(layer, beta).astype(dealer.ring.dtype))


def prepare(holder: Holder, layer: Decide) -> PreparedDecide:
    """Gather party p's randomness for the three openings."""
    mask = holder.mask("value", (layer.size,), reduce.opened_ring(layer))
    return PreparedDecide(mask, *sign.prepare(holder, layer), holder.fixed("beta", (layer.size,)))


def evaluate(ring: Ring, party: int, layer: Decide, x: Array, prepared: PreparedDecide) -> Evaluation:
    """Turn [x]_p into [d]_p, both (rows, *shape). Three openings."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    beyond = sign.beyond_hinges(layer, reduce.opened_ring(layer), opened)
    masked = yield from sign.evaluate(party, layer, beyond, prepared.tables, prepared.words)
    bits = yield Opening(together(layer, masked), Kind.BITS)
    public: Array = (bits ^ (len(layer.hinges) & 1)).astype(ring.dtype)
    return ring.wrap((1 - 2 * public) * prepared.beta + party * public).reshape(x.shape)
