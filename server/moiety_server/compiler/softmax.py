"""The operations of the float graph that a softmax is made of: first the mean is taken off, then the rest follows.

A softmax is the same for scores that are all higher by one number. The mean is a number that each party can compute
alone, and no mean is larger than the maximum, so the powers that are summed up never vanish.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moiety_server.compiler import ir

OCTAVE = math.log(2)


@dataclass(frozen=True, kw_only=True)
class CentredNode(ir.Node):
    """x minus its mean over the last axis. With `keys`, which broadcast against x, both are of the places where they
    are true, and elsewhere the result is 0."""

    keys: Tensor | None

    def forward(self, *x: Tensor) -> Tensor:
        if self.keys is None:
            return x[0] - x[0].mean(dim=-1, keepdim=True)
        keys = self.keys.to(x[0].dtype)
        return (x[0] - (x[0] * keys).sum(dim=-1, keepdim=True) / keys.sum(dim=-1, keepdim=True)) * keys


@dataclass(frozen=True, kw_only=True)
class SoftmaxNode(ir.Node):
    """The softmax of a CentredNode over the last axis, or its logarithm. Where `keys` are false the result is 0."""

    keys: Tensor | None
    logarithm: bool = False

    def forward(self, *x: Tensor) -> Tensor:
        if self.keys is None:
            return x[0].log_softmax(dim=-1) if self.logarithm else x[0].softmax(dim=-1)
        keys = self.keys.bool()
        found = x[0].masked_fill(~keys, -math.inf)
        return found.log_softmax(dim=-1).where(keys, 0) if self.logarithm else found.softmax(dim=-1)


def centred_box(node: CentredNode, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bound x minus its mean from bounds of x: x itself is one of the values that the mean is of."""
    keys = torch.ones(1).expand(node.shape) if node.keys is None else node.keys.expand(node.shape)
    keys = keys.to(low.dtype)
    count = keys.sum(dim=-1, keepdim=True)

    def ends(of: Tensor, mean_of: Tensor) -> Tensor:
        others = (mean_of * keys).sum(dim=-1, keepdim=True) - mean_of * keys
        return ((count - 1) * of - others) / count * keys

    return ends(low, high), ends(high, low)


def counts(node: CentredNode | SoftmaxNode) -> Tensor:
    """Return how many keys each row has, (*leading axes of the wire, 1)."""
    if node.keys is None:
        return torch.full((*node.shape[:-1], 1), node.shape[-1])
    return node.keys.bool().expand(node.shape).sum(dim=-1, keepdim=True)
