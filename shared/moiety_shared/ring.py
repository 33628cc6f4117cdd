"""Arrays over Z_{2^k}.

The elements are numpy int16 (k <= 16), int32 (k <= 32) or int64 arrays whose arithmetic wraps. For k = 16, 32 and 64
the machine word is the ring, so `wrap` costs nothing. Other rings keep the canonical representative in 0 .. 2^k - 1.

Elementwise operations use numpy: on the wires of one image an operation takes numpy 0.5 to 2 microseconds and torch 1
to 6, and on those of 128 images the two are level. Products use torch, whose integer products are by far the quicker.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moiety_shared.plan.layers import Conv

Array = npt.NDArray[Any]
"""Ring elements of a `Ring.dtype`, or words of bits; each docstring says which."""


@dataclass(frozen=True)
class Ring:
    """The ring Z_{2^bits}, 2 <= bits <= 64."""

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 64:
            raise ValueError(f"a ring has 2 to 64 bits, not {self.bits}")

    @property
    def dtype(self) -> type[np.int16] | type[np.int32] | type[np.int64]:
        return np.int16 if self.bits <= 16 else np.int32 if self.bits <= 32 else np.int64

    @property
    def whole_word(self) -> bool:
        return self.bits in (16, 32, 64)

    def wrap(self, x: Array) -> Array:
        """The representative of x in this ring; the identity where the word is the ring."""
        return x if self.whole_word else x & ((1 << self.bits) - 1)

    def reduce(self, x: Array, shift: int) -> Array:
        """floor(x / 2^shift) in this ring, for x of any ring of at least shift + bits bits."""
        return self.wrap((x >> shift if shift else x).astype(self.dtype, copy=False))

    def lift(self, x: Array, ring: "Ring") -> Array:
        """The representative in 0 .. 2^bits - 1 of x as an element of a larger ring."""
        if self.bits == ring.bits:
            return x
        unsigned = x.view(f"u{x.itemsize}") if self.whole_word else x
        return unsigned.astype(ring.dtype)

    def bit(self, x: Array, index: int) -> Array:
        """Bit `index` of every element, 0 or 1."""
        return (x >> index) & 1

    def matmul(self, a: Array, b: Array) -> Array:
        """Compute a b^T mod 2^k: (n, i) and (o, i) to (n, o). torch is fast with this layout of b."""
        return self.wrap((torch.from_numpy(a) @ torch.from_numpy(b).t()).numpy())

    def conv(self, layer: Conv, x: Array, weight: Array) -> Array:
        """Convolve mod 2^k: (n, C, H, W) to (n, out, H', W'). The weight has torch's layout."""
        given, kernel = torch.from_numpy(x), torch.from_numpy(weight)
        stride, padding = layer.stride, layer.padding
        if layer.transposed:
            given, kernel = _spread(layer, given), _turned(layer, kernel)
            stride, padding = (1, 1), (0, 0)
        if layer.dilation != (1, 1):  # torch has no such integer convolution: zeros between the taps instead
            kernel = _apart(kernel, layer.dilation)
        return self.wrap(torch.nn.functional.conv2d(given, kernel, None, stride, padding, 1, layer.groups).numpy())

    def signed(self, x: Array) -> Array:
        """Read x as two's complement: -2^(k-1) .. 2^(k-1) - 1."""
        if self.whole_word:
            return x
        negative: Array = (x >> (self.bits - 1)) << self.bits
        return x - negative


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
