"""What Linear and Conv layers multiply, exactly, by float64: BLAS is quick there, and holds integers of 53 bits.

Words are cut into pieces so short that no sum of products leaves 53 bits. Such a sum is exact whatever its order, so a
convolution is torch's own. A layer has places, such as those of a picture, and in each as many outputs as channels:

    y_oq = sum_c x_c(q) w_oc        x(q): what the window at place q covers

A check asks for combinations of places and outputs, with coins psi and chi:

    sum_qo psi_q chi_o y_oq = sum_c (sum_q psi_q x_c(q)) (sum_o chi_o w_oc)

The first factor, X, is the correlation of x with psi: what training calls the gradient of the weight. The second takes
no place. So a check costs what one product with four outputs costs.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d
from torch.nn.grad import conv2d_weight

from moiety_shared.plan.layers import Conv, Linear
from moiety_shared.protocols.verified.word import EXACT_BITS, Word
from moiety_shared.ring import Array

Weighted = Linear | Conv

MAX_FAN_IN = 1 << 19
"""The most inputs of one output: products of 33 bits and one, added up, still fit 53 bits."""


def fan_in(layer: Weighted) -> int:
    """The most products that one output adds up."""
    if isinstance(layer, Linear):
        return layer.shape[-1]
    return math.prod(layer.kernel) * layer.shape[0] // layer.groups


def outputs(layer: Weighted) -> int:
    """The number of outputs of one place."""
    return layer.out_features if isinstance(layer, Linear) else layer.out_channels


def places(layer: Weighted) -> int:
    """The number of places of one row."""
    return math.prod(layer.output_shape) // outputs(layer)


def by_place(layer: Weighted, y: Array) -> Array:
    """Arrange (2, rows, *output shape) as (2, rows * places, outputs)."""
    last = np.moveaxis(y, 2, -1) if isinstance(layer, Conv) else y
    return last.reshape(2, -1, outputs(layer))


def each_place(layer: Weighted, bias: Array) -> Array:
    """A bias (outputs,) with the axes of (rows, *output shape)."""
    behind = (1, 1) if isinstance(layer, Conv) else ()
    return bias.reshape(*[1] * (len(layer.output_shape) - len(behind)), -1, *behind)


def times(word: Word, layer: Weighted, x: Array, bits: int, weight: Array, weight_bits: int) -> Array:
    """Compute x * w in words: x (2, rows, *shape), integers of 0 .. 2^bits - 1, and w in torch's layout, float64
    integers below 2^weight_bits in absolute value. Returns (2, rows, *output shape)."""
    width = min(EXACT_BITS - weight_bits - (fan_in(layer) - 1).bit_length(), word.limb, bits)
    cut = word.pieces(x, width, bits)
    products = _product(layer, cut.reshape(-1, *layer.shape), weight).astype(np.int64)
    return word.placed(list(products.reshape(len(cut), -1, *layer.output_shape)), width)


def _product(layer: Weighted, x: Array, weight: Array) -> Array:
    given, kernel = torch.from_numpy(x), torch.from_numpy(weight)
    if isinstance(layer, Linear):
        whole = given @ kernel.T
    elif layer.transposed:
        whole = conv_transpose2d(
            given, kernel, None, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        )
    else:
        whole = conv2d(given, kernel, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return whole.numpy()


def correlated(word: Word, layer: Conv, psi: Array, psi_bits: int, x: Array, bits: int) -> Array:
    """Compute X of a convolution from psi (t, rows * places), of `psi_bits` bits, and words x (2, rows, *shape),
    integers of 0 .. 2^bits - 1. Returns (2, t, inputs of the weight)."""
    width = min(EXACT_BITS - psi_bits - (psi.shape[1] - 1).bit_length(), word.limb, bits)
    coins = psi.astype(np.float64)
    sums = [_correlation(layer, coins, piece).astype(np.int64) for piece in word.pieces(x, width, bits)]
    return word.wrap(word.placed(sums, width))


def _correlation(layer: Conv, psi: Array, x: Array) -> Array:
    vectors, rows = len(psi), len(x)
    coins = torch.from_numpy(psi.reshape(vectors, rows, *layer.output_shape[1:])).transpose(0, 1).contiguous()
    given, kernel = torch.from_numpy(x), layer.kernel
    if layer.transposed:  # its windows are of its output
        shape = (layer.shape[0], vectors, *kernel)
        return _gradient(layer, coins, shape, given).swapaxes(0, 1).reshape(vectors, -1)
    return _gradient(layer, given, (vectors, layer.shape[0], *kernel), coins).reshape(vectors, -1)


def _gradient(layer: Conv, x: Tensor, shape: tuple[int, ...], y: Tensor) -> Array:
    found: Tensor = conv2d_weight(x, shape, y, layer.stride, layer.padding, layer.dilation)  # type: ignore[no-untyped-call]
    return found.numpy()


def over_outputs(layer: Weighted, chi: Array, chi_bits: int, weight: Array, bits: int) -> Iterator[Array]:
    """Compute sum_o chi_o w_oc from chi (t, outputs), of `chi_bits` bits, and a weight in torch's layout, float64
    integers of `bits` bits. Yields int64 summands of that, (t, inputs of the weight), each of so few outputs that
    float64 is exact."""
    grouped, half = _by_output(layer, weight), chi_bits // 2
    halves = np.concatenate((chi & ((1 << half) - 1), chi >> half)).astype(np.float64)
    coins = np.swapaxes(halves.reshape(len(halves), len(grouped), -1), 0, 1)
    most = 1 << (EXACT_BITS - bits - half)
    for at in range(0, coins.shape[-1], most):
        sums = (coins[..., at : at + most] @ grouped[:, at : at + most]).astype(np.int64)
        low, high = np.swapaxes(sums, 0, 1).reshape(2, len(chi), -1)
        yield low + (high << half)


def _by_output(layer: Weighted, weight: Array) -> Array:
    """Arrange a weight in torch's layout as (groups, outputs of a group, inputs of one output)."""
    if isinstance(layer, Linear):
        return weight[None]
    if not layer.transposed:
        return weight.reshape(layer.groups, layer.out_channels // layer.groups, -1)
    apart = weight.reshape(layer.groups, layer.shape[0] // layer.groups, layer.out_channels // layer.groups, -1)
    return np.swapaxes(apart, 1, 2).reshape(layer.groups, layer.out_channels // layer.groups, -1)
