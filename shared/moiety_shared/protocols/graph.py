"""Whole plans: the protocols of each layer, one after the other. No I/O, randomness passed in.

`deal` yields layer by layer so that a bundle can be streamed; `evaluate` chains the layers' openings into one
generator. Weights are dealt with per upload, bundles per row, runs per request.
"""

import math
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np

from moiety_shared.plan import Correction, Linear, Plan, ReLU, Truncate
from moiety_shared.prg import Stream
from moiety_shared.protocols import linear, relu, truncation
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.linear import Weights
from moiety_shared.protocols.opening import Evaluation, Opening
from moiety_shared.ring import Array, Ring

Prepared = linear.Prepared | truncation.Prepared | relu.Prepared
PreparedRows = dict[str, Prepared]

SLICE_ROWS = 64


def ring_of(plan: Plan) -> Ring:
    return Ring(plan.ring_bits)


def weight_masks(plan: Plan, upload: Stream) -> dict[str, Array]:
    """[s]_p of every linear layer, from one party's upload stream."""
    ring = ring_of(plan)
    return {
        layer.name: linear.weight_mask(ring, upload.at(layer.name), layer)
        for layer in plan.layers
        if isinstance(layer, Linear)
    }


def mask_model(
    plan: Plan, party: int, shares: Mapping[str, Array], masks: Mapping[str, Array]
) -> Generator[Opening, Array, dict[str, Weights]]:
    """Open every weight under its mask, once per upload. `shares` are [w]_p and [b]_p by "layer.weight"."""
    ring = ring_of(plan)
    weights = {}
    for name, mask in masks.items():
        bias = shares.get(f"{name}.bias")
        weights[name] = yield from linear.mask_weights(ring, party, shares[f"{name}.weight"], mask, bias)
    return weights


def deal(
    plan: Plan,
    rows: int,
    masks: Mapping[str, Array],
    alice: Stream,
    bob: Stream,
    own: Stream,
) -> Iterator[tuple[Correction, Array]]:
    """Deal one bundle of `rows` rows: every correction with its tensor (rows, *shape), in the plan's order.

    `masks` are the weight masks s; the streams are those of this bundle.
    """
    ring = ring_of(plan)
    for layer in plan.layers:
        dealer = Dealer(ring, rows, alice.at(layer.name), bob.at(layer.name), own.at(layer.name))
        match layer:
            case Linear():
                linear.deal(dealer, layer, masks[layer.name])
            case ReLU():
                relu.deal(dealer, layer)
            case Truncate():
                truncation.deal(dealer, layer)
        for correction in layer.corrections(plan.ring_bits):
            yield correction, dealer.corrections[correction.name]


def bundle_bytes(plan: Plan, rows: int) -> int:
    """Length of one bundle on the wire."""
    return plan.cost(rows).offline_bytes


def read_bundle(plan: Plan, rows: int, raw: bytearray) -> dict[str, dict[str, Array]]:
    """Views of a received bundle by layer and correction. Raises ValueError when the length is not the plan's."""
    if len(raw) != bundle_bytes(plan, rows):
        raise ValueError("a bundle has another length than its plan says")
    at = 0
    layers: dict[str, dict[str, Array]] = {}
    for layer in plan.layers:
        tensors = layers.setdefault(layer.name, {})
        for c in layer.corrections(plan.ring_bits):
            flat = np.frombuffer(raw, dtype=c.dtype, count=rows * math.prod(c.shape), offset=at)
            tensors[c.name] = flat.reshape(rows, *c.shape)
            at += rows * c.row_bytes
    return layers


def prepare(
    plan: Plan,
    party: int,
    rows: int,
    stream: Stream,
    corrections: Mapping[str, dict[str, Array]],
    weights: Mapping[str, Weights],
) -> PreparedRows:
    """All that party p can compute before the inputs exist. Party 0 passes no corrections."""
    ring = ring_of(plan)
    prepared: PreparedRows = {}
    for layer in plan.layers:
        holder = Holder(ring, party, rows, stream.at(layer.name), corrections.get(layer.name, {}))
        match layer:
            case Linear():
                prepared[layer.name] = linear.prepare(holder, layer, weights[layer.name])
            case ReLU():
                prepared[layer.name] = relu.prepare(holder, layer)
            case Truncate():
                prepared[layer.name] = truncation.prepare(holder, layer)
    return prepared


def cut(prepared: PreparedRows, start: int, stop: int) -> PreparedRows:
    """Views of rows start .. stop - 1."""
    return {name: _each(value, lambda t: t[start:stop]) for name, value in prepared.items()}


def stack(parts: list[PreparedRows]) -> PreparedRows:
    """Rows of several bundles after one another; copies unless there is just one part."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: type(first)(*(np.concatenate(columns) for columns in zip(*(p[name] for p in parts), strict=True)))
        for name, first in parts[0].items()
    }


def slices(rows: int) -> list[tuple[int, int]]:
    """The batch in slices that take turns on the link: (first, end) rows. Both parties cut alike.

    64 rows keep a layer's temporaries in the cache, and their packed bits fill whole bytes.
    """
    return [(at, min(at + SLICE_ROWS, rows)) for at in range(0, rows, SLICE_ROWS)]


def evaluate_slices(
    plan: Plan, party: int, x: Array, prepared: PreparedRows, weights: Mapping[str, Weights]
) -> list[Evaluation]:
    """`evaluate` for each slice of the rows of x."""
    return [evaluate(plan, party, x[a:b], cut(prepared, a, b), weights) for a, b in slices(len(x))]


def _each(value: Prepared, function: Any) -> Prepared:
    return type(value)(*map(function, value))


def evaluate(plan: Plan, party: int, x: Array, prepared: PreparedRows, weights: Mapping[str, Weights]) -> Evaluation:
    """[x]_p (rows, input size) to the output wire's share (rows, output size)."""
    ring = ring_of(plan)
    wires = {plan.input.name: x}
    for layer in plan.layers:
        value, ready = wires[layer.input], prepared[layer.name]
        match layer, ready:
            case Linear(), linear.Prepared():
                out = yield from linear.evaluate(ring, layer, value, ready, weights[layer.name])
            case ReLU(), relu.Prepared():
                out = yield from relu.evaluate(ring, party, layer, value, ready)
            case Truncate(), truncation.Prepared():
                out = yield from truncation.evaluate(ring, party, layer, value, ready)
            case _:
                raise TypeError(f"layer {layer.name!r} was prepared for another protocol")
        wires[layer.name] = out
    return wires[plan.output.wire]
