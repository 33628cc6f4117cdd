"""The fields of characteristic 2 in which look-ups and verdicts are checked.

K = GF(2^8): bytes, modulo x^8 + x^4 + x^3 + x + 1.
L = GF(2^64) = K[y] / f: (..., 8) bytes, the coefficients of 1, y, ... y^7; or the same as one uint64.
GF(2^128): Python integers below 2^128.

Addition is XOR in all of them.
"""

from functools import cache

import numpy as np

from moiety_shared.ring import Array, blocks

_BYTE_MODULUS = 0x11B
_EXTENSION = (171, 206, 5, 206, 120, 131, 161, 73)
"""The lower coefficients of f, whose leading one is 1. f is irreducible over K."""
MODULUS_128 = (1 << 128) | 0x87
L_BYTES = 8
_POWERS = (1 << np.arange(8)).astype(np.uint8)  # of x


@cache
def _logarithms() -> tuple[Array, Array]:
    """(powers, logarithms) to the base 3: powers of 510 exponents, logarithms of 256 bytes, that of 0 unused."""
    powers, logarithms, value = np.empty(510, np.uint8), np.zeros(256, np.int64), 1
    for exponent in range(255):
        powers[[exponent, exponent + 255]] = value
        logarithms[value] = exponent
        value ^= value << 1
        value ^= _BYTE_MODULUS if value > 255 else 0
    return powers, logarithms


@cache
def byte_table() -> Array:
    """(256, 256): the products of K."""
    powers, logarithms = _logarithms()
    table: Array = powers[logarithms[:, None] + logarithms[None, :]]
    table[0], table[:, 0] = 0, 0
    return table


def byte_inverse(a: Array) -> Array:
    """1 / a in K, for bytes other than 0."""
    powers, logarithms = _logarithms()
    inverse: Array = powers[255 - logarithms[a]]
    return inverse


def byte_product(a: Array, b: Array) -> Array:
    """Multiply bytes in K. Shapes broadcast."""
    index = a.astype(np.uint16)
    index <<= 8
    index = np.bitwise_or(index, b, out=index) if a.shape == b.shape else index | b.astype(np.uint16)
    product: Array = byte_table().reshape(-1).take(index, mode="clip")
    return product


def byte_fold(a: Array) -> Array:
    """The product of bytes other than 0 in K, along the first axis."""
    powers, logarithms = _logarithms()
    product: Array = powers[logarithms[a].sum(axis=0) % 255]
    return product


def product(a: Array, b: Array) -> Array:
    """Multiply in L: (..., 8) bytes; shapes broadcast."""
    each = byte_product(a[..., :, None], b[..., None, :])
    apart = np.zeros((*each.shape[:-1], 2 * L_BYTES), np.uint8)
    apart[..., :L_BYTES] = each
    # Rows that are one shorter: each begins one place further to the left, so what belongs to one power is a column.
    rows = apart.reshape(*each.shape[:-2], -1)[..., :-L_BYTES].reshape(*each.shape[:-2], L_BYTES, 2 * L_BYTES - 1)
    return _reduced(np.bitwise_xor.reduce(rows, axis=-2))


def sum_of_products(a: Array, b: Array) -> Array:
    """Multiply in L and add up along the second axis: two of (rows, n, ...) uint64 to (rows, ..., 8) bytes.

    Bit j of coefficient i of a stands for y^i x^j. So all b whose a has that bit are added up first, and multiplied
    then.
    """
    shape = (len(a), *a.shape[2:])
    one, other = (np.swapaxes(each, 0, 1).reshape(a.shape[1], -1) for each in (a, b))
    picked, places = np.empty((L_BYTES, 8, one.shape[1]), np.uint64), np.arange(8, dtype=np.uint64)[:, None, None]
    for part in blocks(one, 8):
        for i in range(L_BYTES):
            bits = one[:, part] >> (places + np.uint64(8 * i))
            bits &= np.uint64(1)
            bits *= other[:, part]
            np.bitwise_xor.reduce(bits, axis=1, out=picked[i, :, part])
    by_coefficient = np.bitwise_xor.reduce(byte_product(unwords(picked), _POWERS[:, None, None]), axis=1)
    wide = np.zeros((one.shape[1], 2 * L_BYTES - 1), np.uint8)
    for i, coefficient in enumerate(by_coefficient):
        wide[:, i : i + L_BYTES] ^= coefficient
    return _reduced(wide).reshape(*shape, L_BYTES)


def _reduced(wide: Array) -> Array:
    beyond: Array = np.bitwise_xor.reduce(byte_product(wide[..., L_BYTES:, None], _remainders()), axis=-2)
    return beyond ^ wide[..., :L_BYTES]


@cache
def _remainders() -> Array:
    """(7, 8): y^8, y^9, ... y^14 modulo f."""
    f = np.array(_EXTENSION, np.uint8)
    rows = [f]
    while len(rows) < L_BYTES - 1:
        last = rows[-1]
        rows.append(np.concatenate((np.zeros(1, np.uint8), last[:-1])) ^ byte_product(last[-1], f))
    return np.stack(rows)


def scaled(a: Array, b: Array) -> Array:
    """Multiply a of K (...) with b of L (..., 8)."""
    return byte_product(a[..., None], b)


def embedded(a: Array) -> Array:
    """The bytes a of K as elements of L, (..., 8)."""
    out = np.zeros((*a.shape, L_BYTES), np.uint8)
    out[..., 0] = a
    return out


def inverse(a: Array) -> Array:
    """1 / a in L, for (..., 8) bytes other than 0: a^(2^64 - 2)."""
    out, power = embedded(np.ones(a.shape[:-1], np.uint8)), a
    for _ in range(63):
        power = product(power, power)
        out = product(out, power)
    return out


def words(a: Array) -> Array:
    """(..., 8) bytes as (...) uint64."""
    whole: Array = np.ascontiguousarray(a).view(np.uint64)[..., 0]
    return whole


def unwords(a: Array) -> Array:
    """(...) uint64 as (..., 8) bytes."""
    return np.ascontiguousarray(a)[..., None].view(np.uint8)


def solved(matrix: Array) -> Array | None:
    """The inverse of a square matrix over K, or None if it has none."""
    n = len(matrix)
    rows = np.concatenate((matrix, np.eye(n, dtype=np.uint8)), axis=1)
    for column in range(n):
        places = column + np.flatnonzero(rows[column:, column])
        if not len(places):
            return None
        rows[[column, places[0]]] = rows[[places[0], column]]
        rows[column] = byte_product(byte_inverse(rows[column, column]), rows[column])
        factors = rows[:, column].copy()
        factors[column] = 0
        rows ^= byte_product(factors[:, None], rows[column])
    return rows[:, n:]


def polynomial_product(a: int, b: int, modulus: int) -> int:
    """Multiply in GF(2)[x] / modulus, whose elements are integers: bit i is the coefficient of x^i."""
    top, out = modulus.bit_length() - 1, 0
    for place in reversed(range(top)):
        out <<= 1
        out ^= modulus if out >> top else 0
        out ^= a if b >> place & 1 else 0
    return out
