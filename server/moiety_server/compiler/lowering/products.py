"""Writes products with secret weights, products of two wires, and secret constants that are added."""

from dataclasses import replace

from torch import Tensor

from moiety_server.compiler import ir, ranges
from moiety_server.compiler.attention import MatMulNode
from moiety_server.compiler.lowering.wires import MOST_FRAC_BITS, ScaledWire, Writer, fits
from moiety_server.compiler.scales import fitting
from moiety_shared.plan import layers as plan_layers

_FEWEST_WEIGHT_BITS = 5
_COARSE = 2.0**-10


def weighted(writer: Writer, node: ir.LinearNode | ir.ConvNode, x: ScaledWire) -> ScaledWire:
    """Write a linear layer or a convolution of a wire that is short enough to be multiplied, and encode its weights."""
    low, high = writer.bounds(node)
    frac = min(writer.scales.total[node.name], x.frac + MOST_FRAC_BITS)
    largest = float(node.weight.abs().max()) * x.factor  # 0 where nothing was trained yet
    frac = min(frac, x.frac + fitting(max(largest, 1e-9), writer.ring.bits - 2))
    coarse = ranges.of_products(writer.known, node)[0] * 2.0 ** (x.frac - frac - 1)  # the error of rounding the weights
    fine = largest * 2.0 ** (frac - x.frac) >= 2.0**_FEWEST_WEIGHT_BITS or coarse <= _COARSE * max(-low, high)
    writer.demand(fine or not largest, f"can reach {max(-low, high):.3g}, too much")
    writer.weights[f"{node.name}.weight"] = writer.encode(node.weight, x.factor * 2.0 ** (frac - x.frac))
    if node.bias is not None:
        writer.weights[f"{node.name}.bias"] = writer.encode(node.bias, 2.0**frac)
    head = {"name": node.name, "input": writer.open(x), "shape": x.shape, "bias": node.bias is not None}
    layer: plan_layers.Linear | plan_layers.Conv
    if isinstance(node, ir.LinearNode):
        layer = plan_layers.Linear(**head, out_features=node.shape[-1])
    else:
        layer = plan_layers.Conv(
            **head,
            out_channels=node.shape[0],
            kernel=tuple(node.weight.shape[2:]),
            stride=node.stride,
            padding=node.padding,
            dilation=node.dilation,
            groups=node.groups,
            transposed=node.transposed,
            output_padding=node.output_padding,
        )
    return writer.after(x, layer, frac=frac, factor=1.0, low=low, high=high)


def product(writer: Writer, node: ir.MulNode, x: ScaledWire, z: ScaledWire) -> ScaledWire:
    """Write the product of two wires, which may be one wire. Opens them, masked, if they are not open yet."""
    low, high = writer.bounds(node)
    return replace(multiply(writer, node.name, x, z), factor=x.factor * z.factor, low=low, high=high)


def multiply(writer: Writer, name: str, x: ScaledWire, z: ScaledWire) -> ScaledWire:
    """Write a layer called `name`. Its result has the fractional bits of both wires; its factor and range are still
    those of x."""
    layer = plan_layers.Mul(
        name=name, left=writer.open(x), right=writer.open(z), left_shape=x.shape, right_shape=z.shape
    )
    return writer.after(x, layer, frac=x.frac + z.frac)


def matmul(writer: Writer, node: MatMulNode, x: ScaledWire, z: ScaledWire) -> ScaledWire:
    """Write the matrix product of two wires, which may be one wire. Sums of products need more bits than products, so
    where the ring is short of them both wires give up as many."""
    low, high = writer.bounds(node)
    factor = x.factor * z.factor
    beyond = x.frac + z.frac - fitting(max(-low, high, 1e-9) / factor, writer.ring.bits - 2)
    if beyond > 0:
        x, z = (writer.at_most(wire, wire.frac - (beyond + 1) // 2) for wire in (x, z))
    layer = plan_layers.MatMul(
        name=node.name, left=writer.open(x), right=writer.open(z), left_shape=x.shape, right_shape=z.shape
    )
    return writer.after(x, layer, frac=x.frac + z.frac, factor=factor, low=low, high=high)


def bias(writer: Writer, name: str, x: ScaledWire, value: Tensor, low: float, high: float) -> ScaledWire:
    """Write a layer called `name` that adds a secret constant. Its result lies between `low` and `high`."""
    if not fits(x, max(abs(low), abs(high))):
        x = writer.at_most(writer.small(x), fitting(max(abs(low), abs(high)) / x.factor, writer.ring.bits - 2))
    value = value if value.dim() else value[None]
    writer.weights[f"{name}.bias"] = writer.encode(value, 1 / x.unit)
    layer = plan_layers.Bias(name=name, input=x.name, shape=x.shape, bias_shape=tuple(value.shape))
    return writer.after(x, layer, low=low, high=high)
