"""A plain fixed-point evaluator behind the same plan: what the protocols must equal, to the last bit.

It holds the secrets in the clear, so it is for owners (expected error before publishing) and for tests. Given the
dithers of a private run, it reproduces that run's outputs exactly.
"""

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np

from moiety_shared.layers import Bias, Conv, Linear, Mul, Open
from moiety_shared.local import Local
from moiety_shared.lookups import MaxPool, Opened, ReLU, Table, TopK, Truncate
from moiety_shared.plan import LABELS, AnyLayer, Plan
from moiety_shared.protocols import table, top_k
from moiety_shared.protocols.product import times
from moiety_shared.ring import Array, Ring

Dither = Callable[[str, Array], Array]


def midpoint(shift: int) -> int:
    """The dither that rounds to nearest: the middle of the distribution of the real ones."""
    return (1 << shift) // 2


def truncate(x: Array, shift: int, dither: Array | int) -> Array:
    """floor((x + dither) / 2^shift) for signed x, without overflow."""
    return ((x.astype(np.int64) + dither) >> shift).astype(x.dtype)


def run(
    plan: Plan,
    x: Array,
    weights: Mapping[str, Array],
    dither: Dither | None = None,
    watch: Callable[[str, Array], None] | None = None,
) -> Array:
    """The plan on encoded inputs x (rows, values of one input and its label) and encoded weights by "layer.weight".

    `dither(layer name, x)` gives the dither of each layer that opens a value; without it, rounding is to nearest.
    `watch(wire, value)` sees every wire. Returns the output wire (rows, *shape).
    """
    wires = {plan.input.name: x[:, : plan.input.size].reshape(-1, *plan.input.shape), LABELS: x[:, plan.input.size :]}
    for layer in plan.layers:
        read = [wires[name] for name in layer.reads]
        wires[layer.name] = _layer(plan, layer, read, weights, dither)
        if watch:
            watch(layer.name, wires[layer.name])
        for name in layer.reads:
            if plan.last_reader.get(name) == layer.name:
                wires.pop(name, None)
    return wires[plan.output.wire]


def _layer(plan: Plan, layer: AnyLayer, x: list[Array], weights: Mapping[str, Array], dither: Dither | None) -> Array:
    ring = Ring(plan.ring_bits)
    match layer:
        case Open():
            return x[0]
        case Linear() | Conv():
            y = times(ring, layer, x[0], weights[f"{layer.name}.weight"])
            if layer.bias:
                bias = weights[f"{layer.name}.bias"]
                y = y + (bias.reshape(-1, 1, 1) if isinstance(layer, Conv) else bias)
            return ring.wrap(y)
        case Mul():
            return ring.wrap(x[0] * x[1])
        case Bias():
            return ring.wrap(x[0] + weights[f"{layer.name}.bias"])
        case Opened():
            u = dither(layer.name, x[0]) if dither else midpoint(layer.shift)
            given = Ring(plan.wires[layer.input].bits)
            small = Ring(layer.opened_bits)
            t = small.signed(small.wrap(truncate(given.signed(x[0]), layer.shift, u).astype(small.dtype)))
            return _function(layer, t, ring)
        case Local():
            return Ring(plan.wires[layer.reads[0]].bits).wrap(layer.apply(*x))
    raise TypeError(f"no reference for {layer.op}")


def _function(layer: Opened, t: Array, ring: Ring) -> Array:
    """What a layer makes of the signed values t that it opened."""
    wide = t.astype(ring.dtype)
    match layer:
        case Truncate():
            return ring.wrap(wide)
        case ReLU():
            terms = [(-1) ** i * np.maximum(wide - h, 0) for i, h in enumerate(layer.hinges)]
            return ring.wrap(cast(Array, sum(terms)).astype(ring.dtype))
        case MaxPool():
            return Ring(layer.opened_bits).wrap(_max_pool(layer, t))
        case TopK():
            places = top_k.reference(layer, t)
            return places if layer.result == "words" else places.astype(ring.dtype)
        case Table():
            return ring.wrap(table.reference(layer, t).astype(ring.dtype))
    raise TypeError(f"no reference for {type(layer).__name__}")


def _max_pool(layer: MaxPool, t: Array) -> Array:
    """Every window's largest value, by its definition."""
    (_, height, width), (out_h, out_w) = layer.shape, layer.output_size
    found = np.full((len(t), layer.shape[0], out_h, out_w), np.iinfo(t.dtype).min, dtype=t.dtype)
    for i in range(layer.kernel[0]):
        for j in range(layer.kernel[1]):
            rows = np.arange(out_h) * layer.stride[0] - layer.padding[0] + i * layer.dilation[0]
            cols = np.arange(out_w) * layer.stride[1] - layer.padding[1] + j * layer.dilation[1]
            rows_in, cols_in = (rows >= 0) & (rows < height), (cols >= 0) & (cols < width)
            read = t[:, :, rows[rows_in]][:, :, :, cols[cols_in]]
            at = (slice(None), slice(None), np.flatnonzero(rows_in)[:, None], np.flatnonzero(cols_in))
            found[at] = np.maximum(found[at], read)
    return found
