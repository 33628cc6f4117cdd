"""Models of several inputs and of several outputs: one flat wire each, as the plan has it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import floor, log2, prod
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable, Shape
from moiety_server.compiler.origin import shown
from moiety_server.compiler.simplification import finish
from moiety_shared.parts import spans
from moiety_shared.plan.plan import Final, InputPart, OutputPart

Limit = float | Mapping[str, float]
"""An end of the range of values: one for all, or of a model of several inputs one for each, by name."""
_MOST = 64  # a plan has no more
_GRACE = 2e-5  # tolerance, in units of half a range, for float32 values at the very ends


def add_inputs(b: Builder, shapes: Mapping[str, Shape]) -> tuple[dict[str, ir.Node], tuple[InputPart, ...]]:
    """Append one flat input, and what cuts several inputs of these shapes out of it. `shared` states their ranges."""
    b.require(len(shapes) <= _MOST, f"has {len(shapes)} inputs, more than {_MOST}")
    for shape in shapes.values():
        b.check_size(shape)
    flat = b.input((sum(map(prod, shapes.values())),))
    parts = tuple(InputPart(name=name, shape=shape, low=-1, high=1) for name, shape in shapes.items())
    nodes: dict[str, ir.Node] = {}
    for part, place in spans(parts):
        b.scope = f"input.{part.name}"
        nodes[part.name] = b.reshape(b.slice(flat, 0, place.start, place.stop), part.shape)
    return nodes, parts


def ended(
    b: Builder, outputs: Sequence[tuple[str, ir.Node, Final]], inputs: tuple[InputPart, ...], labels: bool
) -> ir.Graph:
    """Make the graph that gives these outputs, of these inputs. See `ir.Graph` for `labels`."""
    outputs = [(name, *_before_sigmoid(b, node, final)) for name, node, final in outputs]
    (_, output, final), *more = outputs
    parts: tuple[OutputPart, ...] = ()
    if more:
        output, parts = _joined(b, outputs)
        final = "none"
    return replace(finish(b.nodes.values(), output.name, final, labels), inputs=inputs, outputs=parts)


def _before_sigmoid(b: Builder, output: ir.Node, final: Final) -> tuple[ir.Node, Final]:
    """Leave a sigmoid at the end to the client, also where its values are moved behind it."""
    if final != "none":
        return output, final
    if isinstance(output, ir.SmoothNode) and output.function == "sigmoid":
        return b.nodes[output.inputs[0]], "sigmoid"
    if isinstance(output, ir.ReshapeNode | ir.PermuteNode):
        before, final = _before_sigmoid(b, b.nodes[output.inputs[0]], final)
        if final == "sigmoid":
            if isinstance(output, ir.ReshapeNode):
                return b.reshape(before, output.shape), final
            return b.permute(before, output.order), final
    return output, final


def _joined(b: Builder, outputs: Sequence[tuple[str, ir.Node, Final]]) -> tuple[ir.Node, tuple[OutputPart, ...]]:
    """Append what flattens several outputs and joins them. Each has a name, a wire, and the function that the client
    applies to it."""
    b.scope, b.origin = "outputs", "the model's outputs"
    b.require(len(outputs) <= _MOST, f"there are {len(outputs)}, more than {_MOST}", "choose one with --output")
    names = [name for name, _, _ in outputs]
    b.require(len(set(names)) == len(names), f"two have one name: {shown(', '.join(names))}", "name them differently")
    parts = tuple(OutputPart(name=name, shape=node.shape, final=final) for name, node, final in outputs)
    return b.concat([b.reshape(node, (prod(node.shape),)) for _, node, _ in outputs], 0), parts


def shared(
    graph: ir.Graph, calibration: Tensor | Mapping[str, Tensor], low: Limit, high: Limit
) -> tuple[ir.Graph, Tensor, tuple[float, float]]:
    """Return the graph and the calibration data as the client shares inputs, and the range of their values.

    Raises NotServable where the calibration data does not fit the graph's inputs.
    """
    if graph.inputs:
        names = ", ".join(part.name for part in graph.inputs)
        if isinstance(calibration, Tensor):
            raise NotServable(f"the model: takes several inputs, {shown(names)}. Instead: calibrate each, by its name")
        declared = _declared(graph, calibration, low, high)
        return _in_units(graph, declared), _flat(declared, calibration), (-1.0, 1.0)
    values = calibration if isinstance(calibration, Tensor) else next(iter(calibration.values()))
    low, high = (next(iter(end.values())) if isinstance(end, Mapping) else end for end in (low, high))
    return graph, values, (low, high)


def _declared(graph: ir.Graph, calibration: Mapping[str, Tensor], low: Limit, high: Limit) -> tuple[InputPart, ...]:
    """Return the model's inputs with their ranges. Raises NotServable where the calibration data does not fit them."""
    given, wanted = ", ".join(sorted(calibration)), ", ".join(part.name for part in graph.inputs)
    if set(calibration) != {part.name for part in graph.inputs}:
        raise NotServable(f"the calibration data has the inputs {shown(given)}, the model takes {shown(wanted)}")
    if len({len(values) for values in calibration.values()}) > 1:
        raise NotServable("the calibration data has more of one input than of another: give as many of each")
    parts = []
    for part in graph.inputs:
        values = calibration[part.name]
        ends = [end[part.name] if isinstance(end, Mapping) else end for end in (low, high)]
        label = f"the input {shown(part.name)}"
        if tuple(values.shape[1:]) != part.shape:
            sizes = [" x ".join(map(str, s)) or "one number" for s in (part.shape, values.shape[1:])]
            raise NotServable(f"{label}: the calibration data has {sizes[1]}, the model takes {sizes[0]}")
        if not ends[0] < ends[1]:
            raise NotServable(f"{label}: its range {ends[0]:g} to {ends[1]:g} is none: state one with --low and --high")
        room = _GRACE * (ends[1] - ends[0]) / 2
        if not ends[0] - room <= float(values.min()) <= float(values.max()) <= ends[1] + room:
            raise NotServable(f"{label}: the calibration data lies outside of its range {ends[0]:g} to {ends[1]:g}")
        parts.append(part.model_copy(update={"low": ends[0], "high": ends[1]}))
    return tuple(parts)


def _flat(parts: Sequence[InputPart], calibration: Mapping[str, Tensor]) -> Tensor:
    """Return calibration data as the client shares it: each input mapped from its range to -1..1, (n, all values)."""
    columns = []
    for part in parts:
        middle, half = (part.low + part.high) / 2, (part.high - part.low) / 2
        columns.append(((calibration[part.name].double() - middle) / half).reshape(len(calibration[part.name]), -1))
    return torch.cat(columns, dim=1).float()


def _in_units(graph: ir.Graph, parts: Sequence[InputPart]) -> ir.Graph:
    """Make the graph take its inputs as the client shares them, mapped to -1..1. It maps each back to its range.

    Numbers that map a range back are public: they follow from the range that the catalogue states.
    """
    places = {place.start: part for part, place in spans(parts)}
    nodes: list[ir.Node] = []
    for node in graph.nodes:
        if isinstance(node, ir.SliceNode) and node.inputs == (graph.nodes[0].name,):
            nodes += _ranged(node, places[node.start])
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), inputs=tuple(parts))


def _ranged(cut: ir.SliceNode, part: InputPart) -> list[ir.Node]:
    middle, half = (part.low + part.high) / 2, (part.high - part.low) / 2
    made: list[ir.Node] = [replace(cut, name=f"{cut.name}-unit")]
    if half != 1:
        made.append(_after(made[-1], ir.ScaleNode, f"{cut.name}-half", factor=half))
    if middle:
        value = torch.full((1,), middle)
        made.append(_after(made[-1], ir.BiasNode, f"{cut.name}-middle", value=value))
    made[-1] = replace(made[-1], name=cut.name)
    return made


def _after(node: ir.Node, kind: type[ir.Node], name: str, **of: Any) -> ir.Node:
    return kind(name=name, inputs=(node.name,), shape=node.shape, origin=node.origin, **of)


def levelled(graph: ir.Graph, measured: Mapping[str, tuple[float, float, float]]) -> ir.Graph:
    """Multiply each of several outputs by a power of two, so that all reach about as far, and note it for the client.

    They leave the plan at one scale, which would otherwise be that of the largest one.
    """
    joined = graph.nodes[-1]
    reach = [max(abs(measured[name][0]), abs(measured[name][1]), 1e-9) for name in joined.inputs]
    factors = [2.0 ** floor(log2(max(reach) / one)) for one in reach]
    nodes, inputs = list(graph.nodes[:-1]), []
    for at, (name, factor) in enumerate(zip(joined.inputs, factors, strict=True)):
        inputs.append(name)
        if factor != 1:
            inputs[-1] = f"{joined.name}-level{at}"
            shape = (prod(graph.outputs[at].shape),)
            nodes.append(
                ir.ScaleNode(name=inputs[-1], inputs=(name,), shape=shape, origin=joined.origin, factor=factor)
            )
    outputs = [part.model_copy(update={"scale": 1 / f}) for part, f in zip(graph.outputs, factors, strict=True)]
    return replace(graph, nodes=(*nodes, replace(joined, inputs=tuple(inputs))), outputs=tuple(outputs))
