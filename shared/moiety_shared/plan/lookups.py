"""The layers that look values up. Each opens the upper bits of a share under a mask, and uses the masked value as an
index into one-time tables."""

import math
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import FailFast, Field, model_validator

from moiety_shared.plan.layers import (
    Correction,
    Image,
    Pads,
    Pair,
    Shape,
    Unary,
    Wire,
    lift_bits,
    packed,
    ring_bytes,
    ring_dtype,
    word_corrections,
)

Shift = Annotated[int, Field(ge=0, le=62)]
Bits = Annotated[int, Field(ge=2, le=64)]
Indices = npt.NDArray[np.intp]
Values = Annotated[tuple[int, ...], Field(max_length=1024), FailFast()]

MAX_DIGITS = 4  # with more, the looked-up bits of a comparison would not fit one byte


class Lookup(Unary):
    """Base of the layers that open bits shift .. shift + opened_bits - 1 of a share, under a mask.

    To drop the low bits of both shares costs nothing and truncates. What the parties open, masked, is t = floor((x + u)
    / 2^shift) mod 2^opened_bits. Here u = 2^shift - 1 - (the low bits of alice's share) is uniform whatever x is. See
    protocols.reduce.
    """

    shift: Shift
    opened_bits: Bits

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        if inputs[0].kind != "share" or self.shift + self.opened_bits > inputs[0].bits:
            raise ValueError("opens more bits than the share has")
        return Wire(self.output_shape, ring_bits)


class Truncate(Lookup):
    """The signed value t itself, back in the plan's ring. Needs |t| < 2^(opened_bits - 2). 1 round."""

    op: Literal["truncate"] = "truncate"

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return word_corrections("lift", (2, self.size), lift_bits(self.opened_bits, ring_bits))

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        return (rows * self.size * ring_bytes(self.opened_bits),)


class Comparison(Lookup):
    """Base of the layers that need the signs of values opened under masks.

    Every value v that is compared has -2^B <= v < 2^B, where B is `range_bits`. So the comparison reads bits 0 .. B - 1
    only, cut into digits of at most `digit_bits` bits.
    """

    range_bits: Annotated[int, Field(ge=1, le=62)]
    digit_bits: Annotated[int, Field(ge=1, le=5)] = 4

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.range_bits >= self.opened_bits:
            raise ValueError("range_bits must be below opened_bits")
        if len(self.digits) > MAX_DIGITS:
            raise ValueError(f"more than {MAX_DIGITS} digits")
        return self

    @cached_property
    def digits(self) -> tuple[tuple[int, int], ...]:
        """The (lowest bit, number of bits) of each digit, lowest digit first."""
        starts = range(0, self.range_bits, self.digit_bits)
        return tuple((at, min(self.digit_bits, self.range_bits - at)) for at in starts)

    @property
    def lookups(self) -> int:
        """The number of bits that each comparison looks up: for each digit whether it is less, and for each but the
        lowest whether it is equal."""
        return 2 * len(self.digits) - 1

    @property
    def table_dtype(self) -> str:
        """The word that holds one table of 2^digit_bits bits."""
        return f"<u{max(1, 2**self.digit_bits // 8)}"

    @property
    def monomials(self) -> int:
        """The number of products of two and more mask bits that the sign polynomial needs; see protocols.sign."""
        whole, upper = 1 << len(self.digits), 1 << (len(self.digits) - 1)
        return (whole - 1) + (upper - 1) - self.lookups

    @property
    def monomial_dtype(self) -> str:
        """The word that holds the monomials."""
        return "<u1" if self.monomials <= 8 else "<u2"

    @property
    def word_dtype(self) -> str:
        """The word that holds the mask bits, the monomials and the bit for the public part."""
        bits = self.lookups + 1 + self.monomials + 1
        return "<u1" if bits <= 8 else "<u2" if bits <= 16 else "<u4"

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (
            Correction("tables", (len(self.digits), self.comparisons), self.table_dtype),
            Correction("monomials", (self.comparisons,), self.monomial_dtype),
        )

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        """The parties open the masked values, then a byte of looked-up bits for each comparison, then a packed bit for
        each."""
        signs = rows * self.comparisons
        return rows * self.size * ring_bytes(self.opened_bits), signs, packed(signs)


class Hinged(Comparison):
    """Base of the layers that compare each value with several public ones."""

    hinges: Annotated[tuple[int, ...], FailFast()] = Field((0,), min_length=1, max_length=8)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(not -(1 << (self.opened_bits - 1)) <= hinge < 1 << (self.opened_bits - 1) for hinge in self.hinges):
            raise ValueError("a hinge lies beyond the opened bits")
        return self

    @property
    def comparisons(self) -> int:
        return self.size * len(self.hinges)


class ReLU(Hinged):
    """The sum over hinges h_0, h_1, ... of +-max(0, t - h_i), signs alternating from +. 3 rounds.

    One hinge at 0 is ReLU; 0 and c clip between 0 and c.
    """

    op: Literal["relu"] = "relu"

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        above = lift_bits(self.range_bits + 1, ring_bits)
        return (
            *super().corrections(ring_bits),
            *word_corrections("lift", (2, self.size), above),
            Correction("select", (2, self.comparisons), ring_dtype(ring_bits)),
            *word_corrections("carry", (self.comparisons,), above),
        )


class Decide(Hinged):
    """1 where t reaches an odd number of the hinges, else 0, in the plan's ring. 3 rounds.

    One hinge h says t >= h; two hinges h < g say h <= t < g.
    """

    op: Literal["decide"] = "decide"

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (*super().corrections(ring_bits), Correction("beta", (self.size,), ring_dtype(ring_bits)))

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        """The parties open the signs of all hinges as one bit."""
        values, looked_up, _ = super().openings(ring_bits, rows)
        return values, looked_up, packed(rows * self.size)


class MaxPool(Comparison):
    """The largest t of each window. Places that a window has outside of the input do not count. The result stays mod
    2^opened_bits.

    The plan states `output_size`: windows may hang over the lower and right edge, as with ceil_mode. `range_bits`
    bounds differences. The knock-out goes along the columns first, then along the rows: 3 rounds a level.
    """

    op: Literal["max_pool"] = "max_pool"
    shape: Image
    kernel: Pair
    stride: Pair
    padding: Pads = (0, 0)
    dilation: Pair = (1, 1)
    output_size: Pair

    @model_validator(mode="after")
    def _check(self) -> Self:
        for n, k, s, p, d, o in zip(
            self.shape[1:], self.kernel, self.stride, self.padding, self.dilation, self.output_size, strict=True
        ):
            starts = (place * s - p for place in (0, o - 1))  # the windows at both ends reach farthest out
            if 2 * p > k or not all(_touches(start, k, d, n) for start in starts):
                raise ValueError("a window of the pool lies outside of its input")
        if self.kernel == (1, 1):
            raise ValueError("a pool over single values compares nothing: use a slice")
        return self

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.shape[0], *self.output_size)

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        return Wire(super().output(inputs, ring_bits).shape, self.opened_bits)

    @cached_property
    def stages(self) -> tuple[tuple[int, Indices], ...]:
        """The axes of (rows, C, H, W) along which the knock-out goes, in order, and what each place's window reads
        along them: indices (taps, places). An axis with one tap takes no comparison."""
        rows, columns = (self._taps(axis) for axis in (0, 1))
        if self.kernel[0] == 1:  # rows that no window reads drop out at once
            return (2, rows), (3, columns)
        return (3, columns), (2, rows)

    def _taps(self, axis: int) -> Indices:
        """(taps, places): for each tap of the window, the index that it reads at every place, inside of the input."""
        at = np.arange(self.output_size[axis]) * self.stride[axis] - self.padding[axis]
        taps = at + np.arange(self.kernel[axis])[:, None] * self.dilation[axis]
        inside = (taps >= 0) & (taps < self.shape[1 + axis])
        valid = taps[inside.argmax(axis=0), np.arange(len(at))]  # the first that is inside stands in for others
        return np.where(inside, taps, valid.clip(0, self.shape[1 + axis] - 1))

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """The number of comparisons at each level, for one row."""
        channels, height, _ = self.shape
        height = height if self.kernel[0] > 1 else self.output_size[0]
        found: list[int] = []
        for taps, places in (
            (self.kernel[1], channels * height * self.output_size[1]),
            (self.kernel[0], math.prod(self.output_shape)),
        ):
            while taps > 1:
                found.append(taps // 2 * places)
                taps -= taps // 2
        return tuple(found)

    @property
    def comparisons(self) -> int:
        return sum(self.levels)

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        select = Correction("select", (2, self.comparisons), ring_dtype(self.opened_bits))
        return (*super().corrections(ring_bits), select)

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        """Each level opens the values that it compares, masked: the first level the input, the others differences."""
        values = (self.size, *self.levels[1:])
        word = ring_bytes(self.opened_bits)
        return tuple(
            sent
            for count, signs in zip(values, self.levels, strict=True)
            for sent in (rows * count * word, rows * signs, packed(rows * signs))
        )


def _touches(start: int, taps: int, step: int, size: int) -> bool:
    """Whether a window of taps start, start + step, ... has one among 0 .. size - 1. Any kernel costs as much."""
    first = max(-(start // step), 0)
    return first < taps and start + first * step < size


class TopK(Comparison):
    """Finds the k largest values, ties to the lower index. `range_bits` bounds differences. 4 rounds.

    As "words", the result is bytes: 1 for the largest, 2 for the next ... k, and 0 for all others. As "share", it is 1
    for the largest (k = 1) and 0 for all others, in the plan's ring.
    """

    op: Literal["top_k"] = "top_k"
    shape: tuple[Annotated[int, Field(ge=2, le=2048)]]
    k: Annotated[int, Field(ge=1, le=255)] = 1
    result: Literal["words", "share"] = "words"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.result == "share" and self.k != 1:
            raise ValueError("a share gives only the largest value: k must be 1")
        return self

    @property
    def comparisons(self) -> int:
        return self.size * (self.size - 1) // 2

    @property
    def rank_bits(self) -> int:
        """The bits of a rank, which is below the number of values."""
        return max((self.size - 1).bit_length(), 2)

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        wire = super().output(inputs, ring_bits)
        return Wire(wire.shape, 8, "words") if self.result == "words" else wire

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        final = "<u1" if self.result == "words" else ring_dtype(ring_bits)
        return (
            *super().corrections(ring_bits),
            Correction("beta", (self.comparisons,), ring_dtype(self.rank_bits)),
            Correction("ranks", (1 << self.rank_bits, self.size), final),
        )

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        return (*super().openings(ring_bits, rows), rows * self.size * ring_bytes(self.rank_bits))


class Table(Lookup):
    """Looks up public functions of t mod 2^opened_bits, all at once: the wire (functions, *shape). 2 rounds."""

    op: Literal["table"] = "table"
    opened_bits: Annotated[int, Field(ge=2, le=10)]
    values: tuple[Values, ...] = Field(min_length=1, max_length=4)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(len(values) != 1 << self.opened_bits for values in self.values):
            raise ValueError("a table must have 2^opened_bits values")
        if any(not -(1 << 62) < value < 1 << 62 for values in self.values for value in values):
            raise ValueError("a table's values must be below 2^62")
        if any(bits > 24 for bits in self.widths):
            raise ValueError("a table's values must differ by less than 2^24")
        return self

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The bits of each function's values above its smallest one."""
        return tuple(max((max(values) - min(values)).bit_length(), 1) for values in self.values)

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        if any(abs(value) >> (ring_bits - 1) for values in self.values for value in values):
            raise ValueError("holds values that do not fit in the ring")
        return super().output(inputs, ring_bits)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (len(self.values), *self.shape)

    @property
    def word_dtype(self) -> str:
        """The type of the words that hold the one-hot row of 2^opened_bits bits."""
        return f"<u{min(max(2**self.opened_bits // 8, 1), 8)}"

    @property
    def words(self) -> int:
        return max((1 << self.opened_bits) // 64, 1)

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (
            Correction("one_hot", (self.words, self.size), self.word_dtype),
            Correction("beta", (sum(self.widths), self.size), ring_dtype(ring_bits)),
        )

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        values = rows * self.size
        return values * ring_bytes(self.opened_bits), packed(values * sum(self.widths))


class OneHot(Lookup):
    """A row of `classes` with a 1 at the index t, in the plan's ring: (..., 1) to (..., classes). 1 round.

    Exactly one class has the 1, whatever the client shares: the layer reads t mod 2^opened_bits, and an index of
    `classes` or more stands for class 0.
    """

    op: Literal["one_hot"] = "one_hot"
    shape: Shape = (1,)
    shift: Literal[0] = 0
    opened_bits: Annotated[int, Field(ge=2, le=11)]
    classes: Annotated[int, Field(ge=2, le=2048)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.opened_bits != max((self.classes - 1).bit_length(), 2):
            raise ValueError("an index must have as many bits as its classes need")
        if self.shape[-1] != 1:
            raise ValueError("each row has one index")
        return self

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (*self.shape[:-1], self.classes)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of the masks' one-hot rows, (..., 2^opened_bits)."""
        return (*self.shape[:-1], 1 << self.opened_bits)

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (Correction("row", self.row_shape, ring_dtype(ring_bits)),)

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        return (rows * self.size * ring_bytes(self.opened_bits),)
