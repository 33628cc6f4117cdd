"""The operations of the float graph that attention is made of, beside those of `ir`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from moiety_server.compiler import ir


@dataclass(frozen=True, kw_only=True)
class MatMulNode(ir.Node):
    """Product of two secret wires, left right^T: (..., n, d) and (..., m, d) to (..., n, m). The axes before the last
    two are those of both. Both inputs may be the same wire."""

    def forward(self, *x: Tensor) -> Tensor:
        return x[0] @ x[1].mT


@dataclass(frozen=True, kw_only=True)
class MaskedNode(ir.Node):
    """x where `keys`, a public mask that broadcasts against x, is 1, and elsewhere `fill`, a number so low that a
    softmax makes it 0.

    A front end writes it, and a softmax that reads it takes its place. `simplification` rewrites it for other readers.
    """

    keys: Tensor
    fill: float

    def forward(self, *x: Tensor) -> Tensor:
        return torch.where(self.keys.bool(), x[0], self.fill)
