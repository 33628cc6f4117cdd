"""Norms: z = x / sqrt(v) with v = c sum x^2 + e, whose size differs from row to row.

    v    squares of x at 25 bits (in a 32-bit ring: at what leaves their sum room), summed by each party alone
    y S  v brought into a range of 16 to 1: y = v S^2 (Normalise), where v spans more than that
    T    1 / sqrt(y) (Pieces)
    z    (x S) T, since 1 / sqrt(v) = S T

7 rounds, 3 fewer where v spans no more than 16 to 1. v spans what calibration data had, with head-room on both sides;
a smaller v than that gives too small a z, and a larger one garbage, so what reads z is said to rest on data.
"""

import math
from dataclasses import replace

import torch

from moiety_server.compiler.lowering import products
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_server.compiler.norms import DeviationNode, NormNode, SquaresNode
from moiety_server.compiler.scales import NORM_BITS, fitting
from moiety_shared.plan import local, lookups
from moiety_shared.plan.normalise import STEP_BITS, Normalise
from moiety_shared.plan.pieces import Pieces

_WINDOW_BITS = 20  # what four hinges tell apart
_FIRST_HINGE_BITS = 4  # the lowest hinge in units of the comparison, which is out by one of them at most
_FEWEST_BITS = 10  # of v, for pieces of 2 values at least
_ROUNDING = 1.01  # what rounding may add to v
_VALUE_BITS, _TABLE_BITS, _WORD_BITS = 16, 13, 32  # of 1 / sqrt(y), which is 1.1 at most
_PIECE_BITS, _DEGREE = 7, 3


def deviation(writer: Writer, node: DeviationNode, x: ScaledWire) -> ScaledWire:
    """Write n x less the sum of x over n values, which each party computes alone and nothing is rounded in."""
    low, high = writer.bounds(node)
    most = max(-low, high, x.reach * x.factor) * node.count / x.factor
    x = _at_most(writer, writer.in_ring(x), fitting(most, writer.ring.bits - 2), f"{node.name[:48]}-of")
    total = local.Sum(name=f"{node.name[:55]}-total", input=x.name, shape=x.shape, axes=node.axes)
    mean = _shaped(writer, writer.after(x, total), _kept(x.shape, node.axes))
    layer = local.Combine(
        name=node.name, inputs=(x.name, mean.name), shapes=(x.shape, mean.shape), factors=(node.count, -1)
    )
    return writer.after(x, layer, factor=x.factor / node.count, low=low, high=high)


def squares(writer: Writer, node: SquaresNode, x: ScaledWire) -> ScaledWire:
    """Write the sum of squares of x. What it reads of x, the norm reads too."""
    low, high = writer.bounds(node)
    room = (writer.ring.bits - 3 - math.log2(max(high, 1e-30) / node.scale / x.factor**2)) / 2
    bits = NORM_BITS if writer.ring.bits == 64 else writer.precision.short
    x = _at_most(writer, writer.in_ring(x), min(fitting(x.reach, bits), math.floor(room)), f"{node.name[:48]}-of")
    writer.squared[node.name] = x
    square = products.multiply(writer, f"{node.name[:55]}-each", x, x)
    total = writer.after(
        square,
        local.Sum(name=f"{node.name[:55]}-total", input=square.name, shape=square.shape, axes=node.axes),
        factor=x.factor**2 * node.scale,
        low=low,
        high=high,
    )
    if not node.least:
        return _shaped(writer, total, node.shape, node.name)
    least = torch.tensor([node.least], dtype=torch.float64)
    return products.bias(writer, node.name, _shaped(writer, total, node.shape), least, low, high)


def norm(writer: Writer, node: NormNode, v: ScaledWire) -> ScaledWire:
    """Write x over the root of v, from what `squares` read of x."""
    x = writer.squared[node.inputs[1]]
    low, high = writer.bounds(node)
    top = math.ceil(math.log2(v.high / v.unit * _ROUNDING))
    least = max(v.low / v.unit, 1.0)
    window = min(top, _WINDOW_BITS)
    hinges = min(math.ceil((top - math.log2(least)) / STEP_BITS) - 1, (window - _FIRST_HINGE_BITS) // STEP_BITS)
    writer.demand(top >= _FEWEST_BITS, "divides by the root of too small a number")
    if hinges > 0:
        normal = Normalise(
            name=f"{node.name[:55]}-normal",
            input=v.name,
            shape=v.shape,
            shift=top - window,
            opened_bits=writer.ring.bits - top + window,
            range_bits=window,
            digit_bits=5,
            hinges=tuple(1 << (window - STEP_BITS * place) for place in range(hinges, 0, -1)),
        )
        both = writer.after(v, normal)
        v, scale = (_plane(writer, both, at, f"{node.name[:55]}-{name}") for at, name in ((0, "y"), (1, "s")))
        x = products.multiply(writer, f"{node.name[:55]}-level", x, replace(scale, frac=0))
    root, root_bits = _root(writer, f"{node.name[:55]}-root", v, top)
    z = products.multiply(writer, node.name, x, root)
    halves = top - STEP_BITS
    return replace(
        z, frac=root_bits + halves // 2, factor=node.most * (0.5**0.5 if halves % 2 else 1.0), low=low, high=high
    )


def _root(writer: Writer, name: str, y: ScaledWire, top: int) -> tuple[ScaledWire, int]:
    """Write 1 / sqrt(y / 2^(top - 4)), for ring elements y below 2^top. Returns its fractional bits as well."""
    opened = min(top, 16)
    layer = Pieces(
        name=name,
        input=y.name,
        shape=y.shape,
        shift=top - opened,
        opened_bits=opened,
        word_bits=_WORD_BITS,
        function="rsqrt",
        frac_bits=opened - STEP_BITS,
        lowest=15 << (opened - 2 * STEP_BITS),  # a step of 16 to 1, and what a hinge may be out by
        piece_bits=_PIECE_BITS,
        degree=_DEGREE,
        value_bits=_VALUE_BITS,
        table_bits=_TABLE_BITS,
    )
    writer.add(layer)
    cut = lookups.Truncate(
        name=f"{name}-cut",
        input=name,
        shape=y.shape,
        shift=layer.hidden_bits,
        opened_bits=_WORD_BITS - layer.hidden_bits,
    )
    return writer.after(y, cut, frac=0), _VALUE_BITS + _TABLE_BITS - layer.hidden_bits


def _at_most(writer: Writer, x: ScaledWire, frac: int, suffix: str) -> ScaledWire:
    """Return the wire with at most `frac` fractional bits, all of it opened where it needs more bits than others do."""
    if x.frac <= frac:
        return x
    usual = writer.precision.opened
    short = x.reach * 2.0**frac < 2.0 ** (usual - 2)
    return writer.truncated(x, frac, suffix, usual if short else writer.ring.bits)


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape))


def _shaped(writer: Writer, x: ScaledWire, shape: tuple[int, ...], name: str = "") -> ScaledWire:
    """Give the wire another shape, and a name."""
    return writer.after(x, local.Reshape(name=name or writer.name(x, "kept"), input=x.name, shape=x.shape, to=shape))


def _plane(writer: Writer, both: ScaledWire, at: int, name: str) -> ScaledWire:
    layer = local.Slice(name=f"{name}-1", input=both.name, shape=both.shape, axis=0, start=at, stop=at + 1)
    return _shaped(writer, writer.after(both, layer), both.shape[1:], name)
