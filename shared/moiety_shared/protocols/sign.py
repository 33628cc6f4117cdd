"""The sign of a value that was opened under a mask, by table look-up of the masked value's digits.

The parties know t^ = t + r mod 2^q, and -2^B <= t < 2^B with B < q. The sign of t is

    sign = bit_B(t^) xor bit_B(r) xor [low(t^) < low(r)]          low = bits 0 .. B-1

Cut `low` into digits, lowest first. For each digit the dealer knows rho = r's digit and makes two one-time tables, of
one word each, indexed by the digit of t^:

    LT = (1 << rho) - 1   bit v says v < rho             EQ = 1 << rho   bit v says v = rho   (not for the lowest)

The dealer XORs mask bits a_i and e_j, which it alone knows, into every entry, and XOR-shares the tables. The parties
look up and open p_i = lt_i xor a_i and q_j = eq_j xor e_j: 2D - 1 masked bits, one round. Then

    [low(t^) < low(r)] = XOR_i lt_i PROD_{j>i} eq_j = XOR_i (p_i xor a_i) PROD_{j>i} (q_j xor e_j)

is a multilinear polynomial in the masks with public coefficients. The dealer XOR-shares its monomials, one word a wire:

    bit 0                    the constant: bit_B(r) xor beta, beta being the sign's mask
    bits 1 .. M              a_i * PROD_{j in S} e_j, and PROD_{j in S} e_j for non-empty S
    bit M + 1                1, held by party 1: carries the public part

So a party's share of the masked sign b^ = sign xor beta is parity(word & COEFFICIENTS[opened bits]).
"""

from collections.abc import Generator
from functools import cache
from itertools import combinations

import numpy as np

from moiety_shared.plan.lookups import Comparison, Hinged
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.ring import Array, Ring, blocks


@cache
def monomials(digits: int) -> tuple[tuple[int | None, frozenset[int]], ...]:
    """The monomials in the order of the word's bits. (i, S) stands for a_i * PROD_{j in S} e_j; where i is None, a is
    left out."""

    def subsets(above: int) -> list[frozenset[int]]:
        places = range(above + 1, digits)
        return [frozenset(c) for size in range(len(places) + 1) for c in combinations(places, size)]

    with_a = [(i, s) for i in range(digits) for s in subsets(i)]
    return (*with_a, *((None, s) for s in subsets(0) if s))


def _split(bits: int, digits: int) -> tuple[list[int], list[int]]:
    """Split the 2D - 1 packed bits into (one per digit, one per digit with index 0 unused)."""
    low = [bits >> i & 1 for i in range(digits)]
    high = [0] + [bits >> (digits + j - 1) & 1 for j in range(1, digits)]
    return low, high


@cache
def monomial_words(digits: int, dtype: str) -> Array:
    """(2^(2D-1),): the values of the monomials for every setting of the mask bits."""
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
    """(2^(2D-1),): for every setting of the opened bits, the bits of the word whose parity is the masked sign."""
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


def _digits(layer: Comparison, values: Array) -> Array:
    """Cut ring elements (rows, n) into digits, lowest first: (rows, D, n), in the tables' word type."""
    unsigned = values.view(f"u{values.itemsize}")
    digits = np.empty((len(values), len(layer.digits), values.shape[1]), dtype=layer.table_dtype)
    for i, (start, width) in enumerate(layer.digits):
        np.bitwise_and(unsigned >> start if start else unsigned, (1 << width) - 1, out=digits[:, i], casting="unsafe")
    return digits


@cache
def _places(lookups: int) -> Array:
    """The value of each looked-up bit in its byte, (2D-1, 1)."""
    return (1 << np.arange(lookups, dtype=np.uint8))[:, None]


def each_hinge(layer: Hinged, values: Array) -> Array:
    """Repeat (..., size) for every hinge: (..., hinges * size)."""
    return values if len(layer.hinges) == 1 else np.concatenate((values,) * len(layer.hinges), axis=-1)


def beyond_hinges(layer: Hinged, ring: Ring, opened: Array) -> Array:
    """Compute t^ - h from t^ (rows, size) for every hinge: (rows, hinges * size), under the masks of t^."""
    if layer.hinges == (0,):
        return opened
    return np.concatenate([ring.wrap(opened - opened.dtype.type(h)) for h in layer.hinges], axis=1)


def deal(dealer: Dealer, layer: Comparison, r: Array) -> Array:
    """Fix the tables and monomials for the masks r (rows, n) of t^. Returns beta (rows, n) as 0 or 1."""
    secret = dealer.secret_bytes("masks", (r.shape[1],))
    masks, beta = secret & (2**layer.lookups - 1), secret >> 7
    tables = np.empty((len(r), layer.lookups, r.shape[1]), dtype=layer.table_dtype)
    words = np.empty(r.shape, dtype=layer.monomial_dtype)
    for part in blocks(r):
        digits = _digits(layer, r[:, part])
        equal = np.left_shift(1, digits, dtype=digits.dtype)
        less, same = np.split(tables[:, :, part], [len(layer.digits)], axis=1)
        np.subtract(equal, 1, out=less)
        same[:] = equal[:, 1:]
        flip = (masks[:, None, part] & _places(layer.lookups)) != 0
        tables[:, :, part] ^= -flip.astype(tables.dtype)
        constant = dealer.ring.bit(r[:, part], layer.range_bits).astype(np.uint8) ^ beta[:, part]
        words[:, part] = monomial_words(len(layer.digits), layer.monomial_dtype)[masks[:, part]] ^ constant
    dealer.fix_words("tables", tables)
    dealer.fix_words("monomials", words)
    return beta


def prepare(holder: Holder, layer: Comparison) -> tuple[Array, Array]:
    """Return <tables>_p (rows, 2D-1, n), LT tables first, and <monomials>_p (rows, n)."""
    tables = holder.fixed_words("tables", (layer.lookups, layer.comparisons), layer.table_dtype)
    words = holder.fixed_words("monomials", (layer.comparisons,), layer.monomial_dtype)
    one = words.dtype.type(1 << (layer.monomials + 1))
    return tables, words | one if holder.party == 1 else words & ~one


def evaluate(
    party: int, layer: Comparison, opened: Array, tables: Array, monomials: Array
) -> Generator[Opening, Array, Array]:
    """Compute <sign xor beta>_p (rows, n) as uint8 0 or 1, from t^ (rows, n). One opening."""
    looked_up = np.empty(opened.shape, dtype=np.uint8)
    for part in blocks(opened):
        _look_up(layer, opened[:, part], tables[:, :, part], looked_up[:, part])
    bits = yield Opening(looked_up, Kind.WORDS)
    table, sign = coefficients(len(layer.digits), layer.monomial_dtype), np.empty(opened.shape, dtype=np.uint8)
    for part in blocks(opened):
        words = table.take(bits[:, part], mode="clip")
        words &= monomials[:, part]
        np.bitwise_and(np.bitwise_count(words), 1, out=sign[:, part])
        if party == 1:
            sign[:, part] ^= ((opened[:, part] >> layer.range_bits) & 1).astype(np.uint8)
    return sign


def _look_up(layer: Comparison, opened: Array, tables: Array, out: Array) -> None:
    """Write the masked table bits of each comparison into one byte."""
    count = len(layer.digits)
    place = np.left_shift(1, _digits(layer, opened), dtype=tables.dtype)
    found = np.empty(tables.shape, dtype=np.bool_)
    np.not_equal(tables[:, :count] & place, 0, out=found[:, :count])
    np.not_equal(tables[:, count:] & place[:, 1:], 0, out=found[:, count:])
    np.bitwise_or.reduce(found.view(np.uint8) * _places(layer.lookups), axis=1, out=out)
