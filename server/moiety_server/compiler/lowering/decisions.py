"""Comparisons whose outcome is a number of its own: 0 or 1, the place of the largest value, or the values' ranks.

A decision is a bit whatever is shared, so a sum of decisions is a count and says nothing else.
"""

import math
from typing import Literal

import torch

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.lowering import products
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_server.compiler.scales import fitting
from moiety_shared.plan import layers as plan_layers
from moiety_shared.plan import local, lookups
from moiety_shared.plan.plan import LABELS

_RANKED_BITS = 20  # the bits compared for a rank: four digits of five bits
_MOST_SUMMED = 256
SPARE_BITS = 3
"""The bits that an output leaves free which is compared with a secret threshold: the difference may be twice as large,
and what a layer reads leaves two free."""


def decide(writer: Writer, node: ir.DecideNode, x: ScaledWire, compared: int = 0) -> ScaledWire:
    """Write 0 or 1 for every value of x. Magnitudes of `compared` bits are compared, or of what the precision has."""
    x = writer.in_ring(x)
    tolerance = node.tolerance / x.factor
    frac = min(x.frac, fitting(x.reach + tolerance, compared or writer.precision.compared))
    unit = x.factor * 2.0**-frac
    writer.demand(not node.whole or unit <= 1, "compares whole numbers that are too large to be told apart")
    t = max(round(node.tolerance / unit), 1)
    hinges = {"greater": (t,), "not_less": (1 - t,), "equal": (1 - t, t)}[node.kind]
    shift = x.frac - frac
    opened = min(compared + 2 if compared else writer.precision.opened, x.bits - shift)
    # The bits hold a value, one more for what truncation adds, and the farthest hinge.
    bits = math.ceil(math.log2(x.reach * 2.0**frac + t + 3))
    writer.demand(bits < opened, "compares values that are too large")
    digits = math.ceil(bits / (4 if bits <= 16 else 5))
    layer = lookups.Decide(
        name=node.name,
        input=writer.to_reduce(x, shift).name,
        shape=x.shape,
        shift=shift,
        opened_bits=opened,
        range_bits=bits,
        digit_bits=math.ceil(bits / digits),
        hinges=hinges,
    )
    return writer.after(x, layer, frac=0, factor=1.0, bits=writer.ring.bits, low=0.0, high=1.0)


def above(writer: Writer, name: str, x: ScaledWire, threshold: float) -> ScaledWire:
    """Write x - threshold for the one value of x, as (1,).

    The threshold is secret. So no layer depends on it: the result's stated range is that of any threshold that x
    reaches.
    """
    x = writer.in_ring(x)
    if x.shape != (1,):
        x = writer.after(x, local.Reshape(name=writer.name(x, "single"), input=x.name, shape=x.shape, to=(1,)))
    reach = max(abs(x.low), abs(x.high))
    if abs(threshold) > reach:
        raise NotServable(
            f"{writer.node.origin}: no output is beyond the threshold, so every decision would be the same. Instead: "
            "state a threshold among the outputs"
        )
    return products.bias(writer, name, x, torch.tensor([-threshold]), -2 * reach, 2 * reach)


def is_positive(writer: Writer, name: str, x: ScaledWire) -> ScaledWire:
    """Write whether x is above 0, as finely as a comparison can tell."""
    node = ir.DecideNode(
        name=name, inputs=(x.name,), shape=x.shape, origin=writer.node.origin, kind="greater", tolerance=0.0
    )
    return decide(writer, node, x, _RANKED_BITS)


def of_two(writer: Writer, name: str, x: ScaledWire) -> ScaledWire:
    """Write (1,) as two classes: 0 and x. The second is the larger where x is above 0; equals are the first."""
    layer = local.Pad(name=name, input=x.name, shape=x.shape, before=(1,), after=(0,))
    return writer.after(x, layer, low=min(x.low, 0.0), high=max(x.high, 0.0))


def rank(writer: Writer, name: str, x: ScaledWire, k: int, result: Literal["words", "share"]) -> lookups.TopK:
    """Write and return the layer that says which of the values (classes,) are the k largest."""
    classes = x.shape[-1]
    if len(x.shape) != 1 or not 2 <= classes <= 2048 or k >= classes:
        raise NotServable(f"{writer.node.origin}: labels need one output for each of 2 to 2048 classes, got {x.shape}")
    cut = max(0, x.frac - fitting((x.high - x.low) / x.factor, _RANKED_BITS))
    layer = lookups.TopK(
        name=name,
        input=writer.to_reduce(x, cut).name,
        shape=(classes,),
        shift=cut,
        opened_bits=min(x.bits - cut, _RANKED_BITS + 2),
        range_bits=min(_RANKED_BITS, x.bits - cut - 1),
        digit_bits=5,
        k=k,
        result=result,
    )
    writer.add(layer)
    return layer


def right_labels(writer: Writer, top: lookups.TopK, name: str) -> None:
    """Write the wire that is 1 where the largest value's place is the client's label, else 0."""
    classes, shape = top.size, top.output_shape
    bits = max((classes - 1).bit_length(), 2)
    row = lookups.OneHot(name="labels-row", input=LABELS, opened_bits=bits, classes=classes)
    writer.add(row)
    left, right = (writer.open(ScaledWire(one, shape, writer.ring.bits, 0, 1.0, 0, 1)) for one in (top.name, row.name))
    writer.add(plan_layers.Mul(name="labels-right", left=left, right=right, left_shape=shape, right_shape=shape))
    writer.add(local.Sum(name=name, input="labels-right", shape=shape, axes=(0,)))


def argmax(writer: Writer, node: ir.ArgmaxNode, x: ScaledWire) -> ScaledWire:
    """Write the place of the largest value: the sum of each place times whether it is that place."""
    top = rank(writer, writer.name(ScaledWire(node.name, x.shape, x.bits, 0, 1.0, 0, 1), "top"), x, 1, "share")
    places: list[str] = []
    for place in range(1, x.shape[0]):
        name = f"{node.name[:57]}-{place}"
        writer.add(local.Slice(name=name, input=top.name, shape=top.output_shape, axis=0, start=place, stop=place + 1))
        places.append(name)
    factors = list(range(1, x.shape[0]))
    for at in range(0, len(places) - _MOST_SUMMED, _MOST_SUMMED):  # a long sum becomes a sum of sums
        name = f"{node.name[:55]}-sum{at}"
        writer.add(_sum(name, places[:_MOST_SUMMED], factors[:_MOST_SUMMED]))
        places, factors = [*places[_MOST_SUMMED:], name], [*factors[_MOST_SUMMED:], 1]
    layer = _sum(node.name, places, factors)
    return writer.after(x, layer, frac=0, factor=1.0, bits=writer.ring.bits, low=0.0, high=x.shape[0] - 1.0)


def _sum(name: str, places: list[str], factors: list[int]) -> local.Combine:
    return local.Combine(name=name, inputs=tuple(places), shapes=((1,),) * len(places), factors=tuple(factors))
