"""Clamps and max pools: layers that open a value under a mask, and look up the signs of its differences from what they
compare it with."""

import math
from typing import Any

import torch

from moiety_server.compiler import ir
from moiety_server.compiler.lowering import products
from moiety_server.compiler.lowering.wires import FEWEST_VALUE_BITS, ScaledWire, Writer
from moiety_server.compiler.scales import fitting
from moiety_shared.plan import local, lookups


def clamp(writer: Writer, node: ir.ClampNode, x: ScaledWire) -> ScaledWire:
    """Write one comparison for each limit that x can reach."""
    low, high = writer.bounds(node)
    if node.low <= x.low and x.high <= (math.inf if node.high is None else node.high):
        low, high = max(low, x.low + node.offset), min(high, x.high + node.offset)
        if node.offset == 0:
            return writer.in_ring(x)
        short = fitting(max(abs(low), abs(high)) / x.factor, writer.precision.short)
        x = writer.at_most(writer.in_ring(x), short, "coarse")  # the sum needs no more bits than products read
        return products.bias(writer, node.name, x, torch.tensor([node.offset]), low, high)
    # A limit that the wire's range does not reach needs no comparison.
    limits = [node.low] if node.high is None or node.high >= x.high else [node.low, node.high]
    farthest = max(max(abs(x.low - h), abs(x.high - h)) for h in limits) / x.factor
    frac = _fraction(writer, node, x, max(farthest, x.reach), writer.precision.compared)
    layer = lookups.ReLU(
        name=node.name,
        hinges=tuple(round(limit / x.factor * 2.0**frac) for limit in limits),
        **_comparison(writer, x, frac, max(farthest, x.reach)),
    )
    base = node.low + node.offset
    wire = writer.after(x, layer, frac=frac, bits=writer.ring.bits, low=low - base, high=high - base)
    if base == 0:
        return wire
    return products.bias(writer, writer.name(wire, "low"), wire, torch.tensor([base]), low, high)


def max_pool(writer: Writer, node: ir.MaxPoolNode, x: ScaledWire) -> ScaledWire:
    """Write a knock-out in each window. Its result stays in the smaller ring in which x was opened."""
    low, high = writer.bounds(node)
    if node.kernel == (1, 1):
        return _strided(writer, node, x)
    frac = _fraction(writer, node, x, max(x.reach, (x.high - x.low) / x.factor / 2), writer.precision.short)
    layer = lookups.MaxPool(
        name=node.name,
        kernel=node.kernel,
        stride=node.stride,
        padding=node.padding,
        dilation=node.dilation,
        output_size=node.shape[1:],
        **_comparison(writer, x, frac, (x.high - x.low) / x.factor),
    )
    return writer.after(x, layer, frac=frac, bits=layer.opened_bits, low=low, high=high)


def _strided(writer: Writer, node: ir.MaxPoolNode, x: ScaledWire) -> ScaledWire:
    """Write a pool whose windows are single places: it takes every so many rows and columns."""
    writer.demand(node.padding == (0, 0), "pads a pool whose windows are single values")
    for axis, step in ((1, node.stride[0]), (2, node.stride[1])):
        stop = (node.shape[axis] - 1) * step + 1
        name = f"{node.name[:60]}-{axis}"
        x = writer.after(
            x, local.Slice(name=name, input=x.name, shape=x.shape, axis=axis, start=0, stop=stop, step=step)
        )
    return x


def _fraction(writer: Writer, node: ir.Node, x: ScaledWire, reach: float, bits: int) -> int:
    """Return the fractional bits of the value that a comparison opens: no more than fit, and no more than its readers
    can use."""
    frac = min(x.frac, fitting(reach, bits))
    if x.bits < writer.ring.bits:
        writer.demand(frac == x.frac, "would be truncated twice")
    wanted = writer.scales.wanted[node.name] + math.log2(x.factor)
    useful = max(math.ceil(min(wanted, 60)), fitting(x.reach, FEWEST_VALUE_BITS - 1)) + 1
    if x.bits == writer.ring.bits and not writer.is_shared(x):  # a wire that the client shares is short as it is
        frac = min(frac, useful)
    writer.demand(frac >= fitting(x.reach, 4), "would compare fewer than four bits")
    return frac


def _comparison(writer: Writer, x: ScaledWire, frac: int, difference: float) -> dict[str, Any]:
    """Return the attributes of a layer that compares values of x up to `difference` (in units of factor)."""
    bits = min(max(math.ceil(math.log2(difference * 2.0**frac + 2)), 1), writer.precision.opened - 1)
    opened = x.bits if x.bits < writer.ring.bits else writer.precision.opened
    return {
        "shift": x.frac - frac,
        "opened_bits": min(opened, x.bits - (x.frac - frac)),
        "range_bits": bits,
        "digit_bits": digit_bits(bits),
        "input": writer.to_reduce(x, x.frac - frac).name,
        "shape": x.shape,
    }


def digit_bits(bits: int) -> int:
    """Return the bits of each digit of a comparison of so many bits: at most four digits, as short as may be."""
    return math.ceil(bits / math.ceil(bits / (4 if bits <= 16 else 5)))
