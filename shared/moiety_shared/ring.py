"""Arrays over Z_{2^k}.

The elements are numpy int16 (k <= 16), int32 (k <= 32) or int64 arrays whose arithmetic wraps. For k = 16, 32 and 64
the machine word is the ring, so `wrap` costs nothing. Other rings keep the canonical representative in 0 .. 2^k - 1.

Elementwise operations use numpy: on the wires of one image an operation takes numpy 0.5 to 2 microseconds and torch 1
to 6, and on those of 128 images the two are level. Products use torch, whose integer products are the quicker ones but
for few rows of int64 (`_FEW_ROWS`), for int64 on processors without AVX-512 (`_WIDE`), and for a kernel for each
channel (`convolution`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from moiety_shared.arrays import Array as Array
from moiety_shared.convolution import convolve
from moiety_shared.plan.layers import Conv

_BLOCK = 1 << 15  # elements of a temporary: few enough that some of them stay in the cache
_SMALL = 1 << 14  # elements of b: with fewer, a call of torch takes longer than the product of one row does
_FEW_ROWS = 8  # of int64: for more, torch is the quicker, though it turns the whole of b round first
_MANY_ROWS = 16  # of int32: a product of so many gains more from aligned operands than copies of them take
_COPIED = 1 << 22  # elements of b: a copy of more takes memory that matters
_ALIGNED = 32  # bytes
"""Torch's products of int32 take up to 1.4 times as long where an operand does not begin at a multiple. Numpy's arrays
begin at any multiple of 16."""
_WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether the processor multiplies words of 64 bits side by side. Where it does not, torch takes four times as long as
numpy's einsum; where it does, a third as long."""


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
        bit: Array = x >> index
        bit &= 1
        return bit

    def matmul(self, a: Array, b: Array) -> Array:
        """Compute a b^T mod 2^k: (..., n, i) and (..., o, i) to (..., n, o). This layout of b is the quick one."""
        rows = a.shape[-2]
        if (rows <= _FEW_ROWS or not _WIDE) if self.bits > 32 else (rows == 1 and b.size <= _SMALL):
            return self.wrap(np.einsum("...ni,...oi->...no", a, b))
        if self.bits <= 32 and rows >= _MANY_ROWS:
            a, b = aligned(a), aligned(b) if b.size <= _COPIED else b
        return self.wrap((torch.from_numpy(a) @ torch.from_numpy(b).mT).numpy())

    def conv(self, layer: Conv, x: Array, weight: Array) -> Array:
        """Convolve mod 2^k: (n, C, H, W) to (n, out, H', W'). The weight has torch's layout."""
        if layer.kernel == layer.shape[1:] and layer.groups == 1 and not (any(layer.padding) or layer.transposed):
            kernels = weight.reshape(layer.out_channels, -1)
            return self.matmul(x.reshape(-1, kernels.shape[1]), kernels).reshape(-1, *layer.output_shape)
        return self.wrap(convolve(layer, x, weight))

    def signed(self, x: Array) -> Array:
        """Read x as two's complement: -2^(k-1) .. 2^(k-1) - 1."""
        if self.whole_word:
            return x
        negative: Array = (x >> (self.bits - 1)) << self.bits
        return x - negative


def aligned(x: Array) -> Array:
    """Return x, or a copy of it, at an address from which products are quick."""
    given = torch.from_numpy(x)
    return given.clone().numpy() if given.data_ptr() % _ALIGNED else x


def blocks(values: Array, times: int = 1) -> Iterator[slice]:
    """Yield the columns of (rows, n) in parts whose temporaries, `times` as large, stay in the cache."""
    rows, n = values.shape
    step = max(_BLOCK // max(rows * times, 1), 1)
    return (slice(at, min(at + step, n)) for at in range(0, n, step))
