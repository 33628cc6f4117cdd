"""Attention as torch writes it in one operation, and the masks that a softmax reads."""

import math
from typing import Any

import torch

from moiety_server.compiler import ir
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder


def attention(
    b: Builder,
    q: Any,
    k: Any,
    v: Any,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
) -> ir.Node:
    """Build softmax(q k^T scale + mask) v over (..., tokens, d). A mask of booleans says which keys each query sees."""
    b.require(all(isinstance(x, ir.Node) for x in (q, k, v)), "attends to constants", "compute them by a Linear")
    b.require(dropout == 0, "drops values at random", "pass dropout_p=0.0 for inference")
    if grouped:  # several heads of queries share one of keys and values
        k, v = (_repeated(b, x, q.shape[-3] // x.shape[-3]) for x in (k, v))
    scores = b.scale(b.matmul(q, _turned(b, k)), 1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        scores = b.masked(scores, torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -math.inf)
    if mask is not None and not isinstance(mask, ir.Node) and mask.dtype == torch.bool:
        scores = b.masked(scores, ops.aligned(b, mask, scores), -math.inf)
    elif mask is not None:
        scores = ops.add(b, scores, mask)
    return b.matmul(b.softmax(scores, len(scores.shape) - 1), v)


def _turned(b: Builder, x: ir.Node) -> ir.Node:
    axes = list(range(len(x.shape)))
    return b.permute(x, [*axes[:-2], axes[-1], axes[-2]])


def _repeated(b: Builder, x: ir.Node, times: int) -> ir.Node:
    axis = len(x.shape) - 3
    return b.take(x, axis, [[at // times for at in range(times * x.shape[axis])]])
