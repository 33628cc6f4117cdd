"""Waves, powers of two and pieces of an open wire: sums of the dealer's words times public numbers. One opening.

The parties cut t^ from the open y^ (opened.py), and the dealer makes the words of waves.py, exp2.py and pieces.py for
the mask r of it. The claim is the sum run on tags:

    Waves     f + z = constant + sum over waves of cos(t^) p + sin(t^) o + z
    Exp2      f + z = A[w] W[v] + z
    Pieces    f + z = sum over i of round(2^a (w / 2^h)^i) c_i[v] + z

The public factors may all be even, or 0: what lies above the values in the dealer's words then covers nothing of what
the sum carries. So z is a word, and no mask of 33 bits. Results are right modulo 2^word_bits, as without verification.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.waves import Waves
from moiety_shared.protocols import exp2, pieces, waves
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened, scaled
from moiety_shared.protocols.verified.truncation import LIMB
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array, Ring

Summed = Waves | Exp2 | Pieces


class VerifiedSum(NamedTuple):
    """The dealer's words (2, rows, words, size), and the mask z of the result (rows, *shape)."""

    words: Authentic
    mask: Authentic


def deal(dealer: LayerDealer, layer: Summed, y: DealtWire) -> DealtWire:
    """Deal the words for the mask r, and z."""
    r = opened_ring(layer).lift(cut_mask(layer, y.low), LIMB)
    match layer:
        case Waves():
            words = waves.every_word(layer, r)
        case Exp2():
            words = exp2.every_word(layer, r)
        case Pieces():
            words = pieces.every_word(layer, r)
    dealer.fix("words", words.astype(np.int64))
    return dealer.covered((dealer.rows, *layer.shape))


def prepare(holder: LayerHolder, layer: Summed, mask: object) -> tuple[VerifiedSum, Authentic]:
    """Gather party p's randomness."""
    result = holder.covered((holder.rows, *layer.shape))
    return VerifiedSum(holder.fixed("words", (holder.rows, layer.words, layer.size)), result), result


def evaluate(party: RunningParty, layer: Summed, prepared: VerifiedSum, y: Array) -> Generator[Opening, Array, Array]:
    """Turn the open y^ (rows, *shape) into the open sum. One opening."""
    t = opened_ring(layer).lift(cut(layer, y), LIMB)
    value, tag = (
        _summed(party.word, layer, one, t, words).reshape(2, *y.shape)
        for one, words in zip(party.one[:2], prepared.words[:2], strict=True)
    )
    return party.word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))


def _summed(word: Word, layer: Summed, one: Array, t: Array, words: Array) -> Array:
    """Compute the sum (2, rows, size) from t^ (rows, size), int64 from 0 on, the public 1 (2,) and the dealer's words
    (2, rows, words, size)."""
    match layer:
        case Waves():
            return _waves(word, layer, t, words) + scaled(word, one, np.array([[layer.constant]]))
        case Exp2():
            return _power(word, layer, t, words)
        case Pieces():
            return _polynomial(layer, t, words)


def _waves(word: Word, layer: Waves, t: Array, words: Array) -> Array:
    total, turned = np.zeros((2, *t.shape), dtype=np.int64), np.zeros_like(t)
    for index, wave in enumerate(layer.waves):
        turned = (turned + t) & ((1 << layer.opened_bits) - 1)
        for at, table in enumerate(
            waves.tables(layer.opened_bits, wave.table_bits, Ring(layer.word_bits)), start=2 * index
        ):
            total += table.take(turned) * words[:, :, at]
        total = word.wrap(total)  # two products of 36 and 24 bits fit int64 beside it
    return total


def _power(word: Word, layer: Exp2, t: Array, words: Array) -> Array:
    at, ring = t & ((1 << layer.span_bits) - 1), Ring(layer.word_bits)
    factor = exp2.table(layer.octave_bits, layer.span_bits, layer.table_bits, ring).take(at).astype(np.int64)
    chosen = np.take_along_axis(words, (t >> layer.span_bits)[None, :, None], axis=2)[:, :, 0]
    return word.multiply(chosen, word.of(factor))


def _polynomial(layer: Pieces, t: Array, words: Array) -> Array:
    rows, size = t.shape
    at, ring = t & ((1 << layer.piece) - 1), Ring(layer.word_bits)
    by_piece = words.reshape(2, rows, layer.degree + 1, 1 << layer.piece_bits, size)
    chosen = np.take_along_axis(by_piece, (t >> layer.piece)[None, :, None, None], axis=3)[:, :, :, 0]
    total: Array = chosen[:, :, 0] << layer.table_bits
    for power in range(1, layer.degree + 1):
        total += pieces.powers(layer.piece, layer.table_bits, power, ring).take(at) * chosen[:, :, power]
    return total
