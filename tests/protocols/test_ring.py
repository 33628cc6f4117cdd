"""Products and convolutions of ring elements against Python's unbounded integers."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moiety_shared import convolution
from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.layers import Conv
from moiety_shared.ring import Array, Ring

cases = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
bits = st.sampled_from([2, 7, 16, 17, 31, 32, 33, 48, 63, 64])
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def elements(ring: Ring, shape: tuple[int, ...], seed: int) -> Array:
    """Random ring elements. About a third of them are next to the word's ends, or to 0."""
    stream, word = Stream(seed.to_bytes(32)), np.iinfo(ring.dtype)
    ends = np.array([word.min, word.min + 1, word.max, word.max - 1, -1, 0, 1, 2], dtype=ring.dtype)
    which = stream.words("which", shape, np.uint8)
    return ring.wrap(np.where(which < 85, ends[which % 8], stream.words("any", shape, ring.dtype)))


def assert_ring_elements(ring: Ring, got: Array, exact: Array) -> None:
    """`got` are the representatives of the unbounded integers `exact`, as words of the ring."""
    assert got.dtype == ring.dtype and got.shape == exact.shape
    assert (got.astype(object) % (1 << ring.bits) == exact % (1 << ring.bits)).all()
    assert ring.whole_word or (got == ring.wrap(got)).all()


def exact_convolution(layer: Conv, x: Array, weight: Array) -> Array:
    """The definition, one multiplication of Python integers after another."""
    out = np.zeros((len(x), *layer.output_shape), dtype=object)
    inputs, outputs = layer.shape[0] // layer.groups, layer.out_channels // layer.groups
    near, far = (layer.shape, layer.output_shape) if layer.transposed else (layer.output_shape, layer.shape)
    for group, a, b in product(range(layer.groups), range(inputs), range(outputs)):
        c, o = group * inputs + a, group * outputs + b
        taps = weight[c, b] if layer.transposed else weight[o, a]
        for i, j, y, z in product(*map(range, layer.kernel), *map(range, near[1:])):
            v = y * layer.stride[0] - layer.padding[0] + i * layer.dilation[0]
            h = z * layer.stride[1] - layer.padding[1] + j * layer.dilation[1]
            if not (0 <= v < far[1] and 0 <= h < far[2]):
                continue
            read, write = ((y, z), (v, h)) if layer.transposed else ((v, h), (y, z))
            for row in range(len(x)):
                out[row, o, *write] += int(x[row, c, *read]) * int(taps[i, j])
    return out


@st.composite
def convolutions(draw: st.DrawFn) -> Conv:
    """Channels that mix, in groups, and each on its own; images with one line; kernels as large as the image."""
    groups, inputs, outputs = draw(st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(1, 2)))
    kernel, dilation, stride = draw(pairs), draw(pairs), draw(pairs)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    transposed, whole, bare = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    if bare:
        padding = (0, 0)
    if whole:
        kernel, dilation = shape, (1, 1)
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if transposed:  # a padding that leaves no output is no layer
        padding = (min(padding[0], reach[0] // 2), min(padding[1], reach[1] // 2))
    else:
        shape = (max(shape[0], reach[0] + 1 - 2 * padding[0]), max(shape[1], reach[1] + 1 - 2 * padding[1]))
    extra = draw(st.integers(0, min(*stride, *dilation) - 1)) if transposed else 0
    return Conv(
        name="c",
        input="x",
        shape=(groups * inputs, *shape),
        out_channels=groups * outputs,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=transposed,
        output_padding=(extra, extra),
    )


@cases
@given(bits, st.integers(0, 20), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**32))
def test_products_are_exact(bits: int, rows: int, inner: int, out: int, seed: int) -> None:
    ring = Ring(bits)
    a, b = elements(ring, (rows, inner), seed), elements(ring, (out, inner), seed + 1)
    assert_ring_elements(ring, ring.matmul(a, b), np.dot(a.astype(object), b.astype(object).T))


@pytest.mark.parametrize("value", [-(2**63), 2**63 - 1, -1])
@pytest.mark.parametrize("rows", [0, 1, 8, 9, 128])
def test_products_of_the_extremes_are_exact(value: int, rows: int) -> None:
    a, b = np.full((rows, 4097), value), np.full((3, 4097), value)
    exact = np.full((rows, 3), value * value * 4097, dtype=object)
    assert_ring_elements(Ring(64), Ring(64).matmul(a, b), exact)


@cases
@given(bits, convolutions(), st.integers(0, 3), st.sampled_from([1, 40, 1 << 15]), st.booleans(), st.integers(0, 2**32))
def test_convolutions_are_exact(bits: int, layer: Conv, rows: int, block: int, by_rows: bool, seed: int) -> None:
    ring = Ring(bits)
    x, weight = elements(ring, (rows, *layer.shape), seed), elements(ring, layer.weights()["weight"], seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_BLOCK", block)
        patch.setattr(convolution, "_ROWS_BLOCK", block)
        patch.setattr(convolution, "_LEAST_TAPS", 1 if by_rows else 1 << 30)
        assert_ring_elements(ring, ring.conv(layer, x, weight), exact_convolution(layer, x, weight))


@pytest.mark.parametrize(("channels", "side", "kernel", "stride"), [(20, 12, 5, 1), (64, 40, 3, 1), (130, 9, 1, 2)])
def test_large_convolutions_compute_what_torch_does(channels: int, side: int, kernel: int, stride: int) -> None:
    """Rows of many windows, in one block and in several."""
    ring = Ring(32)
    layer = Conv(
        name="c",
        input="x",
        shape=(channels, side, side),
        out_channels=40,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
    )
    x, weight = elements(ring, (3, *layer.shape), 1), elements(ring, layer.weights()["weight"], 2)
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight), None, stride, kernel // 2)
    assert np.array_equal(ring.conv(layer, x, weight), expected.numpy())


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize(("side", "kernel", "stride"), [(7, 5, 1), (14, 5, 2), (56, 3, 1), (112, 3, 2), (200, 3, 1)])
def test_a_kernel_for_each_channel_computes_what_torch_does(bits: int, side: int, kernel: int, stride: int) -> None:
    """Images of many sizes, in one block and in several."""
    ring, channels = Ring(bits), 24
    layer = Conv(
        name="c",
        input="x",
        shape=(channels, side, side),
        out_channels=channels,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=(kernel // 2, kernel // 2),
        groups=channels,
    )
    x, weight = elements(ring, (2, *layer.shape), 1), elements(ring, layer.weights()["weight"], 2)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x), torch.from_numpy(weight), None, stride, kernel // 2, 1, channels
    )
    assert np.array_equal(ring.conv(layer, x, weight), expected.numpy())
