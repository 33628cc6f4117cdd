"""What a party computes before the inputs exist: it expands its stream and takes the dealer's corrections, layer by
layer. Rows of it are cut out and joined later, as requests need them. No I/O."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from moiety_shared.plan.layers import Conv, Correction, Layer, Linear, MatMul, Mul, Open
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols import matmul, product
from moiety_shared.protocols.dealing import Addressed, Holder
from moiety_shared.protocols.product import Weights
from moiety_shared.protocols.registry import PROTOCOLS
from moiety_shared.ring import Array, Ring

PreparedRows = dict[str, tuple[Array, ...]]
"""The prepared arrays of each layer, by its name. Their first axis is the row."""


class Preparation:
    """All that party p can compute before the inputs exist, layer by layer. `ready` is complete after the last."""

    def __init__(self, plan: Plan, party: int, rows: int, stream: Addressed, weights: Mapping[str, Weights]) -> None:
        self.plan = plan
        self.rows = rows
        self.ready: PreparedRows = {}
        self._party, self._stream, self._weights = party, stream, weights

    def wanted(self, layer: Layer) -> int:
        """The size of this layer's corrections in bytes. Party 0 gets none, so 0 for it."""
        if self._party == 0:
            return 0
        return self.rows * sum(c.row_bytes for c in layer.corrections(self.plan.ring_bits))

    def add(self, layer: Layer, raw: bytes | bytearray) -> None:
        """Prepare one layer. Party 1 passes its corrections; the result may go on referring to them.

        Raises ValueError when their length is not the one that the plan states.
        """
        corrections = _views(layer.corrections(self.plan.ring_bits), self.rows, raw) if self._party == 1 else {}
        holder = Holder(Ring(self.plan.ring_bits), self._party, self.rows, self._stream.at(layer.name), corrections)
        match layer:
            case Open():
                self.ready[layer.name] = product.prepare_open(holder, layer)
            case Linear() | Conv():
                (mask,) = self.ready[layer.input]
                self.ready[layer.name] = product.prepare(holder, layer, mask, self._weights[layer.name])
            case Mul():
                self.ready[layer.name] = product.prepare_mul(holder, layer)
            case MatMul():
                self.ready[layer.name] = matmul.prepare(holder, layer)
            case _ if type(layer) in PROTOCOLS:
                self.ready[layer.name] = PROTOCOLS[type(layer)].prepare(holder, layer)


def _views(corrections: tuple[Correction, ...], rows: int, raw: bytes | bytearray) -> dict[str, Array]:
    if len(raw) != rows * sum(c.row_bytes for c in corrections):
        raise ValueError("corrections have another length than their plan says")
    views, at = {}, 0
    for c in corrections:
        flat = np.frombuffer(raw, dtype=c.dtype, count=rows * math.prod(c.shape), offset=at)
        views[c.name] = flat.reshape(rows, *c.shape)
        at += rows * c.row_bytes
    return views


def cut(prepared: PreparedRows, start: int, stop: int) -> PreparedRows:
    """Return views of rows start to stop - 1."""
    return {name: _like(value, (t[start:stop] for t in value)) for name, value in prepared.items()}


def stack(parts: list[PreparedRows]) -> PreparedRows:
    """Join the rows of several bundles. Copies them, unless there is only one part."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: _like(first, (np.concatenate(columns) for columns in zip(*(p[name] for p in parts), strict=True)))
        for name, first in parts[0].items()
    }


def _like(value: tuple[Array, ...], arrays: Iterator[Array]) -> tuple[Array, ...]:
    return tuple(arrays) if type(value) is tuple else type(value)(*arrays)
