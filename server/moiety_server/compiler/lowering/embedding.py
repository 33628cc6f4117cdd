"""Writes a look-up in a secret table. A one-hot row times the table is a row of the table, without any rounding."""

from dataclasses import replace

from moiety_server.compiler.embedding import EmbeddingNode
from moiety_server.compiler.lowering.inputs import useful_bits
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_shared.plan import layers as plan_layers
from moiety_shared.plan import local, lookups


def looked_up(writer: Writer, node: EmbeddingNode, x: ScaledWire) -> ScaledWire:
    """Write the rows of a table, at as many bits as its readers can use."""
    low, high = writer.bounds(node)
    (places, width), digits = node.shape, node.digits
    # A party stores W as (width * high, low): the high digit picks one of `high` neighbours.
    weight = node.table.reshape(digits.high, digits.low, width).permute(2, 0, 1).reshape(-1, digits.low)
    wire = replace(x, frac=useful_bits(writer, node), low=low, high=high)
    name = writer.name(wire, "blocks") if digits.count == 2 else node.name
    writer.weights[f"{name}.weight"] = writer.encode(weight, 2.0**wire.frac)
    picked = _one_hot(writer, x, digits.count - 1, digits.low, "low")
    product = plan_layers.Linear(
        name=name, input=picked, shape=(places, digits.low), out_features=len(weight), bias=False
    )
    wire = writer.after(wire, product)
    if digits.count == 1:
        return wire
    blocks = writer.after(
        wire,
        local.Reshape(name=writer.name(x, "sorted"), input=name, shape=wire.shape, to=(places, width, digits.high)),
    )
    block = _one_hot(writer, x, 0, digits.high, "high", (places, 1, 1))
    rows = plan_layers.MatMul(
        name=writer.name(x, "picked"),
        left=block,
        right=writer.open(blocks),
        left_shape=(places, 1, digits.high),
        right_shape=blocks.shape,
    )
    wire = writer.after(blocks, rows)
    flat = local.Reshape(name=node.name, input=rows.name, shape=wire.shape, to=node.shape)
    return writer.after(wire, flat)


def _one_hot(
    writer: Writer, x: ScaledWire, digit: int, values: int, suffix: str, shape: tuple[int, ...] | None = None
) -> str:
    """Write the open one-hot rows of a digit, at one of its `values` places each. Return the wire's name."""
    wire = x
    if x.shape[-1] > 1:
        part = local.Slice(
            name=writer.name(x, suffix), input=x.name, shape=x.shape, axis=1, start=digit, stop=digit + 1
        )
        wire = writer.after(x, part)
    if shape is not None:
        apart = local.Reshape(name=writer.name(x, f"{suffix}-apart"), input=wire.name, shape=wire.shape, to=shape)
        wire = writer.after(wire, apart)
    bits = max((values - 1).bit_length(), 2)
    row = lookups.OneHot(
        name=writer.name(x, f"{suffix}-row"), input=wire.name, shape=wire.shape, opened_bits=bits, classes=values
    )
    return writer.open(writer.after(wire, row, low=0.0, high=1.0))
