"""Masks and fixed shares: the randomness that the dealer and the parties agree on.

A `Dealer` expands the streams of both parties. A `Holder` expands the stream of its own party and reads the corrections
that the dealer sent. A protocol's `deal` and `prepare` ask both for the same arrays by the same names, so the two sides
cannot drift apart:

    mask(name)   a uniform r = [r]_0 + [r]_1; both halves come from the streams, so the dealer sends nothing
    fix(name)    a value that the dealer decides: [v]_0 is party 0's stream, [v]_1 = v - [v]_0 is sent as a correction

In all arrays the first axis is the row: (rows, *shape).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from moiety_shared.arrays import Array
from moiety_shared.plan.layers import upper, upper_dtype

if TYPE_CHECKING:
    from moiety_shared.ring import Ring

_BLOCK = 1 << 15  # words that are whole at a time: few enough that they stay in the cache


class Source(Protocol):
    """Anything that yields uniform words by name, in arrays that the caller may write to: a `prg.Stream`, or the
    enumeration of a test."""

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array: ...


class Addressed(Source, Protocol):
    """A source that has others below it, by their addresses: a `prg.Stream`, or some rows of one."""

    def at(self, *address: str | int) -> Addressed: ...


def uniform(ring: Ring, source: Source, name: str, shape: tuple[int, ...]) -> Array:
    """Draw uniform ring elements of this shape."""
    return ring.wrap(source.words(name, shape, ring.dtype))


@dataclass(frozen=True)
class LongWords:
    """Words of 40 or 48 bits in so much memory: the lower 32 bits of each, int32, and what is above, uint8 or uint16.

    What is read of them is whole, int64: a large model has so many that they are never whole all at a time.
    """

    lower: Array
    upper: Array
    dtype = np.dtype(np.int64)

    def __getitem__(self, at: Any) -> Array:
        """Read words, by any index of an array."""
        return _whole(self.lower[at], self.upper[at])

    def take(self, at: Array, mode: Literal["clip"]) -> Array:
        """Read the words of these places, counted through all axes."""
        return _whole(self.lower.take(at, mode=mode), self.upper.take(at, mode=mode))

    def subtract_from(self, value: Array) -> None:
        """Put value - word, of int64 values of the same shape, in the place of each word."""
        whole, lower, upper = (part.reshape(-1) for part in (value, self.lower, self.upper))
        for at in range(0, len(whole), _BLOCK):
            part = slice(at, at + _BLOCK)
            left = whole[part] - _whole(lower[part], upper[part])
            lower[part], upper[part] = left, left >> 32


Words = Array | LongWords
"""Words of any length: an array, or what is read like one."""


def _whole(lower: Array, upper: Array) -> Array:
    whole = np.empty(lower.shape, dtype=np.int64)
    halves = whole.view(np.int32).reshape(*lower.shape, 2)
    halves[..., 0], halves[..., 1] = lower, upper
    return whole


def _drawn(source: Source, name: str, shape: tuple[int, ...], above: str) -> LongWords:
    return LongWords(source.words(name, shape, np.int32), source.words(upper(name), shape, above))


class Dealer:
    """The dealer's side of one layer of one bundle. `corrections` collects what the dealer must send to party 1."""

    def __init__(self, ring: Ring, rows: int, alice: Source, bob: Source) -> None:
        self.ring = ring
        self.rows = rows
        self.corrections: dict[str, Array] = {}
        self._alice, self._bob = alice, bob

    def mask(self, name: str, shape: tuple[int, ...], ring: Ring | None = None) -> Array:
        """Draw a uniform mask (rows, *shape), in the plan's ring unless `ring` names another. Each party holds an
        additive share of it."""
        ring = ring or self.ring
        one, other = self.halves(name, shape, ring)
        one += other
        return ring.wrap(one)

    def halves(self, name: str, shape: tuple[int, ...], ring: Ring) -> tuple[Array, Array]:
        """Draw the parties' shares of a uniform mask (rows, *shape) of the ring."""
        shape = (self.rows, *shape)
        return uniform(ring, self._alice, name, shape), uniform(ring, self._bob, name, shape)

    def mask_words(self, name: str, shape: tuple[int, ...]) -> Array:
        """Draw uniform bytes (rows, *shape). Each party holds an XOR share of them."""
        one, other = (party.words(name, (self.rows, *shape), np.uint8) for party in (self._alice, self._bob))
        one ^= other
        return one

    def fix(self, name: str, value: Array, ring: Ring | None = None) -> None:
        """Share `value` (rows, *shape) additively, and keep party 1's share as a correction."""
        ring = ring or self.ring
        share = uniform(ring, self._alice, name, value.shape)
        self.corrections[name] = ring.wrap(np.subtract(value, share, out=share))

    def fix_long(self, name: str, value: Array, ring: Ring) -> None:
        """Do as `fix`. Where 5 or 6 bytes hold an element, both shares are `LongWords`."""
        if above := upper_dtype(ring.bits):
            share = _drawn(self._alice, name, value.shape, above)
            share.subtract_from(value)
            self.corrections |= {name: share.lower, upper(name): share.upper}
        else:
            self.fix(name, value, ring)

    def fix_words(self, name: str, value: Array) -> None:
        """Share `value` (rows, *shape), words of any integer type, by XOR, and keep party 1's share as a correction."""
        share = self._alice.words(name, value.shape, value.dtype)
        self.corrections[name] = np.bitwise_xor(value, share, out=share)


class Holder:
    """Party p's side of one layer of one bundle. Party 1 passes the corrections that the dealer sent it."""

    def __init__(self, ring: Ring, party: int, rows: int, stream: Source, corrections: Mapping[str, Array]) -> None:
        self.ring = ring
        self.party = party
        self.rows = rows
        self._stream = stream
        self._corrections = corrections

    def mask(self, name: str, shape: tuple[int, ...], ring: Ring | None = None) -> Array:
        """Return [r]_p (rows, *shape) of a mask."""
        return uniform(ring or self.ring, self._stream, name, (self.rows, *shape))

    def mask_words(self, name: str, shape: tuple[int, ...]) -> Array:
        """Return <r>_p (rows, *shape) of a mask of bytes."""
        return self._stream.words(name, (self.rows, *shape), np.uint8)

    def fixed(self, name: str, shape: tuple[int, ...], ring: Ring | None = None) -> Array:
        """Return [v]_p (rows, *shape) of a value that the dealer fixed."""
        if self.party == 1:
            return self._corrections[name]
        return uniform(ring or self.ring, self._stream, name, (self.rows, *shape))

    def fixed_long(self, name: str, shape: tuple[int, ...], ring: Ring) -> Words:
        """Return [v]_p (rows, *shape) of a value that the dealer fixed by `fix_long`. It is not wrapped."""
        if not (above := upper_dtype(ring.bits)):
            return self.fixed(name, shape, ring)
        if self.party == 1:
            return LongWords(self._corrections[name], self._corrections[upper(name)])
        return _drawn(self._stream, name, (self.rows, *shape), above)

    def fixed_words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return <v>_p (rows, *shape) of words that the dealer fixed."""
        if self.party == 1:
            return self._corrections[name]
        return self._stream.words(name, (self.rows, *shape), dtype)
