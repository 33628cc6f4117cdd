"""The sign of a value that was opened under a mask, by table look-up of the masked value's digits.

The parties know t^ = t + r mod 2^q, and -2^B <= t < 2^B with B < q. The sign of t is

    sign = bit_B(t^) xor bit_B(r) xor [low(t^) < low(r)]          low = bits 0 .. B-1

Cut `low` into digits, lowest first. For each digit the dealer knows rho = r's digit and makes a one-time table of one
word, indexed by the digit v of t^, and XOR-shares it:

    T = (2 << rho) - 1    bit v says v <= rho.    So v < rho is bit v + 1, and v = rho is bit v xor bit v + 1

Beside the tables there are mask bits a_i, e_j and c. They come from both parties' streams, so the dealer sends nothing
for them, and no party knows any. The parties look up and open p_i = lt_i xor a_i, and q_j = eq_j xor e_j for all digits
but the lowest: 2D - 1 masked bits, one round. Then

    [low(t^) < low(r)] = XOR_i lt_i PROD_{j>i} eq_j = XOR_i (p_i xor a_i) PROD_{j>i} (q_j xor e_j)

is a multilinear polynomial in the masks with public coefficients. The dealer XOR-shares those of its monomials that are
no mask itself. A party puts all its shares into one word a wire:

    bits 0 .. 2D - 2           a_0, e_1, a_1, e_2, a_2, ...        the looked-up bits have the same places in their byte
    bit 2D - 1                 c, which masks the sign
    bits 2D .. 2D + M - 1      a_i * PROD_{j in S} e_j for non-empty S, and PROD_{j in S} e_j for S of two and more
    bit 2D + M                 1, held by party 1: carries the public part

So a party's share of the masked sign b^ = sign xor beta is parity(word & COEFFICIENTS[opened bits]), which party 1
XORs with bit_B(t^). The dealer knows beta = c xor bit_B(r).
"""

from collections.abc import Callable, Generator
from functools import cache
from itertools import combinations

import numpy as np

from moiety_shared.plan.lookups import Comparison, Hinged
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.ring import Array, Ring, blocks

Monomial = tuple[int | None, frozenset[int]]
"""(i, S) stands for a_i * PROD_{j in S} e_j; where i is None, a is left out."""


def masks(digits: int) -> list[Monomial]:
    """The masks of the looked-up bits, in the order of their places."""
    return [
        (place // 2, frozenset()) if place % 2 == 0 else (None, frozenset((place // 2 + 1,)))
        for place in range(2 * digits - 1)
    ]


def monomials(digits: int) -> list[Monomial]:
    """The monomials that are no mask itself, in the order of the word's bits."""

    def subsets(above: int) -> list[frozenset[int]]:
        places = range(above + 1, digits)
        return [frozenset(c) for size in range(len(places) + 1) for c in combinations(places, size)]

    with_a = [(i, s) for i in range(digits) for s in subsets(i) if s]
    return [*with_a, *((None, s) for s in subsets(0) if len(s) > 1)]


def _split(bits: int, digits: int) -> tuple[list[int], list[int]]:
    """Split the 2D - 1 packed bits into (one per digit, one per digit with index 0 unused)."""
    return [bits >> 2 * i & 1 for i in range(digits)], [0, *(bits >> 2 * j - 1 & 1 for j in range(1, digits))]


@cache
def monomial_words(digits: int, dtype: str) -> Array:
    """(2^(2D-1),): the values of the monomials for every setting of the masks."""
    words = []
    for bits in range(2 ** (2 * digits - 1)):
        a, e = _split(bits, digits)
        values = [(i is None or a[i]) and all(e[j] for j in s) for i, s in monomials(digits)]
        words.append(sum(bool(value) << place for place, value in enumerate(values)))
    return np.array(words, dtype=dtype)


@cache
def coefficients(digits: int, dtype: str) -> Array:
    """(2^(2D-1),): for every setting of the opened bits, the bits of the word whose parity is the masked sign."""
    words = []
    for bits in range(2 ** (2 * digits - 1)):
        p, q = _split(bits, digits)

        def rest(i: int, s: frozenset[int], q: list[int] = q) -> int:
            return int(all(q[j] for j in range(i + 1, digits) if j not in s))

        def of(monomial: Monomial, p: list[int] = p, rest: Callable[..., int] = rest) -> int:
            i, s = monomial
            return rest(i, s) if i is not None else sum(p[low] & rest(low, s) for low in range(min(s))) & 1

        public = sum(p[i] & rest(i, frozenset()) for i in range(digits)) & 1
        bits_of_word = [*map(of, masks(digits)), 1, *map(of, monomials(digits)), public]
        words.append(sum(bit << place for place, bit in enumerate(bits_of_word)))
    return np.array(words, dtype=dtype)


def digits_of(layer: Comparison, values: Array) -> Array:
    """Cut ring elements (rows, n) into digits, lowest first: (rows, D, n), in the tables' word type."""
    unsigned = values.view(f"u{values.itemsize}")
    digits = np.empty((len(values), len(layer.digits), values.shape[1]), dtype=layer.table_dtype)
    for i, (start, width) in enumerate(layer.digits):
        np.bitwise_and(unsigned >> start if start else unsigned, (1 << width) - 1, out=digits[:, i], casting="unsafe")
    return digits


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
    drawn = dealer.mask_words("masks", (r.shape[1],))
    tables = np.empty((len(r), len(layer.digits), r.shape[1]), dtype=layer.table_dtype)
    words, beta = np.empty(r.shape, dtype=layer.monomial_dtype), np.empty(r.shape, dtype=np.uint8)
    values = monomial_words(len(layer.digits), layer.monomial_dtype)
    for part in blocks(r):
        table = np.left_shift(2, digits_of(layer, r[:, part]), out=tables[:, :, part], dtype=tables.dtype)
        table -= 1
        values.take(drawn[:, part] & (2**layer.lookups - 1), out=words[:, part], mode="clip")
        np.bitwise_xor(
            drawn[:, part] >> layer.lookups,
            dealer.ring.bit(r[:, part], layer.range_bits),
            out=beta[:, part],
            casting="unsafe",
        )
    beta &= 1
    dealer.fix_words("tables", tables)
    dealer.fix_words("monomials", words)
    return beta


def prepare(holder: Holder, layer: Comparison) -> tuple[Array, Array]:
    """Return <tables>_p (rows, D, n), and <words>_p (rows, n): masks, monomials and party 1's 1."""
    tables = holder.fixed_words("tables", (len(layer.digits), layer.comparisons), layer.table_dtype)
    upper = holder.fixed_words("monomials", (layer.comparisons,), layer.monomial_dtype)
    words = upper.astype(layer.word_dtype)
    words &= (1 << layer.monomials) - 1
    if holder.party == 1:
        words |= 1 << layer.monomials
    words <<= layer.lookups + 1
    words |= holder.mask_words("masks", (layer.comparisons,)) & ((2 << layer.lookups) - 1)
    return tables, words


def evaluate(
    party: int, layer: Comparison, opened: Array, tables: Array, words: Array
) -> Generator[Opening, Array, Array]:
    """Compute <sign xor beta>_p (rows, n) as uint8 0 or 1, from t^ (rows, n). One opening."""
    looked_up = np.empty(opened.shape, dtype=np.uint8)
    for part in blocks(opened):
        _look_up(layer, opened[:, part], tables[:, :, part], words[:, part], looked_up[:, part])
    bits = yield Opening(looked_up, Kind.WORDS)
    table, sign = coefficients(len(layer.digits), layer.word_dtype), np.empty(opened.shape, dtype=np.uint8)
    for part in blocks(opened):
        chosen = table.take(bits[:, part], mode="clip")
        chosen &= words[:, part]
        np.bitwise_and(np.bitwise_count(chosen), 1, out=sign[:, part])
        if party == 1:
            sign[:, part] ^= ((opened[:, part] >> layer.range_bits) & 1).astype(np.uint8)
    return sign


def _look_up(layer: Comparison, opened: Array, tables: Array, words: Array, out: Array) -> None:
    """Write the masked table bits of each comparison into one byte."""
    found = np.right_shift(tables, digits_of(layer, opened))  # of each digit: bit 0 says v <= rho, and bit 1 v < rho
    np.bitwise_and(words, 2**layer.lookups - 1, out=out, casting="unsafe")
    pairs = np.zeros_like(out)
    for digit in range(len(layer.digits) - 1, -1, -1):
        pairs <<= 2
        pairs |= found[:, digit].astype(np.uint8) & 3
    pairs >>= 1  # of the lowest digit v < rho alone is of use
    out ^= pairs
    pairs >>= 1
    pairs &= 0b101010
    out ^= pairs
