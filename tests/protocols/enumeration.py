"""Randomness that is enumerated instead of drawn: every row of a batch is one assignment of all of it."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moiety_shared.ring import Array


def grid(*sizes: int) -> list[Array]:
    """All combinations of 0 .. size-1, one flat column for each size."""
    return [axis.reshape(-1) for axis in np.indices(sizes, dtype=np.int64)]


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


def histogram(*columns: Array, bits: int | tuple[int, ...]) -> Array:
    """How often each combination of the columns occurs; a column's values have `bits` bits at most."""
    widths = (bits,) * len(columns) if isinstance(bits, int) else bits
    code = np.zeros(columns[0].size, dtype=np.int64)
    for column, width in zip(columns, widths, strict=True):
        assert column.min() >= 0 and column.max() < 1 << width
        code = (code << width) | column.reshape(-1).astype(np.int64)
    return np.bincount(code, minlength=1 << sum(widths)).astype(np.int32)


class Leak(AssertionError):
    """Two secrets give a party different views."""


def assert_same_views(views: dict[object, Array]) -> None:
    """Raises Leak unless the histogram is the same for every secret."""
    first = next(iter(views.values()))
    for secret, view in views.items():
        if not np.array_equal(view, first):
            raise Leak(f"the view for secret {secret} differs")
