"""Openings of values that are linear in what was dealt, and what is cut from open values.

y^ = y + rho is open, of which the lowest 32 bits are used. The parties cut t^ = floor(y^ mod 2^32 / 2^g) mod 2^q from
it, and the dealer cuts r from rho. With e = rho mod 2^g, t^ - r = floor((y + e) / 2^g) mod 2^q for q <= 32 - g: e is
the dither; no share holds it. (Both parties know y^ mod 2^g, so both know which fractions round up. Neither knows e.)
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from moiety_shared.plan.lookups import Lookup
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.verified.claims import ClaimSums
from moiety_shared.protocols.verified.layer import RunningParty
from moiety_shared.protocols.verified.wires import Authentic
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array


def cut(layer: Lookup, low: Array) -> Array:
    """Cut t^ (rows, size) from the open values y^ (rows, *shape), as elements of the opened ring."""
    return opened_ring(layer).reduce(low, layer.shift).reshape(len(low), -1)


def cut_mask(layer: Lookup, low: Array) -> Array:
    """Cut r (rows, size) from the values of the dealer's mask rho (rows, *shape)."""
    return cut(layer, low)


def scaled(word: Word, one: Array, public: Array) -> Array:
    """Public integers (*shape), int64, as shares of words (2, *shape): multiples of the public 1, (2,)."""
    return word.multiply(one.reshape(2, *[1] * public.ndim), word.of(public))


def unmasked(one: Array, public: Array, beta: Array) -> Array:
    """Words of the bits b = b^ xor beta (2, ...): from the public 1 (2,), b^ (...), int64 of 0 and 1, and [beta]."""
    return (1 - 2 * public) * beta + np.multiply.outer(one, public)


def opened(
    party: RunningParty, name: str, value: Array, tag: Array, mask: Authentic
) -> Generator[Opening, Array, Array]:
    """Open words (2, rows, *shape) under a mask, and return the opened words. `tag` is what the formula of `value`
    makes of tags. One opening."""
    claim = OpeningClaim(name, party.one.tag, tag + mask.tag)
    return (yield Opening(value + mask.value, Kind.WIDE, party.word, claim))


@dataclass(frozen=True)
class OpeningClaim:
    """That the opened words are those whose tag this is, (2, rows, *shape). `one` is Delta_p, words (2,). A run has one
    claim of each name."""

    name: str
    one: Array
    tag: Array

    def settle(self, check: ClaimSums, mine: Array, opened: Array) -> None:
        tag, whole = (words.reshape(2, words.shape[1], -1) for words in (self.tag, opened))
        coins = check.coins.combination(self.name, *tag.shape[1:])
        tags, shown = np.swapaxes(coins.both(tag, whole), 0, 1)
        check.add_words(tags - check.word.multiply(self.one[:, None], shown))
