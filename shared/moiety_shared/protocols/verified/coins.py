"""Coins: what both parties draw together after the last opening, and the random combinations that they make of it.

A claim is about n words in each of some rows. The check asks for `VECTORS` combinations of them, sums of
psi_i chi_j v_ij with coins of 16 bits. Take a lie that is a multiple of 2^v in every word, and an odd one in some word.
In one combination it becomes a multiple of 2^(v + j) with probability at most (j + 2) 2^-(j + 1), for j up to 16. It
does so in all four with that to the fourth.
"""

from functools import cached_property

import numpy as np

from moiety_shared.crypto.prg import Stream
from moiety_shared.protocols.verified.bilinear import Weighted, correlated, over_outputs
from moiety_shared.protocols.verified.word import PIECE_BITS, Word, exact_matmul
from moiety_shared.ring import Array

COIN_BITS = 16
VECTORS = 4
"""Combinations of a claim. With one, a lie of 2^31 in a word of 72 bits passes with 2^-33; with four, with 2^-40.4."""
_HALF = COIN_BITS // 2
_PIECE_PRODUCT_BITS = COIN_BITS + PIECE_BITS


class Combination:
    """The coins of one claim, psi (t, rows) and chi (t, n), and what they make of its words."""

    def __init__(self, word: Word, psi: Array, chi: Array) -> None:
        self._word, self._psi, self._chi = word, psi, chi

    def over_rows(self, words: Array) -> Array:
        """sum_i psi_i v_ij: (2, ..., rows, n) to (2, ..., t, n)."""
        psi, pieces = self._psi.astype(np.float64), self._word.pieces(words, self._width)
        return self._of_pieces(exact_matmul(psi, pieces, _PIECE_PRODUCT_BITS))

    def over_columns(self, words: Array) -> Array:
        """sum_j chi_j v_j: (2, ..., t, n) to (2, ..., t)."""
        chi, pieces = self._chi.astype(np.float64)[..., None], self._word.pieces(words, self._width)[..., None, :]
        return self._of_pieces(exact_matmul(pieces, chi, _PIECE_PRODUCT_BITS)[..., 0, 0])

    def _of_pieces(self, sums: Array) -> Array:
        """What sums over pieces (pieces, ...) add up to: words (2, ...)."""
        return self._word.wrap(self._word.placed(list(sums), self._width))

    @property
    def _width(self) -> int:
        return min(PIECE_BITS, self._word.limb)

    def both(self, *words: Array) -> Array:
        """sum_ij psi_i chi_j v_ij, of each array alike: k of (2, rows, n) to (2, k, t)."""
        return self.over_columns(self.over_rows(np.stack(words, axis=1)))

    def inputs(self, layer: Weighted, x: Array, bits: int) -> Array:
        """X of a product, whose rows are places: words (2, rows, *shape) below 2^bits to (2, t, inputs)."""
        return correlated(self._word, layer, self._psi, COIN_BITS, x, bits)

    def of_weight(self, layer: Weighted, weight: Array) -> Array:
        """sum_j chi_j w_ji for a float64 weight of `low` bits: (2, t, inputs)."""
        return self._word.wrap(self._word.placed(list(self._over_outputs(layer, weight, self._word.low)), _HALF))

    def of_tags(self, layer: Weighted, tags: Array) -> Array:
        """sum_j chi_j m_ji for a weight's tags, float64 limbs (2, *weight shape): (2, t, inputs)."""
        low, high = (self._over_outputs(layer, limb, self._word.limb) for limb in tags)
        words = self._word.placed(list(low), _HALF)
        words[1] += high[0] + (high[1] << _HALF)  # it may wrap: 2^64 is a multiple of 2^limb
        return self._word.wrap(words)

    def _over_outputs(self, layer: Weighted, weight: Array, bits: int) -> Array:
        """sum_j chi_j w_ji, for the lower and the upper halves of coins: (2, t, inputs)."""
        return over_outputs(layer, self._halves, weight, bits + _HALF)

    @cached_property
    def _halves(self) -> Array:
        return np.stack((self._chi & ((1 << _HALF) - 1), self._chi >> _HALF)).astype(np.float64)


class Coins:
    """All coins of a run, from a seed to which both parties contributed."""

    def __init__(self, word: Word, seed: bytes) -> None:
        self._word, self._stream = word, Stream(seed, "coins")

    def combination(self, layer: str, rows: int, columns: int) -> Combination:
        """The coins of a layer's claim. Each layer asks once."""
        stream = self._stream.at(layer)
        psi, chi = (
            stream.words(name, (VECTORS, count), np.uint16).astype(np.int64)
            for name, count in (("rows", rows), ("columns", columns))
        )
        return Combination(self._word, psi, chi)

    def field(self, layer: str, count: int) -> Array:
        """Uniform elements of GF(2^64), as (count, 8) bytes."""
        return self._stream.at(layer).words("field", (count, 8), np.uint8)
