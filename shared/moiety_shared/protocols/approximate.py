"""What the layers that sum the dealer's words have in common: Waves, Exp2 and Pieces. One round.

    1. open t^ = t + r mod 2^q      q <= 16 bits: opening the input truncates it to so few

The dealer fixes words for the mask r, and the parties add up multiples of their shares that t^ decides.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from moiety_shared.plan.approximate import Approximate
from moiety_shared.protocols import reduce
from moiety_shared.protocols.dealing import Dealer, Holder, LongWords, Words
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring

Summing = TypeVar("Summing", bound=Approximate)


class PreparedSum(NamedTuple):
    """[r]_p (rows, size) mod 2^q, and the shares of the dealer's words (rows, words, size) mod 2^word_bits: their lower
    bits, and what `LongWords` have above, (rows, 0) for others."""

    mask: Array
    lower: Array
    upper: Array

    @property
    def words(self) -> Words:
        return LongWords(self.lower, self.upper) if self.upper.size else self.lower


def deal(dealer: Dealer, layer: Summing, every_word: Callable[[Summing, Array], Array]) -> None:
    """Fix the words for the mask r (rows, size)."""
    opened = reduce.opened_ring(layer)
    r = opened.lift(dealer.mask("value", (layer.size,), opened), Ring(64))
    dealer.fix_long("words", every_word(layer, r), Ring(layer.word_bits))


def prepare(holder: Holder, layer: Approximate) -> PreparedSum:
    """Gather party p's shares of r and of the words."""
    mask = holder.mask("value", (layer.size,), reduce.opened_ring(layer))
    words = holder.fixed_long("words", (layer.words, layer.size), Ring(layer.word_bits))
    if isinstance(words, LongWords):
        return PreparedSum(mask, words.lower, words.upper)
    return PreparedSum(mask, words, np.empty((holder.rows, 0), dtype=np.uint8))


def evaluate(
    party: int,
    layer: Summing,
    x: Array,
    prepared: PreparedSum,
    summed: Callable[[Summing, int, Array, Words], Array],
) -> Evaluation:
    """Turn [x]_p (rows, *shape) into [f]_p (rows, *shape) mod 2^word_bits. One opening."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    return Ring(layer.word_bits).wrap(summed(layer, party, opened, prepared.words)).reshape(x.shape)
