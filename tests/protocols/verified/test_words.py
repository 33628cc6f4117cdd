"""Words of two limbs against Python's integers."""

import math
from fractions import Fraction

import numpy as np
import pytest

from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.layers import Linear
from moiety_shared.protocols.opening import Kind, Opening, combine, to_wire, wire_bytes
from moiety_shared.protocols.verified.bilinear import times
from moiety_shared.protocols.verified.coins import COIN_BITS, VECTORS, Coins, Combination
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array

WORDS = [Word(), Word(2, 2)]


def drawn(word: Word, *shape: int) -> Array:
    return word.uniform(Stream(new_seed()), "w", shape)


def integers(word: Word, words: Array) -> list[int]:
    low, high = words.astype(object)
    value = (low + (high << word.limb)) % (1 << word.bits)
    return list(np.asarray(value, dtype=object).reshape(-1))


def small(bits: int, *shape: int) -> Array:
    return Stream(new_seed()).words("s", shape, np.int64) & ((1 << bits) - 1)


@pytest.mark.parametrize("word", WORDS, ids=["72", "4"])
def test_words_multiply_as_integers_do(word: Word) -> None:
    modulus = 1 << word.bits
    a, b = drawn(word, 300), drawn(word, 300)
    one, other = integers(word, a), integers(word, b)
    assert max(one) > 0.8 * modulus and integers(word, word.wrap(a)) == one
    assert integers(word, word.multiply(a, b)) == [x * y % modulus for x, y in zip(one, other, strict=True)]
    assert integers(word, word.dot(a, b)) == [sum(x * y for x, y in zip(one, other, strict=True)) % modulus]
    loose = a - (b << 3)  # limbs of any sign
    assert integers(word, word.wrap(loose)) == [(x - 8 * y) % modulus for x, y in zip(one, other, strict=True)]
    assert integers(word, word.of(np.array([-1, 5, -(1 << 50)]))) == [-1 % modulus, 5, -(1 << 50) % modulus]


def test_words_travel_in_nine_bytes() -> None:
    word = Word()
    a, b = drawn(word, 3, 5), drawn(word, 3, 5) - (1 << 40)
    raw = word.to_bytes(a)
    assert raw.size == 9 * 15 == wire_bytes(Opening(a, Kind.WIDE, word))
    assert np.array_equal(word.from_bytes(raw.tobytes(), (3, 5)), a)
    opened = combine(Opening(a, Kind.WIDE, word), to_wire(Opening(b, Kind.WIDE, word)).tobytes())
    assert np.array_equal(opened, word.wrap(a + b))
    with pytest.raises(ValueError, match="arrived with"):
        combine(Opening(a, Kind.WIDE, word), bytes(9 * 14))


@pytest.mark.parametrize("inputs", [1, 784, 3000])
def test_products_of_large_integers_are_exact(inputs: int) -> None:
    """All at their largest, where float64 would be the first to lose a bit."""
    word = Word()
    for bits, weight_bits in ((32, 32), (33, 33)):
        x, w = small(bits, 4, inputs), small(weight_bits, 3, inputs)
        x[0], w[0], w[1] = (1 << bits) - 1, (1 << weight_bits) - 1, -((1 << weight_bits) - 1)
        exact = (x.astype(object) @ w.T.astype(object)) % (1 << word.bits)
        layer = Linear(name="l", input="x", shape=(inputs,), out_features=3)
        got = times(word, layer, word.of(x), bits, w.astype(np.float64), weight_bits)
        assert integers(word, got) == list(exact.reshape(-1))


def test_combinations_are_exact() -> None:
    word, rows, columns, inputs = Word(), 70, 40, 9000
    coins = Coins(word, new_seed()).combination("layer", rows, columns)
    psi, chi = coins._psi.astype(object), coins._chi.astype(object)
    modulus, words, zeros = 1 << word.bits, drawn(word, rows, columns), np.zeros((2, rows, columns), np.int64)
    assert psi.shape == (VECTORS, rows) and psi.min() >= 0 and psi.max() < 1 << COIN_BITS
    whole = np.array(integers(word, words), dtype=object).reshape(rows, columns)
    both = [(psi[t] @ whole @ chi[t]) % modulus for t in range(VECTORS)]
    assert integers(word, coins.both(words)) == both
    assert integers(word, coins.both(zeros, words)) == [0] * VECTORS + both, "each array alike"
    layer, other = (Linear(name="l", input="x", shape=(n,), out_features=columns) for n in (inputs, 11))
    largest = np.full((columns, inputs), (1 << 32) - 1)
    exact = (chi @ largest.astype(object)) % modulus
    assert integers(word, coins.of_weight(layer, largest.astype(np.float64))) == list(exact.reshape(-1))
    tags = drawn(word, columns, 11)
    exact = (chi @ np.array(integers(word, tags), dtype=object).reshape(columns, 11)) % modulus
    assert integers(word, coins.of_tags(other, tags.astype(np.float64))) == list(exact.reshape(-1))


def test_many_products_add_up_exactly() -> None:
    """More than int64, or float64, adds up at a time."""
    word, count, one = Word(), (1 << 13) + 1, np.ones((1, 1), np.int64)
    largest, coins = np.full((2, count), (1 << word.limb) - 1), np.full((1, count), (1 << COIN_BITS) - 1)
    whole = [-count * ((1 << COIN_BITS) - 1) % (1 << word.bits)]
    rows, columns = Combination(word, coins, one), Combination(word, one, coins)
    assert integers(word, rows.over_rows(largest[..., None])) == whole
    assert integers(word, columns.over_columns(largest[:, None])) == whole
    layer = Linear(name="l", input="x", shape=(1,), out_features=count)
    assert integers(word, rows.inputs(layer, largest[..., None], word.bits)) == whole
    assert integers(word, columns.of_tags(layer, largest[..., None].astype(np.float64))) == whole
    weight = np.full((count, 1), (1 << word.low) - 1)
    whole = [count * ((1 << COIN_BITS) - 1) * ((1 << word.low) - 1) % (1 << word.bits)]
    assert integers(word, rows.inputs(layer, word.of(weight), word.low)) == whole
    assert integers(word, columns.of_weight(layer, weight.astype(np.float64))) == whole


def passing(room: int, vectors: int, coin_bits: int) -> float:
    """The most that a lie at the top bit of a value passes with: `room` bits lie above the value."""

    def tail(j: int) -> Fraction:
        at = min(j, coin_bits)
        return min(Fraction(1), Fraction(at + 2, 1 << (at + 1))) ** vectors

    terms = ((tail(j) - tail(j + 1)) / (1 << (room + 1 - j)) for j in range(room + 1))
    return math.log2(sum(terms, tail(room + 1)))


def test_the_stated_soundness() -> None:
    """72 bits with four vectors, against 64 bits and one vector; and short coins cost nothing."""
    assert passing(40, VECTORS, COIN_BITS) == pytest.approx(-40.4, abs=0.05)
    assert passing(32, 1, 64) == pytest.approx(-25.7, abs=0.05)
    assert passing(40, 4, 64) - passing(40, 4, COIN_BITS) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("vectors", [1, 2, 4])
def test_lies_pass_no_more_often_than_stated(vectors: int) -> None:
    """Words of 8 bits, values of 4: a lie of 2^3 in one word, under every Delta and all coins."""
    coins = np.arange(256)
    lies, counts = np.unique((coins[:, None] * coins << 3) & 0xFF, return_counts=True)
    passes = (np.arange(256)[:, None] * lies) & 0xFF == 0
    passed = math.log2(((passes @ counts / 256**2) ** vectors).mean())
    assert passing(4, vectors, 8) - 0.2 < passed < passing(4, vectors, 8) + 1e-9  # the bound holds, and is close


def test_lies_about_a_convolution_pass_no_more_often_than_stated() -> None:
    """Words of 8 bits, values of 4, two places of two channels each: some lies whose lowest odd multiple is 2^3, under
    every Delta and all coins of 4 bits. The stated bound is for a coin for each row and place, and one for each
    channel."""
    coins = np.arange(16)
    psi, chi = (np.stack(np.meshgrid(coins, coins), axis=-1).reshape(-1, 2) for _ in range(2))
    factors = small(5, 60, 2, 2)
    factors[:, 0, 0] |= 1
    factors[0], factors[1], factors[2] = [[1, 0], [0, 0]], [[1, 1], [1, 1]], [[1, 0], [0, 1]]
    delta = np.arange(256)[:, None]
    for factor in factors:
        sums = (np.einsum("aq,qo,bo->ab", psi, factor, chi) << 3) & 0xFF
        lies, counts = np.unique(sums, return_counts=True)
        passes = ((delta * lies) & 0xFF == 0) @ counts / sums.size
        assert math.log2((passes**VECTORS).mean()) < passing(4, VECTORS, 4) + 1e-9


def test_rows_of_a_stream_are_those_of_the_whole() -> None:
    """Whatever comes before them, and wherever in the cipher's blocks they begin."""
    whole = Stream(bytes(32), "s").words("w", (7, 5), np.uint8)
    for first in range(7):
        assert np.array_equal(Stream(bytes(32), "s").rows("w", first, (7 - first, 5), np.uint8), whole[first:])
