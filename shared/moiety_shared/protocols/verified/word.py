"""Words of more than 64 bits, as two limbs of int64: a value below, and room above in which a lie shows.

An array of words has the shape (2, *shape) and stands for limb[0] + 2^36 limb[1] mod 2^72. Limbs may be any int64, so a
sum of words is the sum of the arrays; `wrap` brings each limb to 0 .. 2^36 - 1. Products are exact: the factors are
cut into pieces so short that no sum of products leaves int64, or the 53 bits of float64, where BLAS computes it.
"""

import math
from dataclasses import dataclass

import numpy as np

from moiety_shared.arrays import Array
from moiety_shared.protocols.dealing import Source

WIDE_BYTES = 9
"""The bytes of a word on the wire."""
EXACT_BITS = 53
"""The bits of an integer that float64 holds exactly."""


@dataclass(frozen=True)
class Word:
    """Z_{2^(2 limb)}, whose lowest `low` bits are a value of the plan's ring."""

    low: int = 32
    limb: int = 36

    @property
    def bits(self) -> int:
        return 2 * self.limb

    @property
    def _mask(self) -> int:
        return (1 << self.limb) - 1

    def wrap(self, words: Array) -> Array:
        """The limbs that stand for these words in 0 .. 2^limb - 1."""
        out: Array = words & self._mask
        out[1] = (words[1] + (words[0] >> self.limb)) & self._mask
        return out

    def of(self, integers: Array) -> Array:
        """Words (2, *shape) of int64 integers, negative ones too."""
        return np.stack((integers & self._mask, integers >> self.limb))

    def lowest(self, words: Array) -> Array:
        """The value: the lowest `low` bits, as int64 from 0 on."""
        value: Array = words[0] & ((1 << self.low) - 1)  # a value fits the lower limb
        return value

    def uniform(self, source: Source, name: str, shape: tuple[int, ...]) -> Array:
        """Draw uniform words (2, *shape)."""
        return np.stack([source.words(f"{name}/{limb}", shape, np.int64) & self._mask for limb in (0, 1)])

    def uniform_low(self, source: Source, name: str, shape: tuple[int, ...]) -> Array:
        """Draw uniform integers of `low` bits, int64."""
        return source.words(name, shape, np.uint32).astype(np.int64) & ((1 << self.low) - 1)

    def joined(self, words: Array) -> tuple[Array, Array]:
        """The lower 64 bits, as uint64, and what is above, as uint8: 9 bytes a word."""
        low, high = self.wrap(words).view(np.uint64)
        return low | high << np.uint64(self.limb), (high >> np.uint64(64 - self.limb)).astype(np.uint8)

    def parted(self, lower: Array, upper: Array) -> Array:
        """The words (2, *shape) whose `joined` is this."""
        high = (lower >> np.uint64(self.limb)) | upper.astype(np.uint64) << np.uint64(64 - self.limb)
        return np.stack((lower & np.uint64(self._mask), high)).view(np.int64)

    def to_bytes(self, words: Array) -> Array:
        """All words, nine bytes each, as one flat uint8 array."""
        return np.concatenate([part.reshape(-1).view(np.uint8) for part in self.joined(words)])

    def from_bytes(self, flat: bytes | memoryview, shape: tuple[int, ...]) -> Array:
        """The words (2, *shape) of `to_bytes`."""
        count = math.prod(shape)
        lower = np.frombuffer(flat, np.uint64, count).reshape(shape)
        return self.parted(lower, np.frombuffer(flat, np.uint8, count, 8 * count).reshape(shape))

    def multiply(self, a: Array, b: Array) -> Array:
        """Multiply words with words, element by element; shapes broadcast behind the limb axis.

        The product of the lower limbs is cut in two, so that int64 holds both parts. What belongs into the upper limb
        may wrap: 2^64 is a multiple of 2^limb.
        """
        one, other, half, rest = self.wrap(a), self.wrap(b), self.limb // 2, self.limb - self.limb // 2
        lower, upper = (one[:1] * part for part in (other[:1] & ((1 << half) - 1), other[:1] >> half))
        low = lower + ((upper & ((1 << rest) - 1)) << half)
        high = (upper >> rest) + one[:1] * other[1:] + one[1:] * other[:1]
        return self.wrap(np.concatenate((low, high)))

    def dot(self, a: Array, b: Array) -> Array:
        """Sum the products of words along the last axis, of at most 2^27: two of (2, ..., n) to (2, ...)."""
        return self.wrap(self.multiply(a, b).sum(axis=-1))

    def matmul(self, a: Array, b: Array) -> Array:
        """Multiply matrices of words, a b^T: (2, ..., n, d) and (2, ..., m, d) to (2, ..., n, m).

        Each word is four pieces. Where pieces have the same place in the result, their products are added up as one
        matrix product, d pieces after d.
        """
        width = self.limb // 2
        one = np.moveaxis(self.pieces(a, width, self.bits), 0, -2)
        other = np.moveaxis(self.pieces(b, width, self.bits)[::-1], 0, -2)
        columns = list[Array]()
        for k in range(4):
            left, right = one[..., : k + 1, :], other[..., 3 - k :, :]
            left, right = (part.reshape(*part.shape[:-2], -1) for part in (left, right))
            columns.append(_exact_matmul(left, right.swapaxes(-1, -2), 2 * width))
        return self.wrap(self.placed(columns, width))

    def pieces(self, words: Array, width: int, bits: int) -> Array:
        """Cut words (2, *shape), integers of 0 .. 2^bits - 1, into pieces of `width` bits, at most a limb's, lowest
        first: float64 (pieces, *shape)."""
        low, high = words if bits <= self.limb else self.wrap(words)
        out = np.empty((-(-bits // width), *words.shape[1:]))
        for piece, start in zip(out, range(0, bits, width), strict=True):
            if start >= self.limb:
                part = high >> (start - self.limb)
            elif start + width > self.limb and bits > self.limb:
                part = low >> start | high << (self.limb - start)
            else:
                part = low >> start
            np.bitwise_and(part, (1 << min(width, bits - start)) - 1, out=piece)
        return out

    def placed(self, columns: list[Array], width: int) -> Array:
        """The sum of columns[i] 2^(i width), as words (2, *shape). The columns are int64, negative ones too."""
        out = np.zeros((2, *columns[0].shape), dtype=np.int64)
        for number, column in enumerate(columns):
            shift = number * width
            if shift < self.limb:
                kept = self.limb - shift
                out[0] += (column & ((1 << kept) - 1)) << shift
                out[1] += column >> kept
            elif shift < self.bits:
                out[1] += (column & ((1 << (self.bits - shift)) - 1)) << (shift - self.limb)
        return out


def _exact_matmul(a: Array, b: Array, bits: int) -> Array:
    """Multiply float64 matrices of integers, (..., n, i) with (..., i, o), whose products have at most `bits` bits.

    BLAS adds up so few products at a time that float64 holds every sum. Returns int64.
    """
    most = 1 << (EXACT_BITS - bits)
    parts = [
        (a[..., at : at + most] @ b[..., at : at + most, :]).astype(np.int64) for at in range(0, b.shape[-2], most)
    ]
    return parts[0] if len(parts) == 1 else np.sum(parts, axis=0)
