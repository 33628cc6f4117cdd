"""Authenticated values: the dealer deals a value and its tag, and each party holds a share of both.

The tag of d is Delta d, where Delta = Delta_0 + Delta_1 belongs to an upload and party p holds Delta_p. Three kinds:

    mask(name)       the integer r = [r]_0 + [r]_1 of two shares of 32 bits; both come from streams
    free(name)       a uniform word; both shares come from streams
    fix(name, low)   a word whose value the dealer decides; what lies above the value is uniform

alice's shares are all streams. bob is sent the tags, 9 bytes each, and 4 bytes for each fixed value. The tags have
streams of their own: whoever learns the stream of a mask, as a client does, learns nothing about tags.

A mask covers 32 bits and no more. What is opened under it has to hold a fixed word of its own, that nothing else which
is opened under a mask holds: its upper bits cover the others. A free word covers all.
"""

from collections.abc import Mapping

import numpy as np

from moiety_shared.protocols.dealing import Source
from moiety_shared.protocols.verified.wires import Authentic
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array


class AuthenticDealer:
    """The dealer's side of one layer. `corrections` collects what bob is sent."""

    def __init__(self, word: Word, delta: Array, alice: Source, bob: Source) -> None:
        """`delta` is Delta, words (2,)."""
        self.word, self.corrections = word, dict[str, Array]()
        self._delta, self._alice, self._bob = delta, alice, bob

    def mask(self, name: str, shape: tuple[int, ...]) -> Array:
        """Draw r, words (2, *shape): integers of one bit more than a share has."""
        return self.given(name, *(self.word.uniform_low(source, name, shape) for source in (self._alice, self._bob)))

    def given(self, name: str, one: Array, other: Array) -> Array:
        """Deal the tags of a mask whose shares are drawn already: its words (2, *shape)."""
        words = self.word.of(one + other)
        self.authenticate(name, words)
        return words

    def free(self, name: str, shape: tuple[int, ...]) -> Array:
        """Draw uniform words (2, *shape)."""
        words = self.word.uniform(self._alice, name, shape) + self.word.uniform(self._bob, name, shape)
        self.authenticate(name, words)
        return self.word.wrap(words)

    def fix(self, name: str, low: Array) -> Array:
        """Deal words (2, *shape) whose values are `low`, int64, and whose upper bits are uniform."""
        word = self.word
        one, other = (word.uniform(source, name, low.shape) for source in (self._alice, self._bob))
        correction = (low - one[0]) & ((1 << word.low) - 1)
        self.corrections[f"{name} low"] = correction.astype(np.uint32)
        words = word.wrap(one + _with_value(word, other, correction))
        self.authenticate(name, words)
        return words

    def authenticate(self, name: str, words: Array) -> None:
        """Deal the tags of words that the parties hold already."""
        tags = self.word.multiply(self._delta.reshape(2, *[1] * (words.ndim - 1)), words)
        tags -= self.word.uniform(self._alice, f"{name} tag", words.shape[1:])
        self.corrections[f"{name} tag"], self.corrections[f"{name} tag top"] = self.word.joined(tags)


class AuthenticHolder:
    """Party p's side of one layer. bob passes the corrections that the dealer sent him."""

    def __init__(self, word: Word, party: int, stream: Source, corrections: Mapping[str, Array]) -> None:
        self.word, self.party = word, party
        self._stream, self._corrections = stream, corrections

    def mask(self, name: str, shape: tuple[int, ...]) -> Authentic:
        """Return the share of a mask and its tag, words (2, *shape)."""
        return self.given(name, self.word.uniform_low(self._stream, name, shape))

    def given(self, name: str, share: Array) -> Authentic:
        """Return the share of a mask that is drawn already, int64 of 32 bits, as words, and its tag."""
        return Authentic(self.word.of(share), self.tag(name, share.shape), self.word.low)

    def free(self, name: str, shape: tuple[int, ...]) -> Authentic:
        """Return the share of a free word, and its tag."""
        return Authentic(self.word.uniform(self._stream, name, shape), self.tag(name, shape), self.word.bits)

    def fixed(self, name: str, shape: tuple[int, ...]) -> Authentic:
        """Return the share of a word whose value the dealer fixed, and its tag."""
        share = self.word.uniform(self._stream, name, shape)
        if self.party == 1:
            share = _with_value(self.word, share, self._corrections[f"{name} low"].astype(np.int64))
        return Authentic(self.word.wrap(share), self.tag(name, shape), self.word.bits)

    def tag(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return the share of the tags of words that the party holds already, as words (2, *shape)."""
        if self.party == 0:
            return self.word.uniform(self._stream, f"{name} tag", shape)
        return self.word.parted(self._corrections[f"{name} tag"], self._corrections[f"{name} tag top"])


def _with_value(word: Word, words: Array, value: Array) -> Array:
    """Replace the lowest bits of words."""
    out = words.copy()
    out[0] += value - word.lowest(words)
    return out
