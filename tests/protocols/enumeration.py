"""Randomness that is enumerated instead of drawn: every row of a batch is one assignment of all of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moiety_shared.ring import Array


@dataclass
class Tape:
    """A `Source` that returns prepared columns by name, and zeros for names it does not know.

    A name may be drawn once, as from a stream.
    """

    columns: dict[str, Array] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        assert name not in self.drawn, f"{name} drawn twice"
        self.drawn.append(name)
        if name not in self.columns:
            return np.zeros(shape, dtype=dtype)
        return self.columns[name].reshape(shape).astype(dtype)


@dataclass(frozen=True)
class Axis:
    """`count` words of `bits` bits, which somebody's stream yields under a name."""

    name: str
    count: int
    bits: int


def enumerate_axes(axes: Iterable[Axis]) -> list[Array]:
    """Every combination of the words of all axes: one (rows, count) array for each axis."""
    widths = [(axis.count, axis.bits) for axis in axes]
    index = np.arange(1 << sum(count * bits for count, bits in widths), dtype=np.int64)
    columns, at = [], 0
    for count, bits in widths:
        places = at + bits * np.arange(count)
        columns.append((index[:, None] >> places) & ((1 << bits) - 1))
        at += count * bits
    return columns


Column = tuple[Array, int]
"""Something a party sees, (rows, ...), and how many bits each of its words has."""


def histogram(columns: Iterable[Column]) -> Array:
    """How often each combination of what a party sees occurs."""
    code, width = np.zeros(1, dtype=np.int64), 0
    for column, bits in columns:
        assert column.min() >= 0 and column.max() < 1 << bits
        for word in column.reshape(len(column), -1).T.astype(np.int64):
            code, width = (code << bits) | word, width + bits
    return np.bincount(code, minlength=1 << width).astype(np.int32)


class Leak(AssertionError):
    """Two secrets give a party different views."""


@dataclass
class Views:
    """What one party sees, secret by secret."""

    party: str
    first: Array | None = None

    def add(self, secret: object, seen: Array) -> None:
        """Raises Leak when the histogram is not that of the secrets before."""
        if self.first is None:
            self.first = seen
        if not np.array_equal(self.first, seen):
            raise Leak(f"what {self.party} sees for secret {secret} differs")

    def assert_uniform(self) -> None:
        """Every view occurs, and all equally often."""
        assert self.first is not None and self.first.min() == self.first.max() > 0
