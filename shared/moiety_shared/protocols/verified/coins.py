"""Coins: what both parties draw together after the last opening, and the random combinations that they make of it.

A claim is about n words in each of some rows. The check asks for `VECTORS` combinations of them, sums of
psi_i chi_j v_ij with coins of 16 bits. Take a lie that is a multiple of 2^v in every word, and an odd one in some word.
In one combination it becomes a multiple of 2^(v + j) with probability at most (j + 2) 2^-(j + 1), for j up to 16. It
does so in all four with that to the fourth.
"""

import numpy as np

from moiety_shared.crypto.prg import Stream
from moiety_shared.protocols.verified.bilinear import Weighted, correlated, over_outputs
from moiety_shared.protocols.verified.word import Word, exact_matmul
from moiety_shared.ring import Array

COIN_BITS = 16
VECTORS = 4
"""Combinations of a claim. With one, a lie of 2^31 in a word of 72 bits passes with 2^-33; with four, with 2^-40.4."""
_HALF = COIN_BITS // 2


class Combination:
    """The coins of one claim, psi (t, rows) and chi (t, n), and what they make of its words."""

    def __init__(self, word: Word, psi: Array, chi: Array) -> None:
        self._word, self._psi, self._chi = word, psi, chi

    def over_columns(self, words: Array) -> Array:
        """sum_j chi_j v_ij: (2, ..., rows, n) to (2, ..., rows, t)."""
        chi = _halves(self._chi).reshape(-1, words.shape[-1])
        sums = exact_matmul(self._word.limbs(words).reshape(-1, words.shape[-1]), chi.T, _HALF + self._word.limb)
        return self._of_halves(*np.split(sums.reshape(*words.shape[:-1], -1), 2, axis=-1))

    def over_rows(self, words: Array) -> Array:
        """sum_i psi_i v_i: (2, ..., rows, t) to (2, ..., t)."""
        psi, limbs = _halves(self._psi), np.swapaxes(self._word.limbs(words), -1, -2)[..., None, :]
        sums = exact_matmul(limbs, np.moveaxis(psi, 0, -1), _HALF + self._word.limb)[..., 0, :]
        return self._of_halves(sums[..., 0], sums[..., 1])

    def _of_halves(self, low: Array, high: Array) -> Array:
        """The words that sums over limbs (2, ...) add up to, of the lower and of the upper halves of coins."""
        words = self._word.placed([low[0], high[0]], _HALF)
        words[1] += low[1] + (high[1] << _HALF)  # it may wrap: 2^64 is a multiple of 2^limb
        return self._word.wrap(words)

    def both(self, *words: Array) -> Array:
        """sum_ij psi_i chi_j v_ij, of each array alike: k of (2, rows, n) to (2, k, t)."""
        return self.over_rows(np.stack([self.over_columns(each) for each in words], axis=1))

    def inputs(self, layer: Weighted, x: Array, bits: int) -> Array:
        """X of a product, whose rows are places: words (2, rows, *shape) below 2^bits to (2, t, inputs)."""
        return correlated(self._word, layer, self._psi, COIN_BITS, x, bits)

    def of_weight(self, layer: Weighted, weight: Array) -> Array:
        """sum_j chi_j w_ji for a float64 weight of `low` bits: (2, t, inputs)."""
        return self._word.wrap(self._word.placed(list(self._over_outputs(layer, weight, self._word.low)), _HALF))

    def of_tags(self, layer: Weighted, tags: Array) -> Array:
        """sum_j chi_j m_ji for a weight's tags, float64 limbs (2, *weight shape): (2, t, inputs)."""
        limbs = np.stack([self._over_outputs(layer, limb, self._word.limb) for limb in tags], axis=1)
        return self._of_halves(*limbs)

    def _over_outputs(self, layer: Weighted, weight: Array, bits: int) -> Array:
        """sum_j chi_j w_ji, for the lower and the upper halves of coins: (2, t, inputs)."""
        return over_outputs(layer, _halves(self._chi), weight, bits + _HALF)


def _halves(coins: Array) -> Array:
    """The lower and the upper halves of coins, float64 (2, ...)."""
    return np.stack((coins & ((1 << _HALF) - 1), coins >> _HALF)).astype(np.float64)


class Coins:
    """All coins of a run, from a seed to which both parties contributed."""

    def __init__(self, word: Word, seed: bytes) -> None:
        self._word, self._stream = word, Stream(seed, "coins")

    def combination(self, layer: str, rows: int, columns: int) -> Combination:
        """The coins of a layer's claim. Each layer asks once."""
        drawn = self._stream.at(layer).words("words", (VECTORS, rows + columns), np.uint16).astype(np.int64)
        return Combination(self._word, drawn[:, :rows], drawn[:, rows:])

    def field(self, layer: str, count: int) -> Array:
        """Uniform elements of GF(2^64), as (count, 8) bytes."""
        return self._stream.at(layer).words("field", (count, 8), np.uint8)
