"""Turns each open index into a one-hot row, as one_hot.py does, and opens it under the next mask. One opening.

The dealer fixes e, the one-hot row of an index's mask, as words. The row of t is e, reversed and rotated by t^.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import OneHot
from moiety_shared.protocols.one_hot import turned
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.ring import Array


class VerifiedOneHot(NamedTuple):
    """[e] (2, rows, ..., 2^w); the mask of the result (rows, ..., classes)."""

    row: Authentic
    mask: Authentic


def deal(dealer: LayerDealer, layer: OneHot, y: DealtWire) -> DealtWire:
    """Deal e, the one-hot row of each mask."""
    r = cut_mask(layer, y.low).reshape(-1, *layer.shape)
    dealer.fix("row", (np.arange(1 << layer.opened_bits) == r).astype(np.int64))
    return dealer.result((dealer.rows, *layer.output_shape))


def prepare(holder: LayerHolder, layer: OneHot, mask: object) -> tuple[VerifiedOneHot, Authentic]:
    """Gather party p's share of e."""
    result = holder.result((holder.rows, *layer.output_shape))
    return VerifiedOneHot(holder.fixed("row", (holder.rows, *layer.row_shape)), result), result


def evaluate(
    party: RunningParty, layer: OneHot, prepared: VerifiedOneHot, y: Array
) -> Generator[Opening, Array, Array]:
    """Turn the open indices (rows, ..., 1) into the open rows (rows, ..., classes). One opening."""
    places = cut(layer, y).reshape(-1, *layer.shape)
    value, tag = (turned(layer, places, words) for words in prepared.row[:2])
    return party.word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))
