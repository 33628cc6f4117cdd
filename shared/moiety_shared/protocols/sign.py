"""The sign of an opened value, by table look-up of its digits.

With y^ = y + r open and -2^B <= y <= 2^B - 2^f, the sign of floor((y + u) / 2^f) (truncation's own result) is

    sign = bit_B(y^) xor bit_B(r) xor [low(y^) < low(r)]          low = bits f .. B-1

Cut `low` into digits, lowest first. For each digit the dealer knows rho = r's digit and makes two one-time tables,
indexed by the digit of y^, one word each:

    LT = (1 << rho) - 1   bit v says v < rho             EQ = 1 << rho   bit v says v = rho   (not for the lowest)

XOR-shared, with the dealer's mask bits a_i, e_j already XORed into every entry. The parties look up and open
p_i = lt_i xor a_i and q_j = eq_j xor e_j: 2D - 1 bits, one round. Then

    [low(y^) < low(r)] = XOR_i lt_i PROD_{j>i} eq_j = XOR_i (p_i xor a_i) PROD_{j>i} (q_j xor e_j)

is a multilinear polynomial in the masks with public coefficients. The dealer XOR-shares its monomials, one word a wire:

    bit 0                    the constant: bit_B(r) xor beta, beta being select's mask
    bits 1 .. M              a_i * PROD_{j in S} e_j, and PROD_{j in S} e_j for non-empty S
    bit M + 1                1, held by party 1: carries the public part

so a party's share of the masked sign b^ = sign xor beta is parity(word & COEFFICIENTS[opened bits]).
"""

from collections.abc import Generator
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np

from moiety_shared.plan import ReLU
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.ring import Array


class Prepared(NamedTuple):
    """<tables>_p (rows, 2D-1, size), LT tables first; <monomials>_p (rows, size)."""

    tables: Array
    monomials: Array


@cache
def monomials(digits: int) -> tuple[tuple[int | None, frozenset[int]], ...]:
    """(i, S) stands for a_i * PROD_{j in S} e_j, without the a where i is None; in the order of the word's bits."""

    def subsets(above: int) -> list[frozenset[int]]:
        places = range(above + 1, digits)
        return [frozenset(c) for size in range(len(places) + 1) for c in combinations(places, size)]

    with_a = [(i, s) for i in range(digits) for s in subsets(i)]
    return (*with_a, *((None, s) for s in subsets(0) if s))


def _split(bits: int, digits: int) -> tuple[list[int], list[int]]:
    """The 2D - 1 packed bits as (one per digit, one per digit with index 0 unused)."""
    low = [bits >> i & 1 for i in range(digits)]
    high = [0] + [bits >> (digits + j - 1) & 1 for j in range(1, digits)]
    return low, high


@cache
def monomial_words(digits: int, dtype: str) -> Array:
    """(2^(2D-1),): the monomials' values, for every setting of the mask bits."""
    words = []
    for bits in range(2 ** (2 * digits - 1)):
        a, e = _split(bits, digits)
        word = 0
        for place, (i, s) in enumerate(monomials(digits), start=1):
            word |= ((i is None or a[i]) and all(e[j] for j in s)) << place
        words.append(word)
    return np.array(words, dtype=dtype)


@cache
def coefficients(digits: int, dtype: str) -> Array:
    """(2^(2D-1),): which bits of the word to add up, for every setting of the opened bits."""
    words = []
    for bits in range(2 ** (2 * digits - 1)):
        p, q = _split(bits, digits)

        def rest(i: int, s: frozenset[int], q: list[int] = q) -> int:
            return int(all(q[j] for j in range(i + 1, digits) if j not in s))

        word = 1
        for place, (i, s) in enumerate(monomials(digits), start=1):
            below = range(min(s, default=0))
            word |= (rest(i, s) if i is not None else sum(p[low] & rest(low, s) for low in below) & 1) << place
        public = sum(p[i] & rest(i, frozenset()) for i in range(digits)) & 1
        word |= public << (len(monomials(digits)) + 1)
        words.append(word)
    return np.array(words, dtype=dtype)


def _digits(layer: ReLU, values: Array) -> Array:
    """The digits of ring elements (rows, size), lowest first: (rows, D, size), in the tables' word type."""
    word = np.uint16 if layer.range_bits - layer.frac_bits <= 16 else np.uint32
    compared: Array = (values >> layer.frac_bits).astype(word)
    digits = np.empty((len(values), len(layer.digits), layer.size), dtype=layer.table_dtype)
    for i, (start, width) in enumerate(layer.digits):
        digits[:, i] = (compared >> (start - layer.frac_bits)) & ((1 << width) - 1)
    return digits


@cache
def _places(lookups: int) -> Array:
    """What each looked-up bit is worth in its byte, (2D-1, 1)."""
    return (1 << np.arange(lookups, dtype=np.uint8))[:, None]


def deal(dealer: Dealer, layer: ReLU, r: Array) -> Array:
    """Fix the tables and monomials for the mask r (rows, size) of y^; returns beta (rows, size) as 0 or 1."""
    secret = dealer.secret_bytes("masks", (layer.size,))
    masks, beta = secret & (2**layer.lookups - 1), secret >> 7
    digits = _digits(layer, r)
    equal = np.left_shift(1, digits, dtype=digits.dtype)
    tables = np.concatenate((equal - 1, equal[:, 1:]), axis=1)
    flip = (masks[:, None] & _places(layer.lookups)) != 0
    tables ^= -flip.astype(tables.dtype)
    dealer.fix_words("tables", tables)
    words = monomial_words(len(layer.digits), layer.monomial_dtype)[masks]
    constant = dealer.ring.bit(r, layer.range_bits).astype(np.uint8) ^ beta
    dealer.fix_words("monomials", words ^ constant)
    return beta


def prepare(holder: Holder, layer: ReLU) -> Prepared:
    tables = holder.fixed_words("tables", (layer.lookups, layer.size), layer.table_dtype)
    words = holder.fixed_words("monomials", (layer.size,), layer.monomial_dtype)
    one = words.dtype.type(1 << (layer.monomials + 1))
    return Prepared(tables, words | one if holder.party == 1 else words & ~one)


def evaluate(party: int, layer: ReLU, opened: Array, prepared: Prepared) -> Generator[Opening, Array, Array]:
    """<sign xor beta>_p (rows, size) as uint8 0 or 1, from y^ (rows, size). One opening."""
    count = len(layer.digits)
    place = np.left_shift(1, _digits(layer, opened), dtype=prepared.tables.dtype)
    looked_up = np.empty(prepared.tables.shape, dtype=np.bool_)
    np.not_equal(prepared.tables[:, :count] & place, 0, out=looked_up[:, :count])
    np.not_equal(prepared.tables[:, count:] & place[:, 1:], 0, out=looked_up[:, count:])
    worth = looked_up.view(np.uint8) * _places(layer.lookups)
    bits = yield Opening(np.bitwise_or.reduce(worth, axis=1), Kind.WORDS)
    words = coefficients(count, layer.monomial_dtype).take(bits, mode="clip")
    words &= prepared.monomials
    sign: Array = np.bitwise_count(words) & 1
    if party == 1:
        sign ^= ((opened >> layer.range_bits) & 1).astype(np.uint8)
    return sign
