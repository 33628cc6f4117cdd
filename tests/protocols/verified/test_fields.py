"""The fields of the look-ups' proofs, and polynomials that are known at one secret point."""

import numpy as np
import pytest

from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.lookups import ReLU
from moiety_shared.protocols import sign
from moiety_shared.protocols.verified import fields
from moiety_shared.protocols.verified.bits import Chosen, summands
from moiety_shared.protocols.verified.polynomials import Points, SecretPoint
from moiety_shared.ring import Array


def drawn(*shape: int) -> Array:
    return Stream(new_seed()).words("bytes", shape, np.uint8)


def by_hand(a: int, b: int) -> int:
    """A product of K, the schoolbook's way."""
    out = 0
    for bit in range(8):
        out ^= (a << bit) * (b >> bit & 1)
    for bit in reversed(range(8, 15)):
        out ^= (0x11B << (bit - 8)) * (out >> bit & 1)
    return out


def test_every_product_of_bytes() -> None:
    table = fields.byte_table()
    assert table.tolist() == [[by_hand(a, b) for b in range(256)] for a in range(256)]
    every = np.arange(1, 256, dtype=np.uint8)
    assert (fields.byte_product(every, fields.byte_inverse(every)) == 1).all()
    assert fields.byte_fold(every) == 1  # Wilson: the product of all units is -1, which is 1 here


def test_l_is_a_field_over_k() -> None:
    a, b, c = drawn(200, 8), drawn(200, 8), drawn(200, 8)
    assert np.array_equal(fields.product(fields.product(a, b), c), fields.product(a, fields.product(b, c)))
    assert np.array_equal(fields.product(a, b ^ c), fields.product(a, b) ^ fields.product(a, c))
    assert np.array_equal(fields.product(a, fields.inverse(a)), fields.embedded(np.ones(200, np.uint8)))
    assert np.array_equal(fields.scaled(a[:, 0], b), fields.product(fields.embedded(a[:, 0]), b))
    stacked = fields.sum_of_products(*(fields.words(each).reshape(4, 5, 10) for each in (a, b)))
    assert np.array_equal(stacked, np.bitwise_xor.reduce(fields.product(a, b).reshape(4, 5, 10, 8), axis=1))


def test_l_has_2_to_the_64_elements() -> None:
    """y to the 2^64 is y, and y to the 2^32 is not: f has no factor of a degree that divides 4. Squares to 2^64 alone
    would also hold for factors of degrees 1, 2, 4 and 8; the norm below rules those out."""
    y = np.array([0, 1, 0, 0, 0, 0, 0, 0], np.uint8)
    power, at_32 = y, y
    for squared in range(64):
        power = fields.product(power, power)
        at_32 = power if squared == 31 else at_32
    assert np.array_equal(power, y)
    difference = at_32 ^ y  # invertible exactly if gcd(y^(2^32) - y, f) = 1
    assert fields.product(difference, fields.inverse(difference)).tolist() == [1, 0, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("slots", [1, 5, 100, 120])
def test_products_of_polynomials_agree_at_the_secret_point(slots: int) -> None:
    points = Points(slots)
    key = SecretPoint.draw(points, Stream(new_seed()))
    x, c, pads = drawn(20, slots) & 1, drawn(20, slots) & 1, drawn(20, 8)
    packed, chosen = points.packed(x), points.packed(c)
    further = fields.byte_product(points.extended(packed, pads[:, None]), points.extended(chosen))[:, 0]
    values = np.concatenate((x & c, np.zeros((20, 8), np.uint8), further), axis=1)
    at_zeta = np.bitwise_xor.reduce(fields.scaled(values, key.whole[None]), axis=1)
    tau = key.of_bits(packed)[:, 0] ^ key.of_pads(pads)
    assert np.array_equal(at_zeta, fields.product(fields.unwords(tau), fields.unwords(key.of_bits(chosen)[:, 0])))
    values[3, -1] ^= 1
    assert not np.array_equal(at_zeta, np.bitwise_xor.reduce(fields.scaled(values, key.whole[None]), axis=1))


@pytest.mark.parametrize("digit_bits", [2, 3, 4])
def test_what_a_party_expects_is_what_its_planes_add_up_to(digit_bits: int) -> None:
    """Slot by slot, as it is computed, and plane by plane, as it is defined. The last group is not full."""
    rows, n = 3, 23
    members = {"shape": (n,), "shift": 0, "opened_bits": 9, "range_bits": 8, "digit_bits": digit_bits}
    layer = ReLU.model_validate({"name": "r", "input": "x"} | members)
    key = SecretPoint.draw(Points(10), Stream(new_seed()))
    t, bits = drawn(rows, n).astype(np.int16), drawn(rows, n) & ((1 << layer.lookups) - 1)
    chosen = Chosen.of(layer, key.points, t, bits)
    packed = chosen.packed(layer)
    y = Stream(new_seed()).words("y", packed.shape[:3], np.uint64)
    planes = fields.sum_of_products(key.of_bits(packed), y)
    assert np.array_equal(fields.unwords(key.of_slots(chosen.sums(layer, key.points.slots, y))), planes)
    whole = np.unpackbits(packed, axis=-1, bitorder="little")[..., : key.points.slots].reshape(rows, -1, 30)
    assert not whole[..., n:].any(), "no comparison has these slots"


@pytest.mark.parametrize("digit_bits", [2, 3, 4])
def test_what_is_chosen_adds_up_to_the_byte_of_a_comparison(digit_bits: int) -> None:
    """Bit by bit, as the byte is defined. The planes are any bytes of K, not bits alone."""
    rows, n = 3, 23
    members = {"shape": (n,), "shift": 0, "opened_bits": 9, "range_bits": 8, "digit_bits": digit_bits}
    layer = ReLU.model_validate({"name": "r", "input": "x"} | members)
    t, bits = drawn(rows, n).astype(np.int16), drawn(rows, n) & ((1 << layer.lookups) - 1)
    ends = [min((1 << width) + 1, 8 * np.dtype(layer.table_dtype).itemsize) for _, width in layer.digits]
    tables, word = [drawn(rows, end, n) for end in ends], drawn(rows, layer.lookups + 1 + layer.monomials, n)
    expected = np.zeros((rows, n), np.uint8)
    for place, table in enumerate(tables):
        value = sign.digits_of(layer, t)[:, place, None].astype(np.int64)
        beyond = np.concatenate((table, np.zeros((rows, 1, n), np.uint8)), axis=1)
        reached, less = (np.take_along_axis(beyond, value + more, axis=1)[:, 0] for more in (0, 1))
        expected ^= fields.byte_product(less, np.uint8(1 << 2 * place))
        expected ^= fields.byte_product(less ^ reached, np.uint8(1 << 2 * place >> 1)) if place else 0
    coefficients = sign.coefficients(len(layer.digits), layer.word_dtype)[bits]
    for bit in range(word.shape[1]):
        expected ^= fields.byte_product(word[:, bit], np.uint8(1 << bit)) if bit < layer.lookups else 0
        expected ^= fields.byte_product(word[:, bit], (coefficients >> bit & 1).astype(np.uint8) << 7)
    points = Points(n)
    chosen = Chosen.of(layer, points, t, bits).packed(layer)
    one = np.unpackbits(chosen, axis=-1, bitorder="little")[:, :, 0, :n]
    found = np.bitwise_xor.reduce(one * summands(layer, np.concatenate((*tables, word), axis=1)), axis=1)
    assert np.array_equal(found, expected)


def test_pads_hide_what_is_known_at_the_secret_point() -> None:
    key = SecretPoint.draw(Points(7), Stream(new_seed()))
    wanted = fields.words(drawn(30, 8))
    assert np.array_equal(key.of_pads(key.pads_of(wanted)), wanted)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_a_point_of_a_smaller_field_is_refused(degree: int) -> None:
    """Of lower degree over K, X(zeta) tells something of the bits: the pads reach only part of L."""
    zeta = np.zeros(8, np.uint8)
    while not zeta.any():
        zeta, within = drawn(8), 8
        while within > degree:  # the trace to the field of half the degree
            within //= 2
            conjugate = zeta
            for _ in range(8 * within):
                conjugate = fields.product(conjugate, conjugate)
            zeta = zeta ^ conjugate
    with pytest.raises(ValueError, match="degree"):
        SecretPoint(Points(5), zeta)


def test_products_in_a_small_field() -> None:
    """GF(8), by its powers of x; and GF(2^128) against a product worked out by other means."""
    powers = [1]
    while len(powers) < 7:
        powers.append(fields.polynomial_product(powers[-1], 2, 0b1011))
    assert sorted(powers) == list(range(1, 8))
    for i in range(7):
        for j in range(7):
            assert fields.polynomial_product(powers[i], powers[j], 0b1011) == powers[(i + j) % 7]
    a, b, c = (int.from_bytes(drawn(16).tobytes(), "little") for _ in range(3))

    def times(x: int, y: int) -> int:
        return fields.polynomial_product(x, y, fields.MODULUS_128)

    assert times(times(a, b), c) == times(a, times(b, c)) and times(a, b ^ c) == times(a, b) ^ times(a, c)
    assert times(a, 1) == a and times(1 << 127, 2) == 0x87
