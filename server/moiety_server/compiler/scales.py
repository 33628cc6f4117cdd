"""Chooses the fractional bits of each wire. A real value x becomes the ring element x / factor * 2^frac.

Products add up at full width. Their scale is the largest at which neither they nor any sum they go into can overflow
(`room`). Their inputs are first cut to a few bits, whose number balances two errors (`wanted`):

    input error  ~ 2^-f_in * largest row norm of the weights       weight error ~ 2^-f_w * typical norm of the input
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from moiety_server.compiler import ir, ranges
from moiety_server.compiler.attention import MatMulNode
from moiety_server.compiler.embedding import EmbeddingNode
from moiety_server.compiler.norms import DeviationNode, NormNode, SquaresNode
from moiety_server.compiler.ranges import Range
from moiety_server.compiler.softmax import CentredNode, SoftmaxNode

_SCORE_BITS = 14.0  # of a softmax's scores: a step of 2^-14 changes its values by as small a part
NORM_BITS = 25  # of what a norm reads in a 64-bit ring: it may make the smallest row as large as the largest
_SHORTER = 3  # bits that a product gives up so that its upper ones fill the words of waves, which it is added to
_HEADROOM = 1.01  # for what rounding adds
_SUMS = (
    ir.AddNode, ir.ConcatNode, ir.ReshapeNode, ir.PermuteNode, ir.SliceNode, ir.PadNode, ir.UpsampleNode, ir.BiasNode,
    ir.SumPoolNode, ir.SumNode, ir.ScaleNode, ir.TakeNode,
)  # fmt: skip


@dataclass(frozen=True)
class Precision:
    """What the ring allows. `compared` is the most bits that a compared magnitude may have. `opened` is the number of
    bits that the parties open, under a mask. `waves` is the bits of the words that sums of waves are made of, or 0
    where smooth functions are parabolas."""

    ring_bits: int
    opened: int
    compared: int
    waves: int

    @classmethod
    def of(cls, ring_bits: int, *, waves: int = 32) -> "Precision":
        return cls(32, 16, 15, waves) if ring_bits == 32 else cls(64, 32, 20, waves)

    @property
    def short(self) -> int:
        """The bits of a magnitude that is truncated, pooled or multiplied. One bit is left, because differences of two
        are compared."""
        return self.compared - 1


@dataclass(frozen=True)
class Scales:
    """`total` has the fractional bits of each product's result. `wanted` has those that a wire's readers can use."""

    total: Mapping[str, int]
    wanted: Mapping[str, float]


def fitting(reach: float, bits: float) -> int:
    """Return the most fractional bits at which `reach` stays below 2^bits."""
    return math.floor(bits - math.log2(reach * _HEADROOM))


def choose(graph: ir.Graph, known: Mapping[str, Range], precision: Precision, *, spare: int = 1) -> Scales:
    """Choose the scales of a graph whose outputs leave `spare` bits of the ring free. What is given out needs one."""
    room: dict[str, float] = {}
    wanted: dict[str, float] = {graph.output: math.inf}
    total: dict[str, int] = {}
    readers: dict[str, list[ir.Node]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    counts = counted(graph)
    for node in reversed(graph.nodes):
        after = readers.get(node.name, [])
        sums = [
            room[r.name] / abs(r.factor) if isinstance(r, ir.ScaleNode) else room[r.name] for r in after if _sums(r)
        ]
        if precision.ring_bits == 64:  # n x less a sum of x, without a cut: a 32-bit ring has no bits for that
            deviations = [r for r in after if isinstance(r, DeviationNode)]
            sums += [r.count * max(known[r.name].reach, known[node.name].reach) for r in deviations]
        room[node.name] = max([known[node.name].reach, *sums])
        if isinstance(node, ir.LinearNode | ir.ConvNode):
            # One bit stays free for differences, and one for what truncation adds. Outputs that go out need neither.
            free = 2 if after else spare
            if precision.ring_bits == 64 and any(isinstance(r, ir.SmoothNode) for r in after):
                free += _SHORTER
            total[node.name] = fitting(room[node.name], precision.ring_bits - free)
        wishes = [-math.inf if r.name in counts else _wish(r, known, total, wanted) for r in after]
        wanted[node.name] = max([wanted.get(node.name, -math.inf), *wishes])
    return Scales(total, wanted)


def counted(graph: ir.Graph) -> frozenset[str]:
    """Return the nodes that give whole numbers to be looked up. They take what they read as it stands."""
    return frozenset(name for node in graph.nodes if isinstance(node, ir.LookupNode) for name in node.inputs)


def _sums(node: ir.Node) -> bool:
    return isinstance(node, _SUMS)


def _wish(reader: ir.Node, known: Mapping[str, Range], total: Mapping[str, int], wanted: Mapping[str, float]) -> float:
    match reader:
        case ir.LinearNode() | ir.ConvNode():
            typical, row = ranges.of_products(known, reader)
            return (total[reader.name] - math.log2(max(typical, 1e-9) / max(row, 1e-9))) / 2
        case ir.ScaleNode():
            return wanted[reader.name] + math.log2(abs(reader.factor))
        case EmbeddingNode():  # reads whole numbers
            return -math.inf
        case CentredNode():
            return _SCORE_BITS
        case ir.MulNode() | MatMulNode() | ir.SmoothNode() | SoftmaxNode() | ir.DecideNode() | ir.ArgmaxNode():
            return math.inf
        case DeviationNode():
            return fitting(known[reader.name].reach * reader.count, NORM_BITS)
        case SquaresNode() | NormNode():
            return math.inf
        case _:
            return wanted[reader.name]
