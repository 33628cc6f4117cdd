"""How large every wire can get: proved from the declared input range, measured on calibration data, or both.

Interval arithmetic over the graph is sound, but its bounds widen with depth. A few layers in, they exceed the values
that occur by more bits than can be spared. So a wire's range is the proved one where that costs little precision, and
otherwise the measured one with head-room; `compilation` reports which. An output can be wrong in one case only: an
input of the declared range exceeds a measured range by more than the head-room.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import ir

Box = tuple[Tensor, Tensor]
"""The lower and the upper bound of every element, float64 (1, *shape)."""

_VALUES_AT_ONCE = 30_000_000
_MOST_VALUES = 1 << 27  # 2 GiB while ranges are proved, which takes 16 bytes for each


@dataclass(frozen=True)
class Range:
    """Bounds of one wire's values in real units, and the root of their measured mean square."""

    low: float
    high: float
    rms: float
    proved: bool

    @property
    def reach(self) -> float:
        """The largest magnitude. It is never zero."""
        return max(abs(self.low), abs(self.high), 1e-9)


@dataclass(frozen=True)
class Analysis:
    """What is known about every wire: measured (least, most, root mean square) and proved (least, most)."""

    measured: Mapping[str, tuple[float, float, float]]
    proved: Mapping[str, tuple[float, float]]

    def sure(self) -> dict[str, Range]:
        """The proved range of every wire, whatever the calibration data shows."""
        return {name: Range(*self.proved[name], rms, True) for name, (_, _, rms) in self.measured.items()}

    def ranges(self, graph: ir.Graph, *, affordable: float, headroom: float) -> dict[str, Range]:
        """Return each wire's range: the proved one where it is at most `affordable` times as wide as the measured one,
        else the measured one times `headroom`."""
        ranges: dict[str, Range] = {}
        for node in graph.nodes:
            (least, most, rms), (lower, upper) = self.measured[node.name], self.proved[node.name]
            sure = max(abs(lower), abs(upper)) <= affordable * max(abs(least), abs(most)) or not node.inputs
            if not sure:
                room = headroom * max(abs(least), abs(most))
                lower, upper = max(lower, -room if least < 0 else 0.0), min(upper, room if most > 0 else 0.0)
            ranges[node.name] = Range(lower, upper, rms, sure and all(ranges[name].proved for name in node.inputs))
        return ranges


def analyse(graph: ir.Graph, calibration: Tensor, *, low: float, high: float) -> Analysis:
    """Measure and prove the ranges. `calibration` is real input (n, ...). `low` and `high` bound each of its values.

    Raises NotServable when the model is too large to be run here. Raises it also when the calibration data does not
    have the input's shape, lies outside of the declared range, or yields outputs that are not finite.
    """
    if graph.peak > _MOST_VALUES:
        raise ir.NotServable(f"the model: holds {graph.peak:,} values at once, more than the {_MOST_VALUES:,} served")
    if tuple(calibration.shape[1:]) != graph.nodes[0].shape:
        wanted, given = (" x ".join(map(str, s)) for s in (graph.nodes[0].shape, calibration.shape[1:]))
        raise ir.NotServable(f"the calibration data has inputs of {given}, the model takes {wanted}")
    grace = 1e-5 * (high - low)  # tolerance for float32 pixels at the very ends
    if not low - grace <= float(calibration.min()) <= float(calibration.max()) <= high + grace:
        raise ir.NotServable(f"the calibration data lies outside of the declared input range {low:g} to {high:g}")
    measured = _measure(graph, calibration)
    for node in graph.nodes:
        if not math.isfinite(sum(measured[node.name])):
            raise ir.NotServable(f"{node.origin}: yields NaN or infinity on the calibration data")
    return Analysis(measured, _prove(graph, low, high))


@torch.inference_mode()
def _measure(graph: ir.Graph, calibration: Tensor) -> dict[str, tuple[float, float, float]]:
    """Measure the least, the most and the root mean square of every wire on the calibration data."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for part in torch.split(calibration, rows_at_once(graph)):
        for name, wire in graph.wires(part):
            square = float(wire.square().mean()) * len(wire) / len(calibration)
            found.setdefault(name, []).append((float(wire.min()), float(wire.max()), square))
    return {
        name: (min(p[0] for p in parts), max(p[1] for p in parts), math.sqrt(sum(p[2] for p in parts)))
        for name, parts in found.items()
    }


def rows_at_once(graph: ir.Graph) -> int:
    """Return how many inputs fit into memory together, with all their wires."""
    return max(1, _VALUES_AT_ONCE // graph.peak)


@torch.inference_mode()
def _prove(graph: ir.Graph, low: float, high: float) -> dict[str, tuple[float, float]]:
    last = {name: node.name for node in graph.nodes for name in node.inputs}
    boxes: dict[str, Box] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for node in graph.nodes:
        if not node.inputs:
            box = (torch.full((1, *node.shape), low).double(), torch.full((1, *node.shape), high).double())
        else:
            box = _interval(_double(node), [boxes[name] for name in node.inputs])
        boxes[node.name] = box
        bounds[node.name] = float(box[0].min()), float(box[1].max())
        for name in node.inputs:
            if last[name] == node.name:
                boxes.pop(name, None)
    return bounds


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
            return centre - spread, centre + spread
        case ir.AddNode():
            signed = [box if f >= 0 else box[::-1] for box, f in zip(x, node.factors, strict=True)]
            return node.forward(*(box[0] for box in signed)), node.forward(*(box[1] for box in signed))
        case ir.ScaleNode() if node.factor < 0:
            return node.forward(x[0][1]), node.forward(x[0][0])
        case ir.MulNode():
            ends = torch.stack([a * b for a in x[0] for b in x[1]])
            return ends.amin(dim=0), ends.amax(dim=0)
        case ir.SmoothNode():
            # All of them fall, if anywhere, only before they rise: the least value is at an end or the lowest point.
            first, second = (node.forward(side) for side in x[0])
            grid = torch.linspace(-8, 8, 4097, dtype=torch.float64)
            inside = (x[0][0] < 0) & torch.tensor(node.function in ("silu", "gelu", "gelu_tanh"))
            lowest = torch.where(inside, node.forward(grid).min(), math.inf)
            return torch.minimum(torch.minimum(first, second), lowest), torch.maximum(first, second)
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
