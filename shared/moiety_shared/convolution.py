"""Convolutions of machine words, modulo the word: exact in every ring, since a ring's modulus divides that of its word.

torch's own integer convolution takes a third to two thirds longer than its product of the same size, so larger ones of
int32 are made here of such products. Where every channel has a kernel of its own torch is a tenth as quick: such
convolutions are made of numpy's elementwise products.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moiety_shared.plan.layers import Conv

Words = npt.NDArray[Any]
"""int16, int32 or int64."""

_BLOCK = 1 << 15  # words of an accumulator: few enough that it stays in the cache with what it is made of
_ROWS_BLOCK = 1 << 18  # words of the rows that are multiplied at a time: 1 MiB
_LEAST_TAPS = 128  # taps of all channels: to gather fewer takes longer than torch saves


def convolve(layer: Conv, x: Words, weight: Words) -> Words:
    """Convolve modulo the word: (n, C, H, W) to (n, out, H', W'). The weight has torch's layout and the type of x."""
    stride, padding = layer.stride, layer.padding
    if layer.transposed:
        x = _spread(layer, torch.from_numpy(x)).numpy()
        weight = _turned(layer, torch.from_numpy(weight)).numpy()
        stride, padding = (1, 1), (0, 0)
    if layer.groups == layer.shape[0] == layer.out_channels:
        return _by_channel(x, weight[:, 0], stride, padding, layer.dilation)
    taps, places = math.prod(weight.shape[1:]), len(x) * math.prod(layer.output_shape[1:])
    if x.dtype == np.int32 and layer.groups == 1 and taps >= _LEAST_TAPS and layer.out_channels <= 2 * places:
        return _by_rows(layer, x, weight, stride, padding)
    given, kernel = torch.from_numpy(x), torch.from_numpy(weight)
    if layer.dilation != (1, 1):  # torch has no such integer convolution: zeros between the taps instead
        kernel = _apart(kernel, layer.dilation)
    result: Words = torch.nn.functional.conv2d(given, kernel, None, stride, padding, 1, layer.groups).numpy()
    return result


def _by_rows(layer: Conv, x: Words, weight: Words, stride: tuple[int, int], padding: tuple[int, int]) -> Words:
    """Convolve by products: (n, C, H, W) and (out, C, kh, kw) to (n, out, H', W').

    For each place it gathers what its window covers as a row, with the channels innermost, so that a line of the window
    is one run of memory. It multiplies as many rows at a time as a block holds.
    """
    (n, channels, height, width), (out, _, kh, kw) = x.shape, weight.shape
    (_, high, wide), dilation, (top, left) = layer.output_shape, layer.dilation, padding
    kernels = torch.from_numpy(weight).permute(0, 2, 3, 1).reshape(out, -1)
    image = np.zeros((height + 2 * top, width + 2 * left, channels), dtype=x.dtype)
    down, right, deep = image.strides
    windows = np.lib.stride_tricks.as_strided(
        image,
        (high, wide, kh, kw, channels),
        (stride[0] * down, stride[1] * right, dilation[0] * down, dilation[1] * right, deep),
        writeable=False,
    )
    lines = min(max(_ROWS_BLOCK // (wide * kernels.shape[1]), 1), high)
    rows: Words = torch.empty((lines, *windows.shape[1:]), dtype=kernels.dtype).numpy()  # where products are quick
    result = np.empty((n, out, high, wide), dtype=x.dtype)
    for index in range(n):
        image[top : top + height, left : left + width] = x[index].transpose(1, 2, 0)
        for at in range(0, high, lines):
            part = rows[: min(lines, high - at)]
            part[:] = windows[at : at + lines]
            product = kernels @ torch.from_numpy(part).reshape(-1, kernels.shape[1]).t()
            result[index, :, at : at + lines] = product.numpy().reshape(out, -1, wide)
    return result


def _by_channel(
    x: Words, kernels: Words, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Words:
    """Convolve each channel with its own kernel: (n, C, H, W) and (C, kh, kw) to (n, C, H', W').

    Cuts each padded image into one small image for each place of a stride, so that a tap reads one run of one of them
    for all outputs. Outputs at the right edge, which such a run takes from the next line, are dropped.
    """
    (down, right), (top, left), (kh, kw) = stride, padding, kernels.shape[1:]
    rows, channels, height, width = x.shape
    high = (height + 2 * top - dilation[0] * (kh - 1) - 1) // down + 1
    wide = (width + 2 * left - dilation[1] * (kw - 1) - 1) // right + 1
    lines, line = -(-(height + 2 * top) // down), -(-(width + 2 * left) // right)
    images = x.reshape(-1, height, width)
    step = min(max(_BLOCK // (lines * line), 1), max(len(images), 1))
    cut = np.zeros((step, down, right, (lines + 1) * line), dtype=x.dtype)  # a run may end one line further down
    squares = cut.reshape(step, down, right, lines + 1, line)
    total, product = (np.empty((step, high * line), dtype=x.dtype) for _ in range(2))
    out = np.empty((len(images), high, wide), dtype=x.dtype)
    for at in range(0, len(images), step):
        part = images[at : at + step]
        size = len(part)
        for v, h in np.ndindex(down, right):
            first, start = (v - top) % down, (h - left) % right
            picked = part[:, first::down, start::right]
            y, z = (first + top) // down, (start + left) // right
            squares[:size, v, h, y : y + picked.shape[1], z : z + picked.shape[2]] = picked
        taps = kernels[np.arange(at, at + size) % channels, :, :, None]
        total[:size] = 0
        for i, j in np.ndindex(kh, kw):
            (y, v), (z, h) = divmod(i * dilation[0], down), divmod(j * dilation[1], right)
            run = cut[:size, v, h, y * line + z :][:, : high * line]
            np.multiply(run, taps[:, i, j], out=product[:size])
            total[:size] += product[:size]
        out[at : at + size] = total[:size].reshape(size, high, line)[:, :, :wide]
    return out.reshape(rows, channels, high, wide)


def _apart(x: Tensor, steps: tuple[int, int]) -> Tensor:
    """Put zeros between the elements of the last two axes, so that the elements are `steps` apart."""
    rows, columns = ((n - 1) * step + 1 for n, step in zip(x.shape[2:], steps, strict=True))
    spread = x.new_zeros((*x.shape[:2], rows, columns))
    spread[:, :, :: steps[0], :: steps[1]] = x
    return spread


def _spread(layer: Conv, x: Tensor) -> Tensor:
    """Return the input over which a transposed convolution is an ordinary one: zeros stand in for its strides, and the
    padding is turned inside out."""
    spread = _apart(x, layer.stride)
    rows, columns = (
        (d * (k - 1) - p, d * (k - 1) - p + o)
        for d, k, p, o in zip(layer.dilation, layer.kernel, layer.padding, layer.output_padding, strict=True)
    )
    return torch.nn.functional.pad(spread, (*columns, *rows))


def _turned(layer: Conv, weight: Tensor) -> Tensor:
    """Return the kernel for the spread input: (in, out / groups, kh, kw) to (out, in / groups, kh, kw), with each tap
    mirrored."""
    inputs, outputs = weight.shape[:2]
    grouped = weight.reshape(layer.groups, inputs // layer.groups, outputs, *layer.kernel).transpose(1, 2)
    return grouped.reshape(layer.groups * outputs, inputs // layer.groups, *layer.kernel).flip(2, 3)
