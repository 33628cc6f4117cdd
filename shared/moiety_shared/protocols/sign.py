"""The sign of an opened value, by table look-up of its digits.

With y^ = y + r open and |y| < 2^B, the sign of floor((y + u) / 2^f) (truncation's own result) is

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

import torch
from torch import Tensor

from moiety_shared.plan import ReLU
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Kind, Opening

_WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


class Prepared(NamedTuple):
    """<tables>_p (rows, 2D-1, size), LT tables first; <monomials>_p (rows, size)."""

    tables: Tensor
    monomials: Tensor


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
def monomial_words(digits: int, word_bytes: int) -> Tensor:
    """(2^(2D-1),): the monomials' values, for every setting of the mask bits."""
    words = []
    for bits in range(2 ** (2 * digits - 1)):
        a, e = _split(bits, digits)
        word = 0
        for place, (i, s) in enumerate(monomials(digits), start=1):
            word |= ((i is None or a[i]) and all(e[j] for j in s)) << place
        words.append(word)
    return torch.tensor(words, dtype=torch.int64).to(_WORD[word_bytes])


@cache
def coefficients(digits: int, word_bytes: int) -> Tensor:
    """(2^(2D-1),): which bits of the word to add up, for every setting of the opened bits."""
    words = []
    for bits in range(2 ** (2 * digits - 1)):
        p, q = _split(bits, digits)

        def rest(i: int, s: frozenset[int], q: list[int] = q) -> int:
            return int(all(q[j] for j in range(i + 1, digits) if j not in s))

        word = 1
        for place, (i, s) in enumerate(monomials(digits), start=1):
            if i is not None:
                value = rest(i, s)
            else:
                value = sum(p[low] & rest(low, s) for low in range(min(s))) & 1
            word |= value << place
        public = sum(p[i] & rest(i, frozenset()) for i in range(digits)) & 1
        word |= public << (len(monomials(digits)) + 1)
        words.append(word)
    return torch.tensor(words, dtype=torch.int64).to(_WORD[word_bytes])


@cache
def _lookups(digits: tuple[tuple[int, int], ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Per look-up, (2D-1, 1) each: the digit's shift, its mask, and the place of the looked-up bit in its byte.
    Every digit has a less-than table, all but the lowest an equality table."""
    shifts, widths = zip(*digits, *digits[1:], strict=True)
    columns = (shifts, [(1 << width) - 1 for width in widths], range(len(shifts)))
    first, second, third = (torch.tensor(tuple(column), dtype=dtype)[:, None] for column in columns)
    return first, second, third


def parity(words: Tensor) -> Tensor:
    """XOR of all bits of each word, as uint8 0 or 1."""
    words = words.clone()
    for shift in (16, 8, 4, 2, 1):
        if shift < words.element_size() * 8:
            words ^= words >> shift
    return (words & 1).to(torch.uint8)


def deal(dealer: Dealer, layer: ReLU, r: Tensor) -> Tensor:
    """Fix the tables and monomials for the mask r (rows, size) of y^; returns beta (rows, size) as 0 or 1."""
    digits = len(layer.digits)
    secret = dealer.secret_bytes("masks", (layer.size,))
    masks, beta = (secret & (2**layer.lookups - 1)).to(torch.int32), secret >> 7
    word = _WORD[layer.table_bytes]
    shifts, ones, _ = _lookups(layer.digits, r.dtype)
    rho = ((r[:, None] >> shifts) & ones).to(torch.int64)
    tables = torch.bitwise_left_shift(torch.ones((), dtype=torch.int64), rho)
    tables[:, :digits] -= 1
    flip = (masks[:, None] >> torch.arange(layer.lookups, dtype=torch.int32)[:, None]) & 1
    dealer.fix_words("tables", tables.to(word) ^ -flip.to(word))
    words = monomial_words(digits, layer.monomial_bytes)[masks]
    constant = dealer.ring.bit(r, layer.range_bits).to(words.dtype) ^ beta.to(words.dtype)
    dealer.fix_words("monomials", words ^ constant)
    return beta


def prepare(holder: Holder, layer: ReLU) -> Prepared:
    tables = holder.fixed_words("tables", (layer.lookups, layer.size), _WORD[layer.table_bytes])
    words = holder.fixed_words("monomials", (layer.size,), _WORD[layer.monomial_bytes])
    one = torch.tensor(1 << (layer.monomials + 1)).to(words.dtype)
    return Prepared(tables, words | one if holder.party == 1 else words & ~one)


def evaluate(
    party: int, layer: ReLU, opened: Tensor, prepared: Prepared
) -> Generator[Opening, Tensor, Tensor]:
    """<sign xor beta>_p (rows, size) as uint8 0 or 1, from y^ (rows, size). One opening."""
    shifts, ones, places = _lookups(layer.digits, opened.dtype)
    digit = opened[:, None] >> shifts
    digit &= ones
    looked_up = prepared.tables >> digit.to(prepared.tables.dtype)
    looked_up &= 1
    looked_up <<= places.to(looked_up.dtype)
    bits = yield Opening(looked_up.sum(1, dtype=looked_up.dtype).to(torch.uint8), Kind.WORDS)
    table = coefficients(len(layer.digits), layer.monomial_bytes)
    chosen = torch.index_select(table, 0, bits.reshape(-1).to(torch.int32)).reshape(bits.shape)
    sign = parity(prepared.monomials & chosen)
    if party == 1:
        sign ^= ((opened >> layer.range_bits) & 1).to(torch.uint8)
    return sign
