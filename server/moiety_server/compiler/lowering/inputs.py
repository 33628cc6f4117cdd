"""What a client shares: its scale, and the clamp in front of a model whose owner does not rely on clients to keep to
the declared range.

A client may share any ring element. The clamp makes each a value of the range, and is a function of the element alone:

    above = v if v < 2^B, else 0      v = (x - least) mod 2^(B+1): so does a ReLU read any x, in its range or not
    over  = max(0, above - steps)     above lies in 0 .. 2^B - 1, which is the range of this ReLU
    x'    = least + above - over      lies in least .. least + steps

With steps < 2^B - 1, elements from least - 2^B to least + 2^B - 1 become the nearest value of the range. Those further
out count modulo 2^(B+1). To compare all bits of the ring would take more than a comparison has, and bind a client no
further. A range of few steps is one table, which reads elements modulo its size.
"""

import math
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch

from moiety_server.compiler import ir
from moiety_server.compiler.lowering import comparisons, products
from moiety_server.compiler.lowering.wires import MOST_FRAC_BITS, ScaledWire, Writer
from moiety_server.compiler.scales import fitting
from moiety_shared.fixed_point import NotEncodable, grid
from moiety_shared.plan import local, lookups

_TABLE_BITS = 7  # of a range whose table takes fewer bytes of the provider than two comparisons


class Declared(NamedTuple):
    """The range of an input's values, and whether the parties clamp them to it."""

    low: float
    high: float
    clamped: bool = False


def given(writer: Writer, node: ir.InputNode, declared: Declared) -> ScaledWire:
    """Return the wire that the client shares."""
    writer.given(node.name)
    low, high = writer.bounds(node)
    return ScaledWire(node.name, node.shape, writer.ring.bits, _scale(writer, node, declared), 1.0, low, high)


def _scale(writer: Writer, node: ir.InputNode, declared: Declared) -> int:
    """Return the input's fractional bits: as many as fit and as its readers can use, and enough for a value at this
    scale to lie in the declared range."""
    if writer.scales.wanted[node.name] == -math.inf:  # whole numbers, which are counted or looked up alone
        return 0
    frac = useful_bits(writer, node)
    low, high = declared.low, declared.high
    with suppress(NotEncodable):
        grid(low, high, frac)
        return frac
    frac = math.ceil(-math.log2(high - low))
    narrow = f"takes {low:g} to {high:g}, a range too narrow for numbers of that size,"
    writer.demand(frac <= _most_bits(writer, node), narrow)
    return frac


def useful_bits(writer: Writer, node: ir.Node) -> int:
    """Return as many fractional bits as fit and as a wire's readers can use, of a wire that is made at any scale."""
    most, wanted = _most_bits(writer, node), writer.scales.wanted[node.name]
    return max(min(most, max(math.ceil(min(wanted, 60)), 1)), 0)


def _most_bits(writer: Writer, node: ir.Node) -> int:
    return min(fitting(writer.known[node.name].reach, writer.precision.short), MOST_FRAC_BITS)


def clamped(writer: Writer, x: ScaledWire, declared: Declared) -> ScaledWire:
    """Write the clamp of what the client shares. Its result is no wire that a client chose the shares of."""
    least, largest = (round(end * 2.0**x.frac) for end in (declared.low, declared.high))  # as clients encode the ends
    steps = largest - least
    many = f"takes {declared.low:g} to {declared.high:g}, over {(1 << writer.precision.compared) - 2:,} steps to clamp,"
    writer.demand(steps + 1 < 1 << writer.precision.compared, many)
    if (steps + 2).bit_length() <= _TABLE_BITS:
        return _looked_up(writer, x, least, steps)
    bits = (steps + 1).bit_length()
    above = _beyond(writer, x, "above", least, bits)
    over = _beyond(writer, above, "over", steps, bits)
    layer = local.Combine(
        name=writer.name(x, "within"), inputs=(above.name, over.name), shapes=(x.shape, x.shape), factors=(1, -1)
    )
    wire = writer.after(above, layer)
    if least:
        value = torch.tensor([least * x.unit], dtype=torch.float64)
        wire = products.bias(writer, writer.name(x, "clamped"), wire, value, x.low, x.high)
    return replace(wire, low=x.low, high=x.high)


def _beyond(writer: Writer, x: ScaledWire, suffix: str, hinge: int, bits: int) -> ScaledWire:
    """Write what x is above a hinge, or 0. No calibration data bounds what is compared."""
    opened = min(16 if bits < 16 else 32, writer.ring.bits)
    half = 1 << (opened - 1)
    layer = lookups.ReLU(
        name=writer.name(x, suffix),
        input=x.name,
        shape=x.shape,
        shift=0,
        opened_bits=opened,
        range_bits=bits,
        digit_bits=comparisons.digit_bits(bits),
        hinges=((hinge + half) % (2 * half) - half,),
    )
    return writer.after(x, layer, low=0.0, high=((1 << bits) - 1) * x.unit)


def _looked_up(writer: Writer, x: ScaledWire, least: int, steps: int) -> ScaledWire:
    """Write a table of what each element becomes, with room for one beyond either end."""
    bits = (steps + 2).bit_length()
    size = 1 << bits
    values = [0] * size
    for at in range(size):
        nearest = at if at <= steps else steps if at - steps <= size - at else 0
        values[(least + at) % size] = least + nearest
    table = lookups.Table(
        name=writer.name(x, "table"),
        input=x.name,
        shape=x.shape,
        shift=0,
        opened_bits=bits,
        values=(tuple(values),),
    )
    writer.add(table)
    flat = local.Reshape(name=writer.name(x, "clamped"), input=table.name, shape=table.output_shape, to=x.shape)
    return writer.after(x, flat)
