"""Decisions on an open wire: one bit for each value, opened as a word under the next mask. Three openings.

The parties open the masked sign of each hinge, b^_i = b_i xor beta_i, each under a mask of its own. The XOR of them is
the XOR of all signs under beta, that of all masks. The dealer fixes beta, so the decision d = d^ + (1 - 2 d^) beta is
linear, as in decide.py.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import Decide
from moiety_shared.protocols.decide import together
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.sign import beyond_hinges, each_hinge
from moiety_shared.protocols.verified.comparison import Signs
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, ProvableSigns, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened, unmasked
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.ring import Array


class VerifiedDecide(NamedTuple):
    """The look-ups; [beta] (2, rows, size); the mask of the result (rows, *shape)."""

    signs: ProvableSigns
    beta: Authentic
    mask: Authentic


def deal(dealer: LayerDealer, layer: Decide, y: DealtWire) -> DealtWire:
    """Deal the look-ups of each hinge, and beta."""
    beta = dealer.signs(layer, each_hinge(layer, cut_mask(layer, y.low)))
    dealer.fix("beta", together(layer, beta))
    return dealer.result((dealer.rows, *layer.shape))


def prepare(holder: LayerHolder, layer: Decide, mask: object) -> tuple[VerifiedDecide, Authentic]:
    """Gather party p's randomness for the three openings."""
    result = holder.result((holder.rows, *layer.shape))
    return VerifiedDecide(holder.signs(layer), holder.fixed("beta", (holder.rows, layer.size)), result), result


def evaluate(
    party: RunningParty, layer: Decide, prepared: VerifiedDecide, y: Array
) -> Generator[Opening, Array, Array]:
    """Turn the open y^ (rows, *shape) into the open decisions. Three openings."""
    beyond = beyond_hinges(layer, opened_ring(layer), cut(layer, y))
    signs = yield from Signs(party, layer, prepared.signs).of(beyond)
    public = (together(layer, signs) ^ (len(layer.hinges) & 1)).astype(np.int64)
    pairs = zip(party.one[:2], prepared.beta[:2], strict=True)
    value, tag = (unmasked(one, public, beta).reshape(2, *y.shape) for one, beta in pairs)
    return party.word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))
