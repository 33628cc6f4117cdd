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
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from moiety_shared.arrays import Array
from moiety_shared.plan.layers import upper, upper_dtype

if TYPE_CHECKING:
    from moiety_shared.ring import Ring


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
        one, other = (uniform(ring, party, name, (self.rows, *shape)) for party in (self._alice, self._bob))
        one += other
        return ring.wrap(one)

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
        """Do as `fix`, and send as many bytes as hold an element where these are 5 or 6."""
        self.fix(name, value, ring)
        if above := upper_dtype(ring.bits):
            whole = self.corrections[name]
            self.corrections |= {name: whole.astype(np.int32), upper(name): (whole >> 32).astype(above)}

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

    def fixed_long(self, name: str, shape: tuple[int, ...], ring: Ring) -> Array:
        """Return [v]_p (rows, *shape) of a value that the dealer fixed by `fix_long`."""
        found = self.fixed(name, shape, ring)
        if self.party == 0 or not upper_dtype(ring.bits):
            return found
        whole = self._corrections[upper(name)].astype(np.int64)
        whole <<= 32
        whole |= found.view(np.uint32)
        return whole

    def fixed_words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Return <v>_p (rows, *shape) of words that the dealer fixed."""
        if self.party == 1:
            return self._corrections[name]
        return self._stream.words(name, (self.rows, *shape), dtype)
