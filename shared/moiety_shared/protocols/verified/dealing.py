"""Authenticated values: the dealer deals a value and its tag, and each party holds a share of both.

The tag of d is Delta d, where Delta = Delta_0 + Delta_1 belongs to an upload and party p holds Delta_p. Three kinds:

    mask(name)       the integer r = [r]_0 + [r]_1 of two shares of 32 bits; both come from streams
    free(name)       a uniform word; both shares come from streams
    fix(name, low)   a word whose value the dealer decides; what lies above the value is uniform

alice's shares are all streams. bob is sent the tags, 9 bytes each, and 4 bytes for each fixed value. The tags have
streams of their own: whoever learns the stream of a mask, as a client does, learns nothing about tags.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from moiety_shared.protocols.dealing import Source
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array


class Authentic(NamedTuple):
    """A party's share of a value and of its tag. The tag is words; a mask's share is int64 of 32 bits, others words."""

    value: Array
    tag: Array


class AuthenticDealer:
    """The dealer's side of one layer. `corrections` collects what bob is sent."""

    def __init__(self, word: Word, delta: Array, alice: Source, bob: Source) -> None:
        """`delta` is Delta, words (2,)."""
        self.corrections: dict[str, Array] = {}
        self._word, self._delta, self._alice, self._bob = word, delta, alice, bob

    def mask(self, name: str, shape: tuple[int, ...]) -> Array:
        """Draw r (*shape), int64 of one bit more than a share has."""
        r = self._word.uniform_low(self._alice, name, shape) + self._word.uniform_low(self._bob, name, shape)
        self.authenticate(name, self._word.of(r))
        return r

    def free(self, name: str, shape: tuple[int, ...]) -> Array:
        """Draw uniform words (2, *shape)."""
        words = self._word.uniform(self._alice, name, shape) + self._word.uniform(self._bob, name, shape)
        self.authenticate(name, words)
        return self._word.wrap(words)

    def fix(self, name: str, low: Array) -> Array:
        """Deal words (2, *shape) whose values are `low`, int64, and whose upper bits are uniform."""
        word = self._word
        one, other = (word.uniform(source, name, low.shape) for source in (self._alice, self._bob))
        correction = (low - one[0]) & ((1 << word.low) - 1)
        self.corrections[f"{name} low"] = correction.astype(np.uint32)
        words = word.wrap(one + _with_value(word, other, correction))
        self.authenticate(name, words)
        return words

    def authenticate(self, name: str, words: Array) -> None:
        """Deal the tags of words that the parties hold already."""
        tags = self._word.multiply(self._delta.reshape(2, *[1] * (words.ndim - 1)), words)
        tags -= self._word.uniform(self._alice, f"{name} tag", words.shape[1:])
        self.corrections[f"{name} tag"], self.corrections[f"{name} tag top"] = self._word.joined(tags)


class AuthenticHolder:
    """Party p's side of one layer. bob passes the corrections that the dealer sent him."""

    def __init__(self, word: Word, party: int, stream: Source, corrections: Mapping[str, Array]) -> None:
        self._word, self._party, self._stream, self._corrections = word, party, stream, corrections

    def mask(self, name: str, shape: tuple[int, ...]) -> Authentic:
        """Return [r]_p (*shape) of a mask, and its tag."""
        return Authentic(self._word.uniform_low(self._stream, name, shape), self.tag(name, shape))

    def free(self, name: str, shape: tuple[int, ...]) -> Authentic:
        """Return the share of a free word, and its tag."""
        return Authentic(self._word.uniform(self._stream, name, shape), self.tag(name, shape))

    def fixed(self, name: str, shape: tuple[int, ...]) -> Authentic:
        """Return the share of a word whose value the dealer fixed, and its tag."""
        share = self._word.uniform(self._stream, name, shape)
        if self._party == 1:
            share = _with_value(self._word, share, self._corrections[f"{name} low"].astype(np.int64))
        return Authentic(share, self.tag(name, shape))

    def tag(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return the share of the tags of words that the party holds already, as words (2, *shape)."""
        if self._party == 0:
            return self._word.uniform(self._stream, f"{name} tag", shape)
        return self._word.parted(self._corrections[f"{name} tag"], self._corrections[f"{name} tag top"])


def _with_value(word: Word, words: Array, value: Array) -> Array:
    """Replace the lowest bits of words."""
    out = words.copy()
    out[0] += value - word.lowest(words)
    return out
