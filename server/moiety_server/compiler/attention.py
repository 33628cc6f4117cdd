"""The operations of the float graph that attention is made of, beside those of `ir`."""

from dataclasses import dataclass

from torch import Tensor

from moiety_server.compiler import ir


@dataclass(frozen=True, kw_only=True)
class MatMulNode(ir.Node):
    """Product of two secret wires, left right^T: (..., n, d) and (..., m, d) to (..., n, m). The axes before the last
    two are those of both. Both inputs may be the same wire."""

    def forward(self, *x: Tensor) -> Tensor:
        return x[0] @ x[1].mT
