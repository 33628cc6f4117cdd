"""Smooth functions as lines: f(x) is about offset[s] + slope[s] * x, where s is x rounded to a whole number of steps.

The rounding is dithered, so s is either neighbour of x; a line is fitted to f over both steps around s, each place
weighted by how likely it is to be rounded there. With steps of 1/8 the error stays below 0.002 for all functions we
know.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from moiety_server import ir

_OFFSET_BITS = 13  # of magnitude
SLOPE_BITS = 11
_STEP = -5  # steps of 2^-5 are fine enough
_MOST_INDEX_BITS = 10
_PLACES = 33


@dataclass(frozen=True)
class Lines:
    """`shift` low bits of x are dropped, `index_bits` of what remains name the line, two's complement.

    Offsets have `offset_bits` fractional bits; slopes SLOPE_BITS, and carry the wire's factor.
    """

    shift: int
    index_bits: int
    offset_bits: int
    offsets: tuple[int, ...]
    slopes: tuple[int, ...]


def lines(node: ir.Smooth, low: float, high: float, factor: float, frac: int, result_frac: int) -> Lines:
    """For inputs between `low` and `high`, in ring elements worth factor * 2^-frac each; the result has `result_frac`
    bits, and the offsets no more."""
    reach = max(abs(low), abs(high), 1e-9)
    reach /= factor
    widest = math.ceil(math.log2(reach * 1.01)) + 1 - _MOST_INDEX_BITS  # both signs in 2^10 steps
    # At least 32 steps on either side: what is small all over is bent on a small scale.
    exponent = max(min(_STEP - math.floor(math.log2(factor)), math.floor(math.log2(reach)) - 5), widest)
    shift = max(frac + exponent, 0)
    step = 2.0 ** (shift - frac) * factor
    index_bits = min(max(math.ceil(math.log2(reach * factor * 1.01 / step + 1)) + 1, 2), _MOST_INDEX_BITS)
    size = 1 << index_bits
    index = np.arange(size)
    centres = np.where(index < size // 2, index, index - size) * step
    places = np.linspace(-1, 1, _PLACES)
    weight = 1 - np.abs(places) + 1e-3
    x = centres[:, None] + places[None] * step
    y = node.forward(torch.from_numpy(x)).numpy()
    mean_x = (x * weight).sum(axis=1) / weight.sum()
    mean_y = (y * weight).sum(axis=1) / weight.sum()
    from_x, from_y = x - mean_x[:, None], y - mean_y[:, None]
    slope = (weight * from_x * from_y).sum(axis=1) / (weight * from_x**2).sum(axis=1)
    used = (centres >= low - 2 * step) & (centres <= high + 2 * step)
    slopes = np.rint(np.where(used, slope, 0) * factor * 2.0**SLOPE_BITS)
    # The offset makes up for the slope's rounding at the centre.
    offset = np.where(used, mean_y - slopes / 2.0**SLOPE_BITS / factor * mean_x, 0)
    offset_bits = min(math.floor(_OFFSET_BITS - math.log2(max(float(np.abs(offset).max()), 1e-12))), result_frac)
    offsets = np.rint(offset * 2.0**offset_bits)
    return Lines(shift, index_bits, offset_bits, tuple(int(v) for v in offsets), tuple(int(v) for v in slopes))
