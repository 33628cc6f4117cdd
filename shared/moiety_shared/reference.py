"""A plain fixed-point evaluator for a plan. The protocols must give its result, to the last bit.

It holds the secrets in the clear, so only owners and tests use it; an owner learns the expected error before
publishing. Given the dithers of a private run, and what its approximate layers opened, it reproduces that run's
outputs exactly. That holds for values beyond the layers' ranges as well, except for the result of Truncate on such a
value.
"""

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np

from moiety_shared.plan.approximate import Approximate
from moiety_shared.plan.layers import Bias, Conv, Linear, MatMul, Mul, Open, Reshare
from moiety_shared.plan.local import Local
from moiety_shared.plan.lookups import Comparison, Decide, Lookup, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.plan import LABELS, AnyLayer, Plan
from moiety_shared.plan.reduced import Reduce
from moiety_shared.protocols import max_pool, normalise, one_hot, table, top_k
from moiety_shared.protocols.product import times
from moiety_shared.protocols.registry import PROTOCOLS
from moiety_shared.ring import Array, Ring

Dither = Callable[[str, Array], Array]
Opened = Callable[[str, Array], Array]

_MASK_STEP = 40503  # odd: its multiples modulo 2^q run through all masks


def midpoint(shift: int) -> int:
    """The dither that rounds to nearest: the middle of the distribution that real dithers have."""
    return (1 << shift) // 2


def some_opened(layer: Approximate, t: Array) -> Array:
    """Stand in for the t^ of a run: t + r, where the masks r run through all that there are, in a fixed order."""
    masks = np.arange(t.size, dtype=np.int64).reshape(t.shape) * _MASK_STEP
    return (t + masks) & ((1 << layer.opened_bits) - 1)


def truncate(x: Array, shift: int, dither: Array | int) -> Array:
    """Compute floor((x + dither) / 2^shift) for signed x, without overflow."""
    return ((x.astype(np.int64) + dither) >> shift).astype(x.dtype)


def run(
    plan: Plan,
    x: Array,
    weights: Mapping[str, Array],
    dither: Dither | None = None,
    watch: Callable[[str, Array], None] | None = None,
    opened: Opened | None = None,
) -> Array:
    """Run the plan on encoded inputs x (rows, values of one input and its label) and encoded weights by "layer.weight".

    `dither(layer name, x)` returns the dither of each layer that opens a value; without it, the layer rounds to
    nearest. `opened(layer name, t)` returns the t^ that each approximate layer opened, and the v^ of a Normalise;
    without it, there are some masks.
    `watch(wire, value)` sees every wire. Returns the output wire (rows, *shape).
    """
    wires = {plan.input.name: x[:, : plan.input.size].reshape(-1, *plan.input.shape), LABELS: x[:, plan.input.size :]}
    for layer in plan.layers:
        read = [wires[name] for name in layer.reads]
        wires[layer.name] = _layer(plan, layer, read, weights, dither, opened)
        if watch:
            watch(layer.name, wires[layer.name])
        for name in layer.reads:
            if plan.last_reader.get(name) == layer.name:
                wires.pop(name, None)
    return wires[plan.output.wire]


def _layer(
    plan: Plan,
    layer: AnyLayer,
    x: list[Array],
    weights: Mapping[str, Array],
    dither: Dither | None,
    opened: Opened | None,
) -> Array:
    ring = Ring(plan.ring_bits)
    match layer:
        case Open() | Reshare():
            return x[0]
        case Linear() | Conv():
            y = times(ring, layer, x[0], weights[f"{layer.name}.weight"])
            if layer.bias:
                bias = weights[f"{layer.name}.bias"]
                y = y + (bias.reshape(-1, 1, 1) if isinstance(layer, Conv) else bias)
            return ring.wrap(y)
        case Mul():
            return ring.wrap(x[0] * x[1])
        case MatMul():
            return ring.matmul(x[0], x[1])
        case Bias():
            return ring.wrap(x[0] + weights[f"{layer.name}.bias"])
        case Normalise():
            whole = opened(layer.name, x[0]) if opened else ring.wrap(x[0] + midpoint(layer.shift))
            return ring.wrap(normalise.reference(layer, x[0], whole))
        case Lookup():
            u = dither(layer.name, x[0]) if dither else midpoint(layer.shift)
            given = Ring(plan.wires[layer.input].bits)
            small = Ring(layer.opened_bits)
            t = small.signed(small.wrap(truncate(given.signed(x[0]), layer.shift, u).astype(small.dtype)))
            if isinstance(layer, Approximate):
                masked = opened(layer.name, t) if opened else some_opened(layer, t)
                return Ring(layer.word_bits).wrap(PROTOCOLS[type(layer)].reference(layer, t, masked))
            return small.wrap(t) if isinstance(layer, Reduce) else _function(layer, t, ring)
        case Local():
            return Ring(plan.wires[layer.reads[0]].bits).wrap(layer.apply(*x))
    raise TypeError(f"no reference for {layer.op}")


def _function(layer: Lookup, t: Array, ring: Ring) -> Array:
    """Compute a layer's result from the signed values t that a private run would open under masks."""
    wide = t.astype(ring.dtype)
    match layer:
        case Truncate():
            return ring.wrap(wide)
        case ReLU():
            beyond = [t.astype(np.int64) - h for h in layer.hinges]
            terms = [(-1) ** i * np.where(_negative(layer, v), 0, _low(layer, v)) for i, v in enumerate(beyond)]
            return ring.wrap(cast(Array, sum(terms)).astype(ring.dtype))
        case Decide():
            reached = [~_negative(layer, t.astype(np.int64) - h) for h in layer.hinges]
            return cast(Array, np.logical_xor.reduce(reached)).astype(ring.dtype)
        case OneHot():
            return one_hot.reference(layer, t).astype(ring.dtype)
        case MaxPool():
            return Ring(layer.opened_bits).wrap(_max_pool(layer, t))
        case TopK():
            left, right = top_k.pairs(layer.size)
            places = top_k.reference(layer, _negative(layer, t[:, left].astype(np.int64) - t[:, right]))
            return places if layer.result == "words" else places.astype(ring.dtype)
        case Table():
            return ring.wrap(table.reference(layer, t).astype(ring.dtype))
    raise TypeError(f"no reference for {type(layer).__name__}")


def _low(layer: Comparison, v: Array) -> Array:
    """Compute v mod 2^(B+1), the part of a value that a comparison reads."""
    return v & ((2 << layer.range_bits) - 1)


def _negative(layer: Comparison, v: Array) -> Array:
    """Whether a comparison takes v for negative: its bit B. That is v < 0 for every v in range."""
    return (v >> layer.range_bits & 1).astype(np.bool_)


def _max_pool(layer: MaxPool, t: Array) -> Array:
    """The winner of each window's knock-out. It is the largest value where all differences are in range."""
    values = t.reshape(-1, *layer.shape).astype(np.int64)
    for axis, taps in layer.stages:
        alive = max_pool.in_play(values, axis, taps)
        while alive.shape[1] > 1:
            left, right, rest = max_pool.paired(alive)
            alive = max_pool.advanced(np.where(_negative(layer, left - right), right, left), rest)
        values = alive[:, 0]
    return values.astype(t.dtype)
