"""Float64 products of convolutions, against integers: exact at their largest, and combined as a check combines them."""

import numpy as np
import pytest

from moiety_shared.convolution import convolve
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.layers import Conv, Linear
from moiety_shared.protocols.verified.bilinear import MAX_FAN_IN, Weighted, by_place, outputs, places, times
from moiety_shared.protocols.verified.coins import Coins
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array
from tests.protocols.verified.test_words import integers

WORD = Word()
ROWS = 2


def conv(**more: object) -> Conv:
    return Conv(**{"name": "c", "input": "x", "shape": (4, 6, 5), "out_channels": 6, "kernel": (3, 2), **more})


LAYERS: dict[str, Weighted] = {
    "matrix": Linear(name="c", input="x", shape=(3, 70), out_features=5),
    "plain": conv(),
    "strided, padded, dilated": conv(stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
    "grouped": conv(groups=2, stride=(2, 2)),
    "by channel": conv(groups=4, out_channels=4, padding=(1, 0)),
    "transposed": conv(transposed=True, stride=(2, 3), padding=(1, 0), output_padding=(1, 2), groups=2),
}


def uniform(bits: int, shape: tuple[int, ...]) -> Array:
    return Stream(new_seed()).words("w", shape, np.int64) & ((1 << bits) - 1)


def exact(layer: Weighted, x: Array, weight: Array) -> Array:
    """x w as Python's integers, from products of 16 bits of x, which int64 holds."""
    total = np.zeros((len(x), *layer.output_shape), dtype=object)
    for start in range(0, 48, 16):
        part = x >> start & 0xFFFF
        product = convolve(layer, part, weight) if isinstance(layer, Conv) else part @ weight.T
        total += product.astype(object) << start
    return total % (1 << WORD.bits)


@pytest.mark.parametrize("name", LAYERS)
def test_products_of_the_largest_integers_are_exact(name: str) -> None:
    layer = LAYERS[name]
    for bits, weight_bits in ((32, 32), (33, 33)):
        x, weight = uniform(bits, (ROWS, *layer.shape)), uniform(weight_bits, layer.weights()["weight"])
        x[0], weight[0] = (1 << bits) - 1, (1 << weight_bits) - 1
        got = times(WORD, layer, WORD.of(x), bits, weight.astype(np.float64), weight_bits)
        assert integers(WORD, got) == list(exact(layer, x, weight).reshape(-1))


def test_the_largest_fan_in_is_exact() -> None:
    layer = Linear(name="c", input="x", shape=(MAX_FAN_IN,), out_features=1)
    x, weight = (np.full((1, MAX_FAN_IN), (1 << 33) - 1) for _ in range(2))
    got = times(WORD, layer, WORD.of(x), 33, weight.astype(np.float64), 33)
    assert integers(WORD, got) == [MAX_FAN_IN * ((1 << 33) - 1) ** 2 % (1 << WORD.bits)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_combination_of_a_product_is_a_product_of_combinations(name: str) -> None:
    """psi (x w) chi = X (w chi), for weights and, in limbs, for their tags; and for words of 72 bits in x."""
    layer = LAYERS[name]
    coins = Coins(WORD, new_seed()).combination("c", ROWS * places(layer), outputs(layer))
    x, weight = uniform(32, (ROWS, *layer.shape)), uniform(32, layer.weights()["weight"])
    y = times(WORD, layer, WORD.of(x), 32, weight.astype(np.float64), 32)
    whole, masked = coins.inputs(layer, WORD.of(x), 32), coins.of_weight(layer, weight.astype(np.float64))
    assert np.array_equal(WORD.dot(whole, masked), coins.both(by_place(layer, y))[:, 0])
    assert np.array_equal(coins.of_tags(layer, WORD.of(weight).astype(np.float64)), masked)
    tags = WORD.uniform(Stream(new_seed()), "t", x.shape)
    y = times(WORD, layer, tags, WORD.bits, weight.astype(np.float64), 32)
    assert np.array_equal(WORD.dot(coins.inputs(layer, tags, WORD.bits), masked), coins.both(by_place(layer, y))[:, 0])
