"""Sums: writes wires that are brought to one scale and added, joined, summed over axes or windows, or multiplied by a
number."""

import math
from dataclasses import replace

from moiety_server.compiler import ir
from moiety_server.compiler.lowering.wires import ScaledWire, Writer, fits
from moiety_server.compiler.scales import fitting
from moiety_shared.plan import local
from moiety_shared.plan.plan import AnyLayer

_FACTOR_BITS, _FEWEST_BITS = 12, 7  # fractional bits of a public factor


def add(writer: Writer, node: ir.AddNode, x: list[ScaledWire]) -> ScaledWire:
    """Write a sum of wires times whole factors."""
    low, high = writer.bounds(node)
    aligned = _aligned(writer, node, x, max(abs(low), abs(high), *(w.reach * w.factor for w in x)))
    layer = local.Combine(
        name=node.name,
        inputs=tuple(w.name for w in aligned),
        shapes=tuple(w.shape for w in aligned),
        factors=node.factors,
    )
    return writer.after(aligned[0], layer, low=low, high=high)


def concat(writer: Writer, node: ir.ConcatNode, x: list[ScaledWire]) -> ScaledWire:
    """Join wires, all at one scale."""
    low, high = writer.bounds(node)
    aligned = _aligned(writer, node, x, max(wire.reach * wire.factor for wire in x))
    layer = local.Concat(
        name=node.name,
        inputs=tuple(w.name for w in aligned),
        shapes=tuple(w.shape for w in aligned),
        axis=node.axis,
    )
    return writer.after(aligned[0], layer, low=low, high=high)


def scale(writer: Writer, node: ir.ScaleNode, x: ScaledWire) -> ScaledWire:
    """Write the wire times a public number, which changes its scale. A negative number takes a layer for its sign."""
    low, high = writer.bounds(node)
    if node.factor > 0:
        exponent = math.log2(node.factor)
        if exponent.is_integer() and x.frac - int(exponent) >= 0:
            return replace(x, frac=x.frac - int(exponent), low=low, high=high)
        return replace(x, factor=x.factor * node.factor, low=low, high=high)
    wire = writer.in_ring(x)
    layer = local.Combine(name=node.name, inputs=(wire.name,), shapes=(wire.shape,), factors=(-1,))
    return writer.after(wire, layer, factor=wire.factor * -node.factor, low=low, high=high)


def reduce(writer: Writer, node: ir.SumNode | ir.SumPoolNode, x: ScaledWire) -> ScaledWire:
    """Write a sum over axes or over windows, of a wire in the plan's ring."""
    low, high = writer.bounds(node)
    if not fits(x, max(abs(low), abs(high))):
        most = fitting(max(abs(low), abs(high)) / x.factor, writer.ring.bits - 2)
        x = writer.at_most(writer.small(x), most)
    head = {"name": node.name, "input": x.name, "shape": x.shape}
    layer: AnyLayer
    if isinstance(node, ir.SumNode):
        layer = local.Sum(**head, axes=node.axes)
    else:
        layer = local.SumPool(**head, kernel=node.kernel, stride=node.stride, padding=node.padding)
    return writer.after(x, layer, low=low, high=high)


def weighted(writer: Writer, node: ir.TakeNode, x: ScaledWire) -> ScaledWire:
    """Write sums of values times public factors, which are rounded to whole multiples of 2^-12, or of what fits."""
    low, high = writer.bounds(node)
    reach = max(abs(low), abs(high), x.reach * x.factor) / x.factor
    most, wanted = fitting(reach, writer.ring.bits - 2), _FACTOR_BITS
    if all(f.is_integer() for one in node.factors for f in one):
        wanted = 0
    if most - x.frac < wanted:
        x = writer.at_most(writer.small(x), max(most - wanted, fitting(x.reach, _FEWEST_BITS)))
    bits = min(most - x.frac, wanted)
    writer.demand(bits >= min(wanted, _FEWEST_BITS), "has factors that leave no room")
    factors = tuple(tuple(round(f * 2.0**bits) for f in one) for one in node.factors)
    layer = local.Take(name=node.name, input=x.name, shape=x.shape, axis=node.axis, places=node.places, factors=factors)
    return writer.after(x, layer, frac=x.frac + bits, low=low, high=high)


def with_axes(writer: Writer, node: ir.Node, x: ScaledWire, index: int) -> ScaledWire:
    """Return the wire with as many axes as the node's output has. The new axes come first and have size one."""
    missing = len(node.shape) - len(x.shape)
    if missing <= 0:  # a wire of one number a row has an axis of size one in a plan
        return x
    to = (1,) * missing + x.shape
    name = f"{node.name[:58]}-axes{index}"
    return writer.after(x, local.Reshape(name=name, input=x.name, shape=x.shape, to=to))


def _aligned(writer: Writer, node: ir.Node, x: list[ScaledWire], reach: float) -> list[ScaledWire]:
    """Bring wires to one scale at which `reach` fits the ring."""
    if len({(w.frac, w.factor, w.bits) for w in x}) == 1 and (x[0].bits < writer.ring.bits or fits(x[0], reach)):
        if x[0].bits < writer.ring.bits and isinstance(node, ir.AddNode):
            x = [writer.in_ring(w) for w in x]
        return x
    most = fitting(reach, writer.ring.bits - 2)
    given = [writer.in_ring(w) for w in x]
    given = [w if w.frac <= most and w.factor == 1 else writer.at_most(writer.small(w), most) for w in given]
    frac = min(max(w.frac for w in given), most)
    if any(w.factor != 1 for w in given):  # whole factors replace others: leave room for their precision
        frac = min(most, max(frac, max(w.frac for w in given) + writer.precision.short))
    frac = min(frac, min(w.frac for w in given) + writer.ring.bits - 4)
    given = [writer.at_most(w, frac) for w in given]
    return [_rescaled(writer, node, w, frac, index) for index, w in enumerate(given)]


def _rescaled(writer: Writer, node: ir.Node, wire: ScaledWire, frac: int, index: int) -> ScaledWire:
    """Bring the wire to `frac` fractional bits and factor 1."""
    times = round(wire.factor * 2.0 ** (frac - wire.frac))
    if times == 1:
        return replace(wire, factor=1.0)
    name = f"{node.name[:58]}-by{index}"
    layer = local.Combine(name=name, inputs=(wire.name,), shapes=(wire.shape,), factors=(times,))
    return writer.after(wire, layer, frac=frac, factor=1.0)
