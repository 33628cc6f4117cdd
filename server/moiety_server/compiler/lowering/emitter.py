"""Writes the float graph as layers of a plan: each node at its scale, with truncations where a product needs few
bits."""

from collections.abc import Mapping

from moiety_server.compiler import ir
from moiety_server.compiler.attention import MatMulNode
from moiety_server.compiler.embedding import EmbeddingNode
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.lowering import (
    comparisons,
    decisions,
    embedding,
    inputs,
    lookups,
    norms,
    products,
    smooth,
    softmax,
    sums,
)
from moiety_server.compiler.lowering.inputs import Declared
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_server.compiler.meaning import Meaning, Reveal
from moiety_server.compiler.norms import DeviationNode, NormNode, SquaresNode
from moiety_server.compiler.ranges import Range
from moiety_server.compiler.scales import Precision, Scales, counted
from moiety_server.compiler.softmax import CentredNode, SoftmaxNode
from moiety_shared.plan import local
from moiety_shared.plan.plan import AnyLayer, Input, Output, Plan


class Emitter(Writer):
    """Writes one model at one precision. Raises NotServable where the ring is too small."""

    def __init__(
        self,
        graph: ir.Graph,
        known: Mapping[str, Range],
        scales: Scales,
        precision: Precision,
        declared: Declared,
        meaning: Meaning,
    ) -> None:
        super().__init__(graph, known, scales, precision)
        self._graph, self._declared, self._meaning = graph, declared, meaning
        self.clamp: tuple[str, ...] = ()
        self._wires: dict[str, ScaledWire] = {}
        self._counted = counted(graph)
        for node in graph.nodes:
            self.node = node
            self._wires[node.name] = self._write(node, [self._wires[name] for name in node.inputs])

    def logits(self) -> Plan:
        """Return the plan that gives all outputs."""
        wire = self.in_ring(self._wires[self._graph.output])
        return self._plan(self.layers, self._meaning.output(self._graph, wire.name, wire.shape, wire.unit))

    def total(self) -> Plan:
        """Return the plan that gives the sum of all outputs over a request's rows, and none of the outputs
        themselves."""
        wire = self.in_ring(self._wires[self._graph.output])
        return self._plan(self.layers, Output(wire=wire.name, shape=wire.shape, kind="count", scale=wire.unit))

    def wire(self, node: str) -> ScaledWire:
        """Return the wire as which a node was written."""
        return self._wires[node]

    def revealing(self, reveal: Reveal, top: int) -> Plan:
        """Return the plan that gives the `top` labels, a decision between two classes, or only the count of right
        labels."""
        wire = self._wires[self._graph.output]
        self.node = self._graph.nodes[-1]
        start, classes = len(self.layers), None
        if self._meaning.task == "binary":
            if top != 1:
                raise NotServable(
                    f"{self.node.origin}: tells two classes apart, so there is one label. Instead: --top 1"
                )
            wire = decisions.above(self, "labels-threshold", wire, self._meaning.threshold or 0.0)
        if reveal == "count":
            wire = decisions.of_two(self, "labels-both", wire) if self._meaning.task == "binary" else wire
            kind = decisions.rank(self, "labels-top", wire, 1, "share")
            decisions.right_labels(self, kind, "labels-count")
            output, classes = Output(wire="labels-count", shape=(1,), kind="count"), kind.size
        elif self._meaning.task == "binary":
            decided = decisions.is_positive(self, "labels-decision", wire)
            output = Output(wire=decided.name, shape=(1,), kind="decision", task="binary")
        else:
            kind = decisions.rank(self, "labels-top", wire, top, "words")
            output = Output(wire=kind.name, shape=(kind.size,), kind="labels", top=top)
        added, self.layers = self.layers, self.layers[:start]
        return self._plan(added, output, classes)

    def _plan(self, layers: list[AnyLayer], output: Output, classes: int | None = None) -> Plan:
        given = Input(
            name=self._given.name,
            shape=self._given.shape,
            frac_bits=self._given.frac,
            low=self._declared.low,
            high=self._declared.high,
            classes=classes,
            parts=self._graph.inputs,
        )
        bits = self.precision.ring_bits
        return Plan(ring_bits=32 if bits == 32 else 64, input=given, layers=tuple(layers), output=output)

    # Nodes

    def _write(self, node: ir.Node, x: list[ScaledWire]) -> ScaledWire:
        low, high = self.bounds(node)
        if node.inputs and not self.known[node.name].proved:
            self.measured[node.name] = self.known[node.name].room
        match node:
            case ir.InputNode():
                self._given = inputs.given(self, node, self._declared)
                return self._clamped(self._given) if self._declared.clamped else self._given
            case ir.LinearNode() if node.name in self._counted:
                return lookups.counts(self, node, x[0])
            case ir.LookupNode():
                return lookups.look_up(self, node, x[0])
            case EmbeddingNode():
                return embedding.looked_up(self, node, x[0])
            case ir.LinearNode() | ir.ConvNode():
                return products.weighted(self, node, self.small(x[0], self.scales.wanted[node.inputs[0]]))
            case ir.ClampNode():
                return comparisons.clamp(self, node, x[0])
            case ir.MaxPoolNode():
                return comparisons.max_pool(self, node, x[0])
            case ir.DecideNode():
                return decisions.decide(self, node, x[0])
            case ir.ArgmaxNode():
                return decisions.argmax(self, node, x[0])
            case ir.SmoothNode():
                return smooth.smooth(self, node, x[0])
            case CentredNode():
                return softmax.centred(self, node, self.in_ring(x[0]))
            case SoftmaxNode():
                return softmax.softmax(self, node, x[0])
            case DeviationNode():
                return norms.deviation(self, node, x[0])
            case SquaresNode():
                return norms.squares(self, node, x[0])
            case NormNode():
                return norms.norm(self, node, x[1])
            case ir.MulNode():
                one, other = (self.small(sums.with_axes(self, node, wire, i)) for i, wire in enumerate(x))
                return products.product(self, node, one, other)
            case MatMulNode():
                return products.matmul(self, node, *map(self.small, x))
            case ir.AddNode():
                return sums.add(self, node, [sums.with_axes(self, node, wire, i) for i, wire in enumerate(x)])
            case ir.ConcatNode():
                return sums.concat(self, node, x)
            case ir.ScaleNode():
                return sums.scale(self, node, x[0])
            case ir.BiasNode():
                return products.bias(self, node.name, self.in_ring(x[0]), node.value, low, high)
            case ir.TakeNode() if node.factors:
                return sums.weighted(self, node, self.in_ring(x[0]))
            case ir.SumNode() | ir.SumPoolNode():
                return sums.reduce(self, node, self.in_ring(x[0]))
            case _:
                return self.after(x[0], self._moved(node, x[0]), low=low, high=high)

    def _clamped(self, given: ScaledWire) -> ScaledWire:
        wire = inputs.clamped(self, given, self._declared)
        self.clamp = tuple(layer.name for layer in self.layers)
        return wire

    def _moved(self, node: ir.Node, x: ScaledWire) -> AnyLayer:
        """Write the layers that only move values."""
        head = {"name": node.name, "input": x.name, "shape": x.shape}
        match node:
            case ir.ReshapeNode():
                return local.Reshape(**head, to=node.shape or (1,))
            case ir.PermuteNode():
                return local.Permute(**head, order=node.order)
            case ir.SliceNode():
                return local.Slice(**head, axis=node.axis, start=node.start, stop=node.stop, step=node.step)
            case ir.TakeNode():
                return local.Take(**head, axis=node.axis, places=node.places)
            case ir.PadNode():
                return local.Pad(**head, before=node.before, after=node.after)
            case ir.UpsampleNode():
                return local.Upsample(**head, factors=node.factors)
        raise NotServable(f"{node.origin}: {type(node).__name__.removesuffix('Node')} cannot be written into a plan")
