"""Coins: what both parties draw together after the last opening, and the random combinations that they make of it.

A claim is about n words in each of some rows. The check asks for `VECTORS` combinations of them, sums of
psi_i chi_j v_ij with coins of 16 bits. Take a lie that is a multiple of 2^v in every word, and an odd one in some word.
In one combination it becomes a multiple of 2^(v + j) with probability at most (j + 2) 2^-(j + 1), for j up to 16. It
does so in all four with that to the fourth.
"""

from collections.abc import Iterable, Iterator
from functools import reduce

import numpy as np

from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.layers import Conv
from moiety_shared.protocols.verified.bilinear import Weighted, correlated, over_outputs
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array

COIN_BITS = 16
VECTORS = 4
"""Combinations of a claim. With one, a lie of 2^31 in a word of 72 bits passes with 2^-33; with four, with 2^-40.4."""
_TOGETHER = 1 << 11  # products of a coin and a limb of 36 bits: int64 holds the sum of so many


class Combination:
    """The coins of one claim, psi (t, rows) and chi (t, n), and what they make of its words."""

    def __init__(self, word: Word, psi: Array, chi: Array) -> None:
        self._word, self._psi, self._chi = word, psi, chi

    def over_columns(self, words: Array) -> Array:
        """sum_j chi_j v_ij: (2, ..., rows, n) to (2, ..., rows, t)."""
        whole, chi = self._word.wrap(words), self._chi.T
        return self._added(whole[..., part] @ chi[part] for part in _parts(len(chi)))

    def over_rows(self, words: Array) -> Array:
        """sum_i psi_i v_i: (2, ..., rows, t) to (2, ..., t)."""
        whole, psi = self._word.wrap(words), self._psi.T
        return self._added((whole[..., part, :] * psi[part]).sum(axis=-2) for part in _parts(len(psi)))

    def _added(self, sums: Iterable[Array]) -> Array:
        """Add up words whose lower limbs int64 holds. The upper ones may wrap: 2^64 is a multiple of 2^limb."""
        return self._word.wrap(reduce(np.add, map(self._word.wrap, sums)))

    def both(self, *words: Array) -> Array:
        """sum_ij psi_i chi_j v_ij, of each array alike: k of (2, rows, n) to (2, k, t)."""
        return self.over_rows(np.stack([self.over_columns(each) for each in words], axis=1))

    def inputs(self, layer: Weighted, x: Array, bits: int) -> Array:
        """X of a product, whose rows are places: words (2, rows, *shape) below 2^bits to (2, t, inputs)."""
        word, psi = self._word, self._psi
        if isinstance(layer, Conv):
            return correlated(word, layer, psi, COIN_BITS, x, bits)
        flat, parts = x.reshape(2, -1, layer.shape[-1]), _parts(psi.shape[1])
        if bits <= word.limb:
            return self._added(word.of(psi[:, part] @ flat[0, part]) for part in parts)
        whole = word.wrap(flat)
        return self._added(np.einsum("ti,lij->ltj", psi[:, part], whole[:, part]) for part in parts)

    def of_weight(self, layer: Weighted, weight: Array) -> Array:
        """sum_j chi_j w_ji for a float64 weight of `low` bits: (2, t, inputs)."""
        return self._added(map(self._word.of, self._over_outputs(layer, weight, self._word.low)))

    def of_tags(self, layer: Weighted, tags: Array) -> Array:
        """sum_j chi_j m_ji for a weight's tags, float64 limbs (2, *weight shape): (2, t, inputs)."""
        limbs = (self._over_outputs(layer, limb, self._word.limb) for limb in tags)
        return self._added(map(np.stack, zip(*limbs, strict=True)))

    def _over_outputs(self, layer: Weighted, weight: Array, bits: int) -> Iterator[Array]:
        return over_outputs(layer, self._chi, COIN_BITS, weight, bits)


def _parts(count: int) -> Iterator[slice]:
    """Cut so many products into parts that can be added up."""
    return (slice(at, at + _TOGETHER) for at in range(0, count, _TOGETHER))


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
