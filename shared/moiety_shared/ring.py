"""Tensors over Z_{2^k}.

Elements are int32 (k <= 32) or int64 tensors whose arithmetic wraps. For k = 32 and 64 the machine word is the
ring, so `wrap` costs nothing; smaller rings, used by the exhaustive tests, keep the canonical representative
in 0 .. 2^k - 1. Right shifts are logical in either case.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ring:
    """The ring Z_{2^bits}, 2 <= bits <= 64."""

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 64:
            raise ValueError(f"a ring has 2 to 64 bits, not {self.bits}")

    @property
    def dtype(self) -> torch.dtype:
        return torch.int32 if self.bits <= 32 else torch.int64

    def wrap(self, x: Tensor) -> Tensor:
        """The representative of x in this ring; the identity where the word is the ring."""
        return x if self.bits in (32, 64) else x & ((1 << self.bits) - 1)

    def shift_right(self, x: Tensor, count: int) -> Tensor:
        """Logical shift: floor(unsigned(x) / 2^count)."""
        return x if count == 0 else (x >> count) & ((1 << (self.bits - count)) - 1)

    def bit(self, x: Tensor, index: int) -> Tensor:
        """Bit `index` of every element, 0 or 1."""
        return (x >> index) & 1

    def msb(self, x: Tensor) -> Tensor:
        return self.bit(x, self.bits - 1)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """(n, i) @ (i, o) mod 2^k."""
        return self.wrap(a @ b)

    def signed(self, x: Tensor) -> Tensor:
        """The two's-complement reading of x, in -2^(k-1) .. 2^(k-1) - 1."""
        if self.bits in (32, 64):
            return x
        return x - ((x >> (self.bits - 1)) << self.bits)
