"""Nodes that slide windows over (C, H, W)."""

from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.ir import Pair
from moiety_server.compiler.movements import Movements


class Windows(Movements):
    """A graph under construction, and the methods that append convolutions and pools."""

    def conv(
        self,
        x: ir.Node,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
        groups: int = 1,
        transposed: bool = False,
        output_padding: Pair = (0, 0),
    ) -> ir.Node:
        """Append a convolution, plain or transposed; see ir.ConvNode."""
        self.planes(x, "a transposed convolution" if transposed else "a convolution")
        sides = zip(x.shape[1:], weight.shape[2:], stride, padding, dilation, output_padding, strict=True)
        size = [
            (n - 1) * s - 2 * p + d * (k - 1) + extra + 1 if transposed else (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d, extra in sides
        ]
        return self._add(
            ir.ConvNode(
                **self._head((weight.shape[1] * groups if transposed else len(weight), *size), x),
                weight=weight,
                bias=bias,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=groups,
                transposed=transposed,
                output_padding=output_padding,
            )
        )

    def max_pool(
        self, x: ir.Node, size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0), dilation: Pair = (1, 1)
    ) -> ir.Node:
        """Append a max pool whose output has `size`."""
        self.planes(x, "a max pool")
        return self._add(
            ir.MaxPoolNode(
                **self._head((x.shape[0], *size), x), kernel=kernel, stride=stride, padding=padding, dilation=dilation
            )
        )

    def sum_pool(self, x: ir.Node, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> ir.Node:
        self.planes(x, "an average pool")
        size = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[1:], kernel, stride, padding, strict=True)]
        return self._add(
            ir.SumPoolNode(**self._head((x.shape[0], *size), x), kernel=kernel, stride=stride, padding=padding)
        )
