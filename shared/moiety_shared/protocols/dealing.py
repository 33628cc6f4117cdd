"""Free shares, fixed shares and masks: where both sides of a protocol's randomness come from.

`Dealer` expands both parties' streams; `Holder` expands one and reads the corrections. A protocol's `deal` and
`prepare` name the same arrays on either, so the two cannot drift apart:

    mask(name)   a uniform r = [r]_0 + [r]_1, both halves from the streams: costs nothing to send
    fix(name)    a value the dealer decides: [v]_0 is party 0's stream, [v]_1 = v - [v]_0 travels as correction

All arrays have the row first: (rows, *shape).
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from moiety_shared.ring import Array, Ring


class Source(Protocol):
    """Anything that yields uniform words by name: a `prg.Stream`, or a test's enumeration."""

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array: ...


def uniform(ring: Ring, source: Source, name: str, shape: tuple[int, ...]) -> Array:
    """Uniform ring elements."""
    return ring.wrap(source.words(name, shape, ring.dtype))


class Dealer:
    """The dealer's side of one layer of one bundle. `corrections` collects what party 1 must be sent."""

    def __init__(self, ring: Ring, rows: int, alice: Source, bob: Source, own: Source) -> None:
        self.ring = ring
        self.rows = rows
        self.corrections: dict[str, Array] = {}
        self._alice, self._bob, self._own = alice, bob, own

    def mask(self, name: str, shape: tuple[int, ...], ring: Ring | None = None) -> Array:
        """A uniform mask (rows, *shape) that the parties share freely; in the plan's ring unless another is named."""
        ring = ring or self.ring
        one, other = (uniform(ring, party, name, (self.rows, *shape)) for party in (self._alice, self._bob))
        return ring.wrap(one + other)

    def mask_words(self, name: str, shape: tuple[int, ...]) -> Array:
        """Uniform bytes (rows, *shape) that the parties share freely, by XOR."""
        one, other = (party.words(name, (self.rows, *shape), np.uint8) for party in (self._alice, self._bob))
        return one ^ other

    def secret_bytes(self, name: str, shape: tuple[int, ...]) -> Array:
        """Uniform bytes (rows, *shape) that only the dealer knows."""
        return self._own.words(name, (self.rows, *shape), np.uint8)

    def fix(self, name: str, value: Array, ring: Ring | None = None) -> None:
        """Share `value` additively."""
        ring = ring or self.ring
        self.corrections[name] = ring.wrap(value - uniform(ring, self._alice, name, value.shape))

    def fix_words(self, name: str, value: Array) -> None:
        """Share `value`, words of any integer type, by XOR."""
        self.corrections[name] = value ^ self._alice.words(name, value.shape, value.dtype)


class Holder:
    """Party p's side of the same layer and bundle. Party 1 passes the corrections it was sent."""

    def __init__(self, ring: Ring, party: int, rows: int, stream: Source, corrections: Mapping[str, Array]) -> None:
        self.ring = ring
        self.party = party
        self.rows = rows
        self._stream = stream
        self._corrections = corrections

    def mask(self, name: str, shape: tuple[int, ...], ring: Ring | None = None) -> Array:
        """[r]_p of a mask."""
        return uniform(ring or self.ring, self._stream, name, (self.rows, *shape))

    def mask_words(self, name: str, shape: tuple[int, ...]) -> Array:
        """<r>_p of bytes."""
        return self._stream.words(name, (self.rows, *shape), np.uint8)

    def fixed(self, name: str, shape: tuple[int, ...], ring: Ring | None = None) -> Array:
        """[v]_p of a value the dealer fixed."""
        if self.party == 1:
            return self._corrections[name]
        return uniform(ring or self.ring, self._stream, name, (self.rows, *shape))

    def fixed_words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """<v>_p of words the dealer fixed."""
        if self.party == 1:
            return self._corrections[name]
        return self._stream.words(name, (self.rows, *shape), dtype)
