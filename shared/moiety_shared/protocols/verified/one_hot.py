"""Turns an open index into a one-hot row, as one_hot.py does, and opens it under the next mask. One opening.

The dealer fixes e, the one-hot row of the index's mask, as words. The row of t is e, reversed and rotated by t^.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import OneHot
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.ring import Array


class VerifiedOneHot(NamedTuple):
    """[e] (2, rows, 2^w); the mask of the result (rows, classes)."""

    row: Authentic
    mask: Authentic


def deal(dealer: LayerDealer, layer: OneHot, y: DealtWire) -> DealtWire:
    """Deal e, the one-hot row of the mask."""
    dealer.fix("row", (np.arange(1 << layer.opened_bits) == cut_mask(layer, y.low)).astype(np.int64))
    return dealer.result((dealer.rows, layer.classes))


def prepare(holder: LayerHolder, layer: OneHot, mask: object) -> tuple[VerifiedOneHot, Authentic]:
    """Gather party p's share of e."""
    result = holder.result((holder.rows, layer.classes))
    return VerifiedOneHot(holder.fixed("row", (holder.rows, 1 << layer.opened_bits)), result), result


def evaluate(
    party: RunningParty, layer: OneHot, prepared: VerifiedOneHot, y: Array
) -> Generator[Opening, Array, Array]:
    """Turn the open index (rows, 1) into the open row (rows, classes). One opening."""
    size = 1 << layer.opened_bits
    places = (cut(layer, y).astype(np.int64) - np.arange(size)) % size
    value, tag = (_turned(layer, words, places) for words in prepared.row[:2])
    return party.word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))


def _turned(layer: OneHot, words: Array, places: Array) -> Array:
    turned = np.take_along_axis(words, places[None], axis=2)
    turned[..., 0] += turned[..., layer.classes :].sum(axis=-1)
    return turned[..., : layer.classes]
