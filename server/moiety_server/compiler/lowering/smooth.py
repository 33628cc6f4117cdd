"""Smooth functions as parabolas: f(x) is about offset[s] + (slope[s] + curve[s] x) x, where s is x in whole steps.

The rounding to steps is dithered, so s is either neighbour of x. The compiler fits each parabola to f over both steps
around s, and weights each place by the probability that it is rounded to s. It fits each coefficient after the ones
above it were rounded. Over -9 .. 9 an activation such as GELU or tanh is met within 0.0005 of its largest value. Sines,
softsign, and functions that are steep where they end (tan, asin, sqrt) are met within 0.006.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from moiety_server.compiler import ir
from moiety_server.compiler.functions import FUNCTIONS
from moiety_server.compiler.lowering import products, waves
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_server.compiler.scales import Precision, fitting
from moiety_shared.plan import local, lookups
from moiety_shared.ring import Array

_BITS = 13  # bits of a coefficient
_MORE_BITS = 8  # for functions whose largest values are far from the usual ones; a table's words have 24 bits
_STEP = -5  # steps of 2^-5 are fine enough
_MOST_INDEX_BITS = 9
_PLACES = 33
_LARGEST = 1e100  # the fit multiplies values by squares of steps, and must not overflow


@dataclass(frozen=True)
class Parabolas:
    """`shift` low bits of x are dropped. `index_bits` of the remaining bits name the parabola, in two's complement.

    Each kind of coefficient has its own fractional bits, for x in units of 2^-frac, whatever the wire's factor.
    `steepest` bounds slope + curve x.
    """

    shift: int
    index_bits: int
    offsets: tuple[int, ...]
    offset_bits: int
    slopes: tuple[int, ...]
    slope_bits: int
    curves: tuple[int, ...]
    curve_bits: int
    steepest: float


def smooth(writer: Writer, node: ir.SmoothNode, x: ScaledWire) -> ScaledWire:
    """Write a smooth function as waves where these meet it, else as parabolas."""
    return (waves.write(writer, node, x) if writer.precision.waves else None) or _parabolic(writer, node, x)


def _parabolic(writer: Writer, node: ir.SmoothNode, x: ScaledWire) -> ScaledWire:
    """Write offset[s] + (slope[s] + curve[s] x) x. The layer looks s, the upper bits of x, up."""
    low, high = writer.bounds(node)
    own = replace(x, name=node.name)
    # The result has as many fractional bits as x and the steepness have together.
    most = fitting(max(abs(low), abs(high), 1e-9), writer.ring.bits - 2) - writer.precision.short
    short = min(x.frac, fitting(x.reach, writer.precision.short), most)
    # What a table gives at its usual values is as fine as 13 bits are there, however large it gets elsewhere.
    usual = max(writer.known[node.name].rms, 1e-9)
    more = min(max(math.ceil(math.log2(max(abs(low), abs(high), 1e-9) / usual)) - 2, 0), _MORE_BITS)
    of = parabolas(node, x, (low, high), short, writer.precision, _BITS + more)
    writer.demand(of.shift + of.index_bits <= x.bits, "opens more bits than its input has")
    table = lookups.Table(
        name=writer.name(own, "terms"),
        input=writer.to_reduce(x, of.shift).name,
        shape=x.shape,
        shift=of.shift,
        opened_bits=of.index_bits,
        values=(of.offsets, of.slopes, of.curves),
    )
    writer.add(table)
    small = replace(writer.at_most(writer.small(x), short), factor=1.0)
    terms = ScaledWire(table.name, table.output_shape, writer.ring.bits, 0, 1.0, 0, 1)
    offset, slope, curve = (_plane(writer, terms, i, name) for i, name in enumerate(("offset", "slope", "curve")))
    bent = products.multiply(writer, writer.name(own, "bent"), replace(curve, frac=of.curve_bits), small)
    steep = _plus(writer, writer.name(own, "steep"), bent, slope, of.slope_bits)
    steep = writer.small(replace(steep, low=-of.steepest, high=of.steepest))
    risen = products.multiply(writer, writer.name(own, "risen"), steep, small)
    return replace(_plus(writer, node.name, risen, offset, of.offset_bits), low=low, high=high)


def _plus(writer: Writer, name: str, wire: ScaledWire, term: ScaledWire, bits: int) -> ScaledWire:
    """Write the wire plus a term of `bits` fractional bits. `bits` is at most the wire's own."""
    factors = (1, 1 << (wire.frac - bits))
    layer = local.Combine(name=name, inputs=(wire.name, term.name), shapes=(wire.shape,) * 2, factors=factors)
    return writer.after(wire, layer)


def _plane(writer: Writer, both: ScaledWire, index: int, suffix: str) -> ScaledWire:
    layer = local.Slice(
        name=writer.name(both, suffix), input=both.name, shape=both.shape, axis=0, start=index, stop=index + 1
    )
    plane = writer.after(both, layer)
    shaped = local.Reshape(name=f"{layer.name[:60]}-1", input=plane.name, shape=plane.shape, to=both.shape[1:])
    return writer.after(plane, shaped)


def parabolas(
    node: ir.SmoothNode, wire: ScaledWire, limits: tuple[float, float], short: int, precision: Precision, bits: int
) -> Parabolas:
    """Fit the parabolas for the values that `wire` may have, with coefficients of so many bits.

    The wire's ring elements are worth factor * 2^-frac each, and are multiplied at `short` fractional bits. Where the
    function leaves `limits`, the table gives the nearer limit: no value that may occur gets there.
    """
    factor, frac = wire.factor, wire.frac
    low, high = wire.low / factor, wire.high / factor
    reach, width = wire.reach, max(high - low, 1e-9)
    widest = math.ceil(math.log2(width * 1.01)) - _MOST_INDEX_BITS  # all of the range in 2^9 steps
    # Take at least 64 steps: a function of a small range bends on a small scale.
    exponent = max(min(_STEP - math.floor(math.log2(factor)), math.floor(math.log2(reach)) - 5), widest)
    if FUNCTIONS[node.function].is_steep:
        exponent = widest
    shift = max(frac + exponent, 0)
    step = 2.0 ** (shift - frac)
    index_bits = min(max(math.ceil(math.log2(width * 1.01 / step + 3)), 2), _MOST_INDEX_BITS)
    # The index is the number of steps modulo the table's size: the range lies in the middle of what it tells apart.
    index = np.arange(1 << index_bits)
    first = round((low + high) / 2 / step) - len(index) // 2
    centres = ((index - first) % len(index) + first) * step
    used = (centres >= low - 2 * step) & (centres <= high + 2 * step)
    places = np.linspace(-1, 1, _PLACES) * step
    weight = np.tile(1 - np.abs(places / step) + 1e-3, (len(index), 1))
    x = centres[:, None] + places
    y = np.nan_to_num(node.forward(torch.from_numpy(x * factor)).numpy(), nan=limits[0])
    beyond = (y.min(axis=1) >= limits[1]) | (y.max(axis=1) <= limits[0])
    y[beyond] = y[beyond].clip(*limits)
    y[~used] = 0
    if not np.abs(y).max() < _LARGEST:
        raise ir.NotServable(f"{node.origin}: {node.function} of values up to {reach:.3g} is beyond what a table holds")
    square = (places / step) ** 2 - np.average((places / step) ** 2, weights=weight[0])
    curve = (weight * square * y).sum(axis=1) / (weight * square * square).sum(axis=1) / step**2
    slope = (weight * places * (y - curve[:, None] * x * x)).sum(axis=1) / (weight * places * places).sum(axis=1)
    steepest = 1.01 * float((np.abs(slope) + np.abs(curve) * (np.abs(centres) + step)).max()) + 2.0**-bits
    # slope + curve x has as many fractional bits as curve and x together, and fits the ring.
    curves, curve_bits = _rounded(curve, bits, fitting(steepest, precision.ring_bits - 3) - short)
    rest = y - (curves * 2.0**-curve_bits)[:, None] * x * x
    slope = (weight * places * rest).sum(axis=1) / (weight * places * places).sum(axis=1)
    slopes, slope_bits = _rounded(slope, bits, curve_bits + short)
    rest -= (slopes * 2.0**-slope_bits)[:, None] * x
    offset = (weight * rest).sum(axis=1) / weight.sum(axis=1)
    offsets, offset_bits = _rounded(offset, bits, min(curve_bits + short, fitting(steepest, precision.short)) + short)
    return Parabolas(
        shift, index_bits, _ints(offsets), offset_bits, _ints(slopes), slope_bits, _ints(curves), curve_bits,
        steepest,
    )  # fmt: skip


def _rounded(values: Array, bits: int, most: int) -> tuple[Array, int]:
    """Round to whole numbers of so many bits. Returns them and their fractional bits, at most `most`."""
    fraction = min(fitting(max(float(np.abs(values).max()), 1e-9), bits), most)
    return np.rint(values * 2.0**fraction), fraction


def _ints(values: Array) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
