"""Public functions of whole numbers: counts of secret conditions, and a table that each count is looked up in.

Nothing is rounded on the way. The client's bits are multiples of 2^frac, the weights are whole, and so the count is a
multiple of 2^frac as well. To drop its low bits, which are zeros, takes nothing away, whatever the dither is.
"""

from moiety_server.compiler import ir
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_shared.plan import layers as plan_layers
from moiety_shared.plan import local, lookups

_LARGEST = 1 << 20  # of a whole weight: float32 holds larger ones, and no tree has them


def counts(writer: Writer, node: ir.LinearNode, x: ScaledWire) -> ScaledWire:
    """Write a matrix of whole numbers times a wire whose values are whole as well, at the wire's own scale."""
    secrets = [value for value in (node.weight, node.bias) if value is not None]
    whole = all(bool((value == value.round()).all()) and float(value.abs().max()) < _LARGEST for value in secrets)
    writer.demand(whole and x.factor == 1 and x.bits == writer.ring.bits, "counts what are no whole numbers")
    writer.weights[f"{node.name}.weight"] = writer.encode(node.weight, 1.0)
    if node.bias is not None:
        writer.weights[f"{node.name}.bias"] = writer.encode(node.bias, 2.0**x.frac)
    low, high = writer.bounds(node)
    layer = plan_layers.Linear(
        name=node.name, input=writer.open(x), shape=x.shape, bias=node.bias is not None, out_features=node.shape[-1]
    )
    return writer.after(x, layer, low=low, high=high)


def look_up(writer: Writer, node: ir.LookupNode, x: ScaledWire) -> ScaledWire:
    """Write a table over the lowest whole bits of the counts."""
    low, high = writer.bounds(node)
    table = lookups.Table(
        name=writer.name(ScaledWire(node.name, x.shape, x.bits, 0, 1.0, low, high), "table"),
        input=writer.to_reduce(x, x.frac).name,
        shape=x.shape,
        shift=x.frac,
        opened_bits=node.bits,
        values=(node.values,),
    )
    writer.add(table)
    layer = local.Reshape(name=node.name, input=table.name, shape=table.output_shape, to=x.shape)
    return writer.after(x, layer, frac=0, factor=1.0, bits=writer.ring.bits, low=low, high=high)
