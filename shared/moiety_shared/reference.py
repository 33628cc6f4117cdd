"""A plain fixed-point evaluator behind the same plan: what the protocols must equal, to the last bit.

It holds the secrets in the clear, so it is for owners (expected error before publishing) and for tests. Given the
dithers that a private run made public, it reproduces that run's outputs exactly.
"""

from collections.abc import Callable, Mapping

import numpy as np

from moiety_shared.plan import Linear, Plan, ReLU, Truncate
from moiety_shared.ring import Array, Ring

Dither = Callable[[str, Array], Array]


def dither_of(opened: Array, frac_bits: int) -> Array:
    """u = 2^f - 1 - (y^ mod 2^f) of an opened value."""
    return (1 << frac_bits) - 1 - (opened & ((1 << frac_bits) - 1))


def midpoint(frac_bits: int) -> int:
    """The dither that rounds to nearest: the middle of the distribution of public ones."""
    return (1 << frac_bits) // 2


def truncate(y: Array, frac_bits: int, dither: Array | int) -> Array:
    """floor((y + dither) / 2^f) for signed y, without overflow."""
    return ((y.astype(np.int64) + dither) >> frac_bits).astype(y.dtype)


def run(plan: Plan, x: Array, weights: Mapping[str, Array], dither: Dither | None = None) -> Array:
    """The plan on encoded inputs x (rows, input size) and encoded weights by "layer.weight".

    `dither(layer name, y)` gives each truncation's dither; without it, rounding is to nearest.
    """
    ring = Ring(plan.ring_bits)
    wires = {plan.input.name: x}
    for layer in plan.layers:
        value = wires[layer.input]
        match layer:
            case Linear():
                out = ring.matmul(value, weights[f"{layer.name}.weight"])
                if layer.bias:
                    out = ring.wrap(out + weights[f"{layer.name}.bias"])
            case ReLU() | Truncate():
                u = dither(layer.name, value) if dither else midpoint(layer.frac_bits)
                out = truncate(ring.signed(value), layer.frac_bits, u)
                out = np.maximum(out, 0) if isinstance(layer, ReLU) else out
        wires[layer.name] = out
    return wires[plan.output.wire]
