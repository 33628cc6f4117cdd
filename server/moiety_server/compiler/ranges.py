"""How large every wire can get: proved from the declared input range, measured on calibration data, or both.

Interval arithmetic over the graph is sound, but its bounds widen with depth. A few layers in, they exceed the values
that occur by more bits than can be spared. So a wire's range is the proved one where that costs little precision, and
otherwise the measured one with head-room; `compilation` reports which. An output can be wrong in one case only: an
input of the declared range exceeds a measured range by more than the head-room.

Functions such as 1/sqrt(x) have no such range, because a table cannot meet them near 0. A proof has to keep their
input away from there. For norms alone, whose input is a sum of squares, a clamp to the measured range with head-room
does: an input that is unlike the calibration data is then normalised by the nearest norm that is like it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import ir, relations
from moiety_server.compiler.attention import MatMulNode
from moiety_server.compiler.embedding import EmbeddingNode
from moiety_server.compiler.functions import FUNCTIONS
from moiety_server.compiler.hints import hint_for
from moiety_server.compiler.norms import WIDEST, DeviationNode, NormNode, SquaresNode
from moiety_server.compiler.relations import Box
from moiety_server.compiler.softmax import CentredNode, SoftmaxNode, centred_box
from moiety_shared.ring import Array

_GUARDED = 4  # times as much head-room in front of such a clamp, so that it is met before the ring's end
_SUMMING = (ir.SumNode, ir.ScaleNode, ir.BiasNode, ir.AddNode, ir.ReshapeNode)  # what makes a variance of squares
_OCTAVES = 2  # the most head-room of a clamp in front of a steep function, on either side
_VALUES_AT_ONCE = 30_000_000
_HOPELESS = 2.0**40
"""A bound so many times the largest value that was measured anywhere is none: no plan has the bits for it. The products
of such bounds are half of the work of proving a deep network."""
_MOST_VALUES = 1 << 27  # 2 GiB while ranges are proved, which takes 16 bytes for each


@dataclass(frozen=True)
class Range:
    """Bounds of one wire's values in real units, and the root of their measured mean square.

    Where the bounds were measured, `room` says how many times as far from 0 as on the calibration data values may go.
    What is proved, but of such wires, has the least room of these. It is infinite if nothing of it was measured.
    """

    low: float
    high: float
    rms: float
    room: float

    @property
    def proved(self) -> bool:
        """Whether no input of the declared range leaves the bounds."""
        return self.room == math.inf

    @property
    def reach(self) -> float:
        """The largest magnitude. It is never zero."""
        return max(abs(self.low), abs(self.high), 1e-9)


@dataclass(frozen=True)
class Analysis:
    """What is known about every wire of a graph: measured (least, most, root mean square) and proved (least, most).
    `exact` is what the model answers to the calibration data, (n, *output's shape)."""

    graph: ir.Graph
    measured: Mapping[str, tuple[float, float, float]]
    proved: Mapping[str, tuple[float, float]]
    exact: Array = field(repr=False)
    clamps: frozenset[str] = frozenset()
    """The clamps in front of steep functions."""

    def sure(self) -> dict[str, Range]:
        """The proved range of every wire, whatever the calibration data shows."""
        return {name: Range(*self.proved[name], rms, math.inf) for name, (_, _, rms) in self.measured.items()}

    def ranges(self, *, affordable: float, headroom: float) -> dict[str, Range]:
        """Return each wire's range: the proved one where it is at most `affordable` times as wide as the measured one,
        else the measured one times `headroom`.

        A wire that is 0 on all calibration data, such as a decision that is never taken there, says nothing of how far
        it may go. What it is computed from stands in for it.
        """
        ranges: dict[str, Range] = {}
        seen: dict[str, float] = {}  # how far each wire went
        guarded: set[str] = set()
        normed: set[str] = set()  # what rests on a norm's range, so that a wide proof would make nothing sure
        for node in reversed(self.graph.nodes):
            if node.name in self.clamps or (node.name in guarded and isinstance(node, _SUMMING)):
                guarded.update(node.inputs)
        for node in self.graph.nodes:
            (least, most, rms), (lower, upper) = self.measured[node.name], self.proved[node.name]
            seen[node.name] = max(abs(least), abs(most)) or max((seen[name] for name in node.inputs), default=0.0)
            before = min((ranges[name].room for name in node.inputs), default=math.inf)
            if isinstance(node, CentredNode):
                # A power of two grows with its exponent, so the head-room is added there. What is far below the mean
                # hardly counts, but must not wrap.
                room = 2 * math.log(headroom)
                least, highest = 1.25 * least - room, most + room
                sure = least <= lower and upper <= highest
                lower, upper = max(lower, least), min(upper, highest)
                ranges[node.name] = Range(lower, upper, rms, before if sure else highest / max(most, 1e-9))
                continue
            if isinstance(node, NormNode) or normed.intersection(node.inputs):
                normed.add(node.name)
            sure = max(abs(lower), abs(upper)) <= affordable * seen[node.name] and node.name not in normed
            sure = sure or not node.inputs
            if not sure:
                # On both sides: only a proof says that no value has the other sign.
                room = headroom * seen[node.name] * (_GUARDED if node.name in guarded else 1)
                lower, upper = max(lower, -room), min(upper, room)
            if isinstance(node, SquaresNode):  # of a norm, which divides by it: it has room on both sides
                sure, (lower, upper) = False, self.proved[node.name]
                room = min(headroom**2, max(math.sqrt(WIDEST * least / most) if most else 1.0, 2.0))
                lower, upper = max(lower, least / room), min(upper, most * room)
            found = Range(lower, upper, rms, before)
            if node.name in self.clamps or not (sure or (lower, upper) == self.proved[node.name]):
                found = replace(found, room=found.reach / max(seen[node.name], 1e-9))
            ranges[node.name] = found
        return ranges


def analyse(graph: ir.Graph, calibration: Tensor, *, low: float, high: float) -> Analysis:
    """Measure and prove the ranges. `calibration` is real input (n, ...). `low` and `high` bound each of its values.
    The graph that is returned has a clamp in front of each steep function that needs one.

    Raises NotServable when the model is too large to be run here. Raises it also when the calibration data does not
    have the input's shape, lies outside of the declared range, or yields outputs that are not finite.
    """
    if graph.peak > _MOST_VALUES:
        raise ir.NotServable(
            f"the model: holds {graph.peak:,} values at once, more than the {_MOST_VALUES:,} supported"
        )
    if tuple(calibration.shape[1:]) != graph.nodes[0].shape:
        wanted, given = (" x ".join(map(str, s)) for s in (graph.nodes[0].shape, calibration.shape[1:]))
        raise ir.NotServable(f"the calibration data has inputs of {given}, but the model takes {wanted}")
    grace = 1e-5 * (high - low)  # tolerance for float32 pixels at the very ends
    if not low - grace <= float(calibration.min()) <= float(calibration.max()) <= high + grace:
        raise ir.NotServable(
            f"the calibration data lies outside of the input range {low:g} to {high:g}: widen it with --low and --high"
        )
    measured, exact = _measure(graph, calibration)
    for node in graph.nodes:
        if not math.isfinite(sum(measured[node.name])):
            raise ir.NotServable(f"{node.origin}: yields NaN or infinity on the calibration data")
    return _proved(graph, measured, exact, low, high)


@torch.inference_mode()
def _measure(graph: ir.Graph, calibration: Tensor) -> tuple[dict[str, tuple[float, float, float]], Array]:
    """Measure the least, the most and the root mean square of every wire on the calibration data. Return them with the
    output."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    outputs: list[Tensor] = []
    for part in torch.split(calibration, rows_at_once(graph)):
        for name, wire in graph.wires(part):
            square = float(wire.square().mean()) * len(wire) / len(calibration)
            least, most = wire.aminmax()
            found.setdefault(name, []).append((float(least), float(most), square))
            if name == graph.output:
                outputs.append(wire)
    measured = {
        name: (min(p[0] for p in parts), max(p[1] for p in parts), math.sqrt(sum(p[2] for p in parts)))
        for name, parts in found.items()
    }
    return measured, torch.cat(outputs).double().numpy()


def rows_at_once(graph: ir.Graph) -> int:
    """Return how many inputs fit into memory together, with all their wires."""
    return max(1, _VALUES_AT_ONCE // graph.peak)


@torch.inference_mode()
def _proved(
    graph: ir.Graph, measured: dict[str, tuple[float, float, float]], answers: Array, low: float, high: float
) -> Analysis:
    far = _HOPELESS * max(max(abs(least), abs(most)) for least, most, _ in measured.values())
    related = relations.find(graph)
    reads = {
        node.name: (*node.inputs, *(related[node.name].reads if node.name in related else ())) for node in graph.nodes
    }
    last = {name: node.name for node in graph.nodes for name in reads[node.name]}
    boxes: dict[str, Box] = {}
    bounds: dict[str, tuple[float, float]] = {}
    nodes: list[ir.Node] = []
    for read in graph.nodes:
        node = read
        if isinstance(node, ir.SmoothNode) and not FUNCTIONS[node.function].allows(*bounds[node.inputs[0]]):
            clamp = _clamp(node, graph, bounds[node.inputs[0]], measured[node.inputs[0]])
            box = _interval(clamp, [boxes[node.inputs[0]]])
            boxes[clamp.name], measured[clamp.name] = box, measured[node.inputs[0]]
            bounds[clamp.name] = float(box[0].min()), float(box[1].max())
            nodes.append(clamp)
            node = replace(node, inputs=(clamp.name,))
        nodes.append(node)
        if not node.inputs:
            box = (torch.full((1, *node.shape), low).double(), torch.full((1, *node.shape), high).double())
        elif _is_boundless(node, boxes[node.inputs[0]]):
            box = _everything(node)
        else:
            box = _interval(_double(node), [boxes[name] for name in node.inputs])
        if node.name in related:
            exact = related[node.name].bound(*(boxes[name] for name in related[node.name].reads))
            box = torch.maximum(box[0], exact[0]), torch.minimum(box[1], exact[1])
        if node.limits:
            box = box[0].clamp(*node.limits), box[1].clamp(*node.limits)
        # Where a bound is beyond all floats, and then part of a product or a difference, nothing is proved.
        box = box[0].nan_to_num(-math.inf, math.inf, -math.inf), box[1].nan_to_num(math.inf, math.inf, -math.inf)
        box = box[0].masked_fill(box[0] < -far, -math.inf), box[1].masked_fill(box[1] > far, math.inf)
        boxes[node.name] = box
        bounds[node.name] = float(box[0].min()), float(box[1].max())
        for name in reads[node.name]:
            if last[name] == node.name:
                boxes.pop(name, None)
        if node is not read:
            boxes.pop(node.inputs[0])
    clamps = frozenset(node.name for node in nodes) - {node.name for node in graph.nodes}
    return Analysis(replace(graph, nodes=nodes), measured, bounds, answers, clamps)


def _clamp(
    node: ir.SmoothNode, graph: ir.Graph, proved: tuple[float, float], measured: tuple[float, float, float]
) -> ir.ClampNode:
    """Return what keeps a steep function's input where a table meets it: a clamp to the measured range with head-room.

    Its limits are powers of two, since they are public and say no more of the calibration data than scales do. Raises
    NotServable where the function is not part of a norm, or so wide a range has no room.
    """
    known, (least, most, _) = FUNCTIONS[node.function], measured
    if least > 0 and _is_norm(graph, node):
        lowest, highest = math.floor(math.log2(least)), math.ceil(math.log2(most))
        for octaves in range(_OCTAVES, 0, -1):
            low, high = 2.0 ** (lowest - octaves), 2.0 ** (highest + octaves)
            if known.allows(low, high):
                name = f"{node.name[:60]}-domain"
                shape = node.shape
                return ir.ClampNode(name=name, inputs=node.inputs, shape=shape, origin=node.origin, low=low, high=high)
    low, high = proved
    raise ir.NotServable(
        f"{node.origin}: {node.function} of values that lie between {low:.3g} and {high:.3g}, as far as it is proved, "
        f"and between {least:.3g} and {most:.3g} on the calibration data: too near to where it is steep or undefined. "
        f"Instead: {hint_for('', node.function)}"
    )


def _is_norm(graph: ir.Graph, node: ir.Node) -> bool:
    """Whether the node reads a sum of squares, or a multiple of one, or one with a constant added."""
    nodes, sums = {one.name: one for one in graph.nodes}, 0
    at = nodes[node.inputs[0]]
    while isinstance(at, (ir.SumNode, ir.ScaleNode, ir.BiasNode, ir.ReshapeNode)):
        sums += isinstance(at, ir.SumNode)
        at = nodes[at.inputs[0]]
    return sums > 0 and isinstance(at, ir.MulNode) and at.inputs[0] == at.inputs[1]


def _is_boundless(node: ir.Node, box: Box) -> bool:
    """Whether nothing can be proved of a product, because each of its outputs reads a value without bounds."""
    boundless = (box[1] - box[0]).isinf()
    match node:
        case ir.ConvNode(groups=1, transposed=False):
            return bool(boundless.any(dim=1).all())
        case ir.LinearNode():
            return bool(boundless.any(dim=-1).all())
    return False


def _everything(node: ir.Node) -> Box:
    low, high = (node.bounds if isinstance(node, ir.LinearNode) else None) or (-math.inf, math.inf)
    return tuple(torch.full((1, *node.shape), end).double() for end in (low, high))  # type: ignore[return-value]


def _double(node: ir.Node) -> ir.Node:
    tensors: dict[str, Any] = {key: value.double() for key, value in vars(node).items() if isinstance(value, Tensor)}
    return replace(node, **tensors) if tensors else node


def _interval(node: ir.Node, x: list[Box]) -> Box:
    """Bound a node's output from the bounds of its inputs."""
    match node:
        case ir.LinearNode() | ir.ConvNode():
            middle, radius = (x[0][1] + x[0][0]) / 2, (x[0][1] - x[0][0]) / 2
            centre = node.forward(middle)
            spread = replace(node, weight=node.weight.abs(), bias=None).forward(radius)
            if isinstance(node, ir.LinearNode) and node.bounds is not None:
                return (centre - spread).clamp(*node.bounds), (centre + spread).clamp(*node.bounds)
            return centre - spread, centre + spread
        case ir.AddNode():
            signed = [box if f >= 0 else box[::-1] for box, f in zip(x, node.factors, strict=True)]
            return node.forward(*(box[0] for box in signed)), node.forward(*(box[1] for box in signed))
        case ir.TakeNode() if node.factors:
            up, down = (
                replace(node, factors=tuple(tuple(max(sign * f, 0.0) for f in one) for one in node.factors))
                for sign in (1, -1)
            )
            return up.forward(x[0][0]) - down.forward(x[0][1]), up.forward(x[0][1]) - down.forward(x[0][0])
        case ir.ScaleNode() if node.factor < 0:
            return node.forward(x[0][1]), node.forward(x[0][0])
        case ir.MulNode() if node.inputs[0] == node.inputs[1]:  # a square: its factors have one sign
            low, high = x[0]
            nearest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low * low, high * high))
            return nearest, torch.maximum(low * low, high * high)
        case DeviationNode():
            low, high = (node.forward(side) - side for side in x[0])
            return x[0][0] + high, x[0][1] + low
        case SquaresNode():
            low, high = x[0]
            nearest = torch.where((low <= 0) & (high >= 0), 0.0, torch.minimum(low.abs(), high.abs()))
            return node.forward(nearest), node.forward(torch.maximum(low.abs(), high.abs()))
        case NormNode():
            low, high = x[0]
            return torch.where(low < 0, -node.most, 0.0).double(), torch.where(high > 0, node.most, 0.0).double()
        case ir.MulNode():
            ends = torch.stack([a * b for a in x[0] for b in x[1]])
            return ends.amin(dim=0), ends.amax(dim=0)
        case MatMulNode():
            (one, far), (other, wide) = (((high + low) / 2, (high - low) / 2) for low, high in x)
            centre = node.forward(one, other)
            spread = node.forward(one.abs() + far, wide) + node.forward(far, other.abs())
            return centre - spread, centre + spread
        case ir.SmoothNode():
            known = FUNCTIONS[node.function]
            if known.limits:
                return tuple(torch.full_like(x[0][0], limit) for limit in known.limits)  # type: ignore[return-value]
            tried = [*x[0], *(torch.full_like(x[0][0], turn).clamp(*x[0]) for turn in known.turns)]
            values = torch.stack([node.forward(place) for place in tried])
            return values.amin(dim=0), values.amax(dim=0)
        case CentredNode():
            return centred_box(node, *x[0])
        case SoftmaxNode():
            least = float(x[0][0].min() - x[0][1].max()) - math.log(node.shape[-1]) if node.logarithm else 0.0
            return torch.full_like(x[0][0], least), torch.full_like(x[0][0], 0.0 if node.logarithm else 1.0)
        case EmbeddingNode():
            low, high = node.table.aminmax(dim=0)
            return low.expand(1, *node.shape), high.expand(1, *node.shape)
        case ir.LookupNode():
            least, most = min(node.values), max(node.values)
            return torch.full_like(x[0][0], least), torch.full_like(x[0][0], most)
        case ir.DecideNode(kind="equal"):
            return torch.zeros_like(x[0][0]), torch.ones_like(x[0][0])
        case ir.ArgmaxNode():
            places = x[0][0].new_full((1, 1), x[0][0].shape[1] - 1)
            return torch.zeros_like(places), places
        case _:  # the others are monotone in each input
            return node.forward(*(box[0] for box in x)), node.forward(*(box[1] for box in x))


def of_products(ranges: Mapping[str, Range], node: ir.LinearNode | ir.ConvNode) -> tuple[float, float]:
    """Return (typical norm of what one output reads, largest norm of a row of weights)."""
    transposed = isinstance(node, ir.ConvNode) and node.transposed
    rows = (node.weight.transpose(0, 1) if transposed else node.weight).flatten(1)
    return ranges[node.inputs[0]].rms * math.sqrt(rows.shape[1]), float(rows.norm(dim=1).max())
