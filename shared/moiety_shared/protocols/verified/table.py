"""Smooth functions of a short open value, from a one-time one-hot row as table.py has it. Two openings.

    1. f_i(t) xor beta_i     (a bit for each bit of the functions)
    2. f(t) + r'             (a word)

What a party sends of a bit is a sum of bits that the dealer dealt: those of the one-hot row at which f_i(t^ - r) is 1,
and its share of beta_i. These bits are planes (bits.py), so there is a proof for each bit of the functions.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import Table
from moiety_shared.protocols.dealing import Holder
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.protocols.table import deal_words, look_up, prepare_words
from moiety_shared.protocols.verified.bits import ProvableBits, prove
from moiety_shared.protocols.verified.claims import ClaimSums
from moiety_shared.protocols.verified.fields import sum_of_products
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened, scaled, unmasked
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array


class VerifiedTable(NamedTuple):
    """<e>_p (rows, words, size) and <beta>_p (rows, bits, size), and what proves them; [beta] (2, rows, bits, size);
    the mask r' of the result (rows, functions, *shape)."""

    one_hot: Array
    masks: Array
    provable: ProvableBits
    beta: Authentic
    mask: Authentic


def _planes(layer: Table, one_hot: Array, masks: Array) -> Array:
    """A party's shares of all bits: (rows, 2^m + bits, size) of 0 and 1."""
    word = np.dtype(layer.word_dtype).itemsize * 8
    entries = range(1 << layer.opened_bits)
    row = [(one_hot[:, at // word] >> one_hot.dtype.type(at % word) & 1).astype(np.uint8) for at in entries]
    return np.concatenate((np.stack(row, axis=1), masks), axis=1)


def deal(dealer: LayerDealer, layer: Table, y: DealtWire) -> DealtWire:
    """Deal the one-hot row of r, the masks of the functions' bits, and their tags."""
    r = cut_mask(layer, y.low)

    def planes(holder: Holder) -> Array:
        return _planes(layer, *prepare_words(holder, layer))

    dealer.fix("beta", dealer.provable(lambda bits: deal_words(bits, layer, r), planes).astype(np.int64))
    return dealer.result((dealer.rows, *layer.output_shape))


def prepare(holder: LayerHolder, layer: Table, mask: object) -> tuple[VerifiedTable, Authentic]:
    """Gather party p's randomness for both openings."""
    one_hot, masks = prepare_words(holder.ordinary(), layer)
    provable = holder.provable(_planes(layer, one_hot, masks), lambda planes: planes)
    beta = holder.fixed("beta", (holder.rows, sum(layer.widths), layer.size))
    result = holder.result((holder.rows, *layer.output_shape))
    return VerifiedTable(one_hot, masks, provable, beta, result), result


def evaluate(party: RunningParty, layer: Table, prepared: VerifiedTable, y: Array) -> Generator[Opening, Array, Array]:
    """Turn the open y^ (rows, *shape) into the open f(t) (rows, functions, *shape). Two openings."""
    t = cut(layer, y)
    share = look_up(layer, t, prepared.one_hot, prepared.masks)
    bits = (yield Opening(share, Kind.BITS, claim=TableClaim(layer, t, prepared.provable))).astype(np.int64)
    shape = (2, len(t), *layer.output_shape)
    value, tag = (
        _functions(party.word, layer, one, unmasked(one, bits, beta)).reshape(shape)
        for one, beta in zip(party.one[:2], prepared.beta[:2], strict=True)
    )
    return party.word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))


def _functions(word: Word, layer: Table, one: Array, bits: Array) -> Array:
    """Add up the bits (2, rows, bits, size) at their places: (2, rows, functions, size)."""
    found, at = list[Array](), 0
    for values, width in zip(layer.values, layer.widths, strict=True):
        places = 1 << np.arange(width)
        least = scaled(word, one, np.array([[min(values)]]))
        found.append(np.einsum("lrbs,b->lrs", bits[:, :, at : at + width], places) + least)
        at += width
    return np.stack(found, axis=2)


@dataclass(frozen=True)
class TableClaim:
    """That the masked bits of the functions are those of what was dealt, at t^ (rows, size)."""

    layer: Table
    t: Array
    ready: ProvableBits

    def settle(self, check: ClaimSums, mine: Array, opened: Array) -> None:
        layer, size, number, key = self.layer, 1 << self.layer.opened_bits, 0, check.look_ups.key
        index = (self.t.astype(np.int64)[:, None] - np.arange(size)[:, None]) % size  # of f, for each r
        for values, width in zip(layer.values, layer.widths, strict=True):
            above = np.array(values, dtype=np.int64) - min(values)
            for place in range(width):
                chosen = np.ones((len(index), size + 1, layer.size), np.uint8)
                chosen[:, :size] = (above >> place & 1).astype(np.uint8).take(index)
                planes = [*range(size), size + number]
                packed = key.points.packed(chosen)
                expected = sum_of_products(key.of_bits(packed), self.ready.at_point[:, planes])
                further, theirs = self.ready.further[:, planes], (mine ^ opened)[:, number]
                prove(check, f"{layer.name}/{number}", further, packed, expected, theirs)
                number += 1
