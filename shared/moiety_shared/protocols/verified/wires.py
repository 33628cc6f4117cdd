"""Wires of a verified run. Each is open: both parties know x^ (rows, *shape), the value under a mask, as int64 of 32
bits.

The mask is the dealer's. Where products read a wire it is *tagged*: both parties hold shares of it, and of its tag.
"""

from typing import NamedTuple

from moiety_shared.ring import Array


class Authentic(NamedTuple):
    """A party's share of words and of their tags, words both (2, ...). The shares are integers below 2^bits."""

    value: Array
    tag: Array
    bits: int


class DealtWire(NamedTuple):
    """What the dealer knows of a wire's mask: its value (rows, *shape), int64 of 32 bits; and, where it is tagged, the
    words (2, rows, *shape) that both shares add up to, integers below 2^bits."""

    low: Array
    words: Array | None = None
    bits: int = 0

    @property
    def tagged(self) -> Array:
        """The words of a wire that products read. Raises ValueError where no party holds shares of them."""
        if self.words is None:
            raise ValueError("a product reads a wire whose mask has no tag")
        return self.words
