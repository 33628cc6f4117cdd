"""A plain fixed-point evaluator behind the same plan: what the protocols must equal, to the last bit.

It holds the secrets in the clear, so it is for owners (expected error before publishing) and for tests. Given the
dithers that a private run made public, it reproduces that run's outputs exactly.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from moiety_shared.plan import Linear, Plan, ReLU, Truncate
from moiety_shared.ring import Ring

Dither = Callable[[str, Tensor], Tensor]


def dither_of(opened: Tensor, frac_bits: int) -> Tensor:
    """u = 2^f - 1 - (y^ mod 2^f) of an opened value."""
    return (1 << frac_bits) - 1 - (opened & ((1 << frac_bits) - 1))


def midpoint(frac_bits: int) -> int:
    """The dither that rounds to nearest: the middle of the distribution of public ones."""
    return (1 << frac_bits) // 2


def truncate(y: Tensor, frac_bits: int, dither: Tensor | int) -> Tensor:
    """floor((y + dither) / 2^f) for signed y, without overflow."""
    return ((y.to(torch.int64) + dither) >> frac_bits).to(y.dtype)


def run(plan: Plan, x: Tensor, weights: Mapping[str, Tensor], dither: Dither | None = None) -> Tensor:
    """The plan on encoded inputs x (rows, input size) and encoded weights by "layer.weight".

    `dither(layer name, y)` gives each truncation's dither; without it, rounding is to nearest.
    """
    ring = Ring(plan.ring_bits)
    wires = {plan.input.name: x}
    for layer in plan.layers:
        value = wires[layer.input]
        match layer:
            case Linear():
                out = ring.matmul(value, weights[f"{layer.name}.weight"].t())
                if layer.bias:
                    out = ring.wrap(out + weights[f"{layer.name}.bias"])
            case ReLU() | Truncate():
                u = dither(layer.name, value) if dither else midpoint(layer.frac_bits)
                out = truncate(ring.signed(value), layer.frac_bits, u)
                out = out.clamp(min=0) if isinstance(layer, ReLU) else out
        wires[layer.name] = out
    return wires[plan.output.wire]
