"""The float graph written as layers of a plan: each node at its scale, truncations where a product needs few bits."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import decisions, ir, ranges, smooth
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.ranges import Range
from moiety_server.compiler.scales import Precision, Scales, fitting
from moiety_server.compiler.wires import FEWEST_VALUE_BITS, ScaledWire, Writer, fits
from moiety_shared.fixed_point import NotEncodable, grid
from moiety_shared.plan import layers as plan_layers
from moiety_shared.plan import local, lookups
from moiety_shared.plan.plan import AnyLayer, Input, Output, Plan

_MOST_FRAC_BITS = 30
_FEWEST_WEIGHT_BITS = 5
_COARSE = 2.0**-10


class Emitter(Writer):
    """One model at one precision. Raises NotServable where the ring is too small."""

    def __init__(
        self,
        graph: ir.Graph,
        known: Mapping[str, Range],
        scales: Scales,
        precision: Precision,
        limits: tuple[float, float],
    ) -> None:
        super().__init__(precision, graph.nodes[0])
        self.measured: set[str] = set()
        self._graph, self._known, self._scales, self._limits = graph, known, scales, limits
        self._wires: dict[str, ScaledWire] = {}
        for node in graph.nodes:
            self.node = node
            self._wires[node.name] = self._write(node, [self._wires[name] for name in node.inputs])

    def logits(self) -> Plan:
        """The plan that gives all outputs."""
        wire = self.in_ring(self._wires[self._graph.output])
        output = Output(wire=wire.name, shape=wire.shape, scale=wire.unit, final=self._graph.final)
        return self._plan(self.layers, output)

    def total(self) -> Plan:
        """The plan that gives the sum of all outputs over a request's rows, and none of them."""
        wire = self.in_ring(self._wires[self._graph.output])
        return self._plan(self.layers, Output(wire=wire.name, shape=wire.shape, kind="count", scale=wire.unit))

    def wire(self, node: str) -> ScaledWire:
        """What a node was written as."""
        return self._wires[node]

    def revealing(self, reveal: str, top: int) -> Plan:
        """The plan that gives the `top` labels, or only the count of right ones."""
        wire = self._wires[self._graph.output]
        classes = wire.shape[-1]
        self.node = self._graph.nodes[-1]
        start = len(self.layers)
        kind = decisions.rank(
            self,
            "labels-top",
            wire,
            top if reveal == "labels" else 1,
            "words" if reveal == "labels" else "share",
        )
        if reveal == "labels":
            output = Output(wire=kind.name, shape=(classes,), kind="labels", top=top)
        else:
            decisions.right_labels(self, kind, "labels-count")
            output = Output(wire="labels-count", shape=(1,), kind="count")
        added, self.layers = self.layers, self.layers[:start]
        return self._plan(added, output, classes if reveal == "count" else None)

    def _plan(self, layers: list[AnyLayer], output: Output, classes: int | None = None) -> Plan:
        first = self._wires[self._graph.nodes[0].name]
        low, high = self._limits
        given = Input(name=first.name, shape=first.shape, frac_bits=first.frac, low=low, high=high, classes=classes)
        bits = self.precision.ring_bits
        return Plan(ring_bits=32 if bits == 32 else 64, input=given, layers=tuple(layers), output=output)

    def _bounds(self, node: ir.Node) -> tuple[float, float]:
        known = self._known[node.name]
        return known.low, known.high

    # Nodes

    def _write(self, node: ir.Node, x: list[ScaledWire]) -> ScaledWire:
        low, high = self._bounds(node)
        if node.inputs and not self._known[node.name].proved:
            self.measured.add(node.name)
        match node:
            case ir.InputNode():
                self.given(node.name)
                return ScaledWire(node.name, node.shape, self.ring.bits, self._input_scale(node), 1.0, low, high)
            case ir.LinearNode() | ir.ConvNode():
                return self._product(node, self.small(x[0], self._scales.wanted[node.inputs[0]]))
            case ir.ClampNode():
                return self._clamp(node, x[0])
            case ir.DecideNode():
                return decisions.decide(self, node, x[0])
            case ir.ArgmaxNode():
                return decisions.argmax(self, node, x[0])
            case ir.MaxPoolNode():
                return self._max_pool(node, x[0])
            case ir.SmoothNode():
                return self._smooth(node, x[0])
            case ir.MulNode():
                return self._mul(node, *(self.small(self._axes(node, wire, i)) for i, wire in enumerate(x)))
            case ir.AddNode():
                return self._sum(node, [self._axes(node, wire, i) for i, wire in enumerate(x)])
            case ir.ConcatNode():
                aligned = self._aligned(node, x, max(wire.reach * wire.factor for wire in x))
                layer = local.Concat(
                    name=node.name,
                    inputs=tuple(w.name for w in aligned),
                    shapes=tuple(w.shape for w in aligned),
                    axis=node.axis,
                )
                return self.after(aligned[0], layer, low=low, high=high)
            case ir.ScaleNode():
                return self._scaled(node, x[0])
            case ir.BiasNode():
                return self._bias(node.name, self.in_ring(x[0]), node.value, low, high)
            case ir.SumNode() | ir.SumPoolNode():
                return self._sum_of(node, self.in_ring(x[0]))
            case _:
                return self.after(x[0], self._moved(node, x[0]), low=low, high=high)

    def _input_scale(self, node: ir.InputNode) -> int:
        """Its fractional bits: as many as fit, or its readers have use for, and at least so many that a value of the
        scale lies in the declared range."""
        most = min(fitting(self._known[node.name].reach, self.precision.short), _MOST_FRAC_BITS)
        frac = max(min(most, max(math.ceil(min(self._scales.wanted[node.name], 60)), 1)), 0)
        low, high = self._limits
        with suppress(NotEncodable):
            grid(low, high, frac)
            return frac
        frac = math.ceil(-math.log2(high - low))
        self.demand(frac <= most, f"takes {low:g} to {high:g}, a range too narrow for so large numbers,")
        return frac

    def _moved(self, node: ir.Node, x: ScaledWire) -> AnyLayer:
        """Layers that only move values."""
        head = {"name": node.name, "input": x.name, "shape": x.shape}
        match node:
            case ir.ReshapeNode():
                return local.Reshape(**head, to=node.shape)
            case ir.PermuteNode():
                return local.Permute(**head, order=node.order)
            case ir.SliceNode():
                return local.Slice(**head, axis=node.axis, start=node.start, stop=node.stop, step=node.step)
            case ir.PadNode():
                return local.Pad(**head, before=node.before, after=node.after)
            case ir.UpsampleNode():
                return local.Upsample(**head, factors=node.factors)
        raise NotServable(f"{node.origin}: {type(node).__name__} has no place in a plan")

    def _product(self, node: ir.LinearNode | ir.ConvNode, x: ScaledWire) -> ScaledWire:
        low, high = self._bounds(node)
        frac = min(self._scales.total[node.name], x.frac + _MOST_FRAC_BITS)
        largest = float(node.weight.abs().max()) * x.factor
        frac = min(frac, x.frac + fitting(max(largest, 1e-9), self.ring.bits - 2))
        coarse = ranges.of_products(self._known, node)[0] * 2.0 ** (x.frac - frac - 1)  # what rounding the weights does
        fine = largest * 2.0 ** (frac - x.frac) >= 2.0**_FEWEST_WEIGHT_BITS or coarse <= _COARSE * max(-low, high)
        self.demand(fine, f"can reach {max(-low, high):.3g}, too much")
        self.weights[f"{node.name}.weight"] = self.encode(node.weight, x.factor * 2.0 ** (frac - x.frac))
        if node.bias is not None:
            self.weights[f"{node.name}.bias"] = self.encode(node.bias, 2.0**frac)
        head = {"name": node.name, "input": self.open(x), "shape": x.shape, "bias": node.bias is not None}
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
        return self.after(x, layer, frac=frac, factor=1.0, low=low, high=high)

    def _fraction(self, node: ir.Node, x: ScaledWire, reach: float, bits: int) -> int:
        """Fractional bits of what a comparison opens: no more than fit, or than its readers have use for."""
        frac = min(x.frac, fitting(reach, bits))
        if x.bits < self.ring.bits:
            self.demand(frac == x.frac, "would be cut twice")
        wanted = self._scales.wanted[node.name] + math.log2(x.factor)
        useful = max(math.ceil(min(wanted, 60)), fitting(x.reach, FEWEST_VALUE_BITS - 1)) + 1
        if x.bits == self.ring.bits and not self.is_shared(x):  # what the client shares is short as it is
            frac = min(frac, useful)
        self.demand(frac >= fitting(x.reach, 4), "would keep less than four bits of what it compares")
        return frac

    def _comparison(self, x: ScaledWire, frac: int, difference: float) -> dict[str, Any]:
        """The attributes of a layer that compares values of x up to `difference` (in units of factor)."""
        bits = min(max(math.ceil(math.log2(difference * 2.0**frac + 2)), 1), self.precision.opened - 1)
        digits = math.ceil(bits / (4 if bits <= 16 else 5))
        opened = x.bits if x.bits < self.ring.bits else self.precision.opened
        return {
            "shift": x.frac - frac,
            "opened_bits": min(opened, x.bits - (x.frac - frac)),
            "range_bits": bits,
            "digit_bits": math.ceil(bits / digits),
            "input": self.to_reduce(x, x.frac - frac).name,
            "shape": x.shape,
        }

    def _clamp(self, node: ir.ClampNode, x: ScaledWire) -> ScaledWire:
        low, high = self._bounds(node)
        # A limit that the wire's range does not reach needs no comparison.
        limits = [node.low] if node.high is None or node.high >= x.high else [node.low, node.high]
        farthest = max(max(abs(x.low - h), abs(x.high - h)) for h in limits) / x.factor
        frac = self._fraction(node, x, max(farthest, x.reach), self.precision.compared)
        layer = lookups.ReLU(
            name=node.name,
            hinges=tuple(round(limit / x.factor * 2.0**frac) for limit in limits),
            **self._comparison(x, frac, max(farthest, x.reach)),
        )
        wire = self.after(x, layer, frac=frac, bits=self.ring.bits, low=low - node.low, high=high - node.low)
        if node.low == 0:
            return wire
        return self._bias(self.name(wire, "low"), wire, torch.tensor([node.low]), low, high)

    def _max_pool(self, node: ir.MaxPoolNode, x: ScaledWire) -> ScaledWire:
        low, high = self._bounds(node)
        if node.kernel == (1, 1):
            return self._strided(node, x)
        frac = self._fraction(node, x, max(x.reach, (x.high - x.low) / x.factor / 2), self.precision.short)
        layer = lookups.MaxPool(
            name=node.name,
            kernel=node.kernel,
            stride=node.stride,
            padding=node.padding,
            dilation=node.dilation,
            output_size=node.shape[1:],
            **self._comparison(x, frac, (x.high - x.low) / x.factor),
        )
        return self.after(x, layer, frac=frac, bits=layer.opened_bits, low=low, high=high)

    def _strided(self, node: ir.MaxPoolNode, x: ScaledWire) -> ScaledWire:
        """A pool of single places: every so many rows and columns."""
        self.demand(node.padding == (0, 0), "pads a pool of single places")
        for axis, step in ((1, node.stride[0]), (2, node.stride[1])):
            stop = (node.shape[axis] - 1) * step + 1
            name = f"{node.name[:60]}-{axis}"
            x = self.after(
                x, local.Slice(name=name, input=x.name, shape=x.shape, axis=axis, start=0, stop=stop, step=step)
            )
        return x

    def _axes(self, node: ir.Node, x: ScaledWire, index: int) -> ScaledWire:
        """The wire with as many axes as the node's output, ones in front."""
        missing = len(node.shape) - len(x.shape)
        if not missing:
            return x
        to = (1,) * missing + x.shape
        name = f"{node.name[:58]}-axes{index}"
        return self.after(x, local.Reshape(name=name, input=x.name, shape=x.shape, to=to))

    def _mul(self, node: ir.MulNode, x: ScaledWire, z: ScaledWire) -> ScaledWire:
        low, high = self._bounds(node)
        layer = plan_layers.Mul(
            name=node.name, left=self.open(x), right=self.open(z), left_shape=x.shape, right_shape=z.shape
        )
        return self.after(x, layer, frac=x.frac + z.frac, factor=x.factor * z.factor, low=low, high=high)

    def _aligned(self, node: ir.Node, x: list[ScaledWire], reach: float) -> list[ScaledWire]:
        """Wires of one scale, at which `reach` fits the ring."""
        if len({(w.frac, w.factor, w.bits) for w in x}) == 1 and (x[0].bits < self.ring.bits or fits(x[0], reach)):
            if x[0].bits < self.ring.bits and isinstance(node, ir.AddNode):
                x = [self.in_ring(w) for w in x]
            return x
        most = fitting(reach, self.ring.bits - 2)
        given = [self.in_ring(w) for w in x]
        given = [w if w.frac <= most and w.factor == 1 else self.at_most(self.small(w), most) for w in given]
        frac = min(max(w.frac for w in given), most)
        if any(w.factor != 1 for w in given):  # whole factors stand in for others: room for their precision
            frac = min(most, max(frac, max(w.frac for w in given) + self.precision.short))
        frac = min(frac, min(w.frac for w in given) + self.ring.bits - 4)
        given = [self.at_most(w, frac) for w in given]
        return [self._rescaled(node, w, frac, index) for index, w in enumerate(given)]

    def _rescaled(self, node: ir.Node, wire: ScaledWire, frac: int, index: int) -> ScaledWire:
        """The wire at `frac` fractional bits and factor 1."""
        times = round(wire.factor * 2.0 ** (frac - wire.frac))
        if times == 1:
            return replace(wire, factor=1.0)
        name = f"{node.name[:58]}-by{index}"
        layer = local.Combine(name=name, inputs=(wire.name,), shapes=(wire.shape,), factors=(times,))
        return self.after(wire, layer, frac=frac, factor=1.0)

    def _sum(self, node: ir.AddNode, x: list[ScaledWire]) -> ScaledWire:
        low, high = self._bounds(node)
        aligned = self._aligned(node, x, max(abs(low), abs(high), *(w.reach * w.factor for w in x)))
        layer = local.Combine(
            name=node.name,
            inputs=tuple(w.name for w in aligned),
            shapes=tuple(w.shape for w in aligned),
            factors=node.factors,
        )
        return self.after(aligned[0], layer, low=low, high=high)

    def _scaled(self, node: ir.ScaleNode, x: ScaledWire) -> ScaledWire:
        low, high = self._bounds(node)
        if node.factor > 0:
            exponent = math.log2(node.factor)
            if exponent.is_integer() and x.frac - int(exponent) >= 0:
                return replace(x, frac=x.frac - int(exponent), low=low, high=high)
            return replace(x, factor=x.factor * node.factor, low=low, high=high)
        wire = self.in_ring(x)
        layer = local.Combine(name=node.name, inputs=(wire.name,), shapes=(wire.shape,), factors=(-1,))
        return self.after(wire, layer, factor=wire.factor * -node.factor, low=low, high=high)

    def _sum_of(self, node: ir.SumNode | ir.SumPoolNode, x: ScaledWire) -> ScaledWire:
        low, high = self._bounds(node)
        if not fits(x, max(abs(low), abs(high))):
            most = fitting(max(abs(low), abs(high)) / x.factor, self.ring.bits - 2)
            x = self.at_most(self.small(x), most)
        head = {"name": node.name, "input": x.name, "shape": x.shape}
        layer: AnyLayer
        if isinstance(node, ir.SumNode):
            layer = local.Sum(**head, axes=node.axes)
        else:
            layer = local.SumPool(**head, kernel=node.kernel, stride=node.stride, padding=node.padding)
        return self.after(x, layer, low=low, high=high)

    def _bias(self, name: str, x: ScaledWire, value: Tensor, low: float, high: float) -> ScaledWire:
        if not fits(x, max(abs(low), abs(high))):
            x = self.at_most(self.small(x), fitting(max(abs(low), abs(high)) / x.factor, self.ring.bits - 2))
        self.weights[f"{name}.bias"] = self.encode(value, 1 / x.unit)
        layer = plan_layers.Bias(name=name, input=x.name, shape=x.shape, bias_shape=tuple(value.shape))
        return self.after(x, layer, low=low, high=high)

    def _smooth(self, node: ir.SmoothNode, x: ScaledWire) -> ScaledWire:
        """f(x) = offset[s] + (slope[s] + curve[s] x) x, looked up by s, the upper bits of x; see smooth.py."""
        low, high = self._bounds(node)
        own = replace(x, name=node.name)
        # The result has as many fractional bits as x and the steepness have together.
        most = fitting(max(abs(low), abs(high), 1e-9), self.ring.bits - 2) - self.precision.short
        short = min(x.frac, fitting(x.reach, self.precision.short), most)
        of = smooth.parabolas(node, x.low, x.high, x.factor, x.frac, short, self.precision)
        self.demand(of.shift + of.index_bits <= x.bits, "opens more bits than there are")
        table = lookups.Table(
            name=self.name(own, "terms"),
            input=self.to_reduce(x, of.shift).name,
            shape=x.shape,
            shift=of.shift,
            opened_bits=of.index_bits,
            values=(of.offsets, of.slopes, of.curves),
        )
        self.add(table)
        small = replace(self.at_most(self.small(x), short), factor=1.0)
        terms = ScaledWire(table.name, table.output_shape, self.ring.bits, 0, 1.0, 0, 1)
        offset, slope, curve = (self._plane(terms, i, name) for i, name in enumerate(("offset", "slope", "curve")))
        bent = self._times(self.name(own, "bent"), curve, small, of.curve_bits + small.frac)
        steep = self._plus(self.name(own, "steep"), bent, slope, of.slope_bits)
        steep = self.small(replace(steep, low=-of.steepest, high=of.steepest))
        risen = self._times(self.name(own, "risen"), steep, small, steep.frac + small.frac)
        return replace(self._plus(node.name, risen, offset, of.offset_bits), low=low, high=high)

    def _times(self, name: str, x: ScaledWire, z: ScaledWire, frac: int) -> ScaledWire:
        layer = plan_layers.Mul(
            name=name, left=self.open(x), right=self.open(z), left_shape=x.shape, right_shape=z.shape
        )
        return self.after(x, layer, frac=frac)

    def _plus(self, name: str, wire: ScaledWire, term: ScaledWire, bits: int) -> ScaledWire:
        """The wire plus a term of `bits` fractional bits, no more than its own."""
        factors = (1, 1 << (wire.frac - bits))
        layer = local.Combine(name=name, inputs=(wire.name, term.name), shapes=(wire.shape,) * 2, factors=factors)
        return self.after(wire, layer)

    def _plane(self, both: ScaledWire, index: int, suffix: str) -> ScaledWire:
        layer = local.Slice(
            name=self.name(both, suffix), input=both.name, shape=both.shape, axis=0, start=index, stop=index + 1
        )
        plane = self.after(both, layer)
        shaped = local.Reshape(name=f"{layer.name[:60]}-1", input=plane.name, shape=plane.shape, to=both.shape[1:])
        return self.after(plane, shaped)
