"""Makes a graph smaller without changing what it computes: it folds, swaps and removes nodes.

It folds a scale and shift into the layer that feeds only this node. It swaps a clamp and a max pool, which commute,
because pooling first leaves fewer comparisons. It merges a clamp on a clamp into one. It moves reshapes behind
elementwise nodes, out of the way of these rules.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import folding, ir, norms
from moiety_server.compiler.attention import MaskedNode
from moiety_server.compiler.builder import AffineNode
from moiety_shared.plan.plan import Final


def finish(made: Iterable[ir.Node], output: str, final: Final = "none", labels: bool = False) -> ir.Graph:
    """Make the graph to compile from the nodes that a front end made."""
    live = _alive(norms.find({node.name: node for node in made}), output)
    merging = _Merging(live, output)
    folded = folding.fold(merging.done, merging.output)
    nodes = tuple(_single(part) for n in folded.values() for part in _lowered(n))
    return ir.Graph(nodes, merging.output, final, labels=labels)


def _alive(nodes: dict[str, ir.Node], output: str) -> dict[str, ir.Node]:
    """Return the nodes on which the output depends, and the input."""
    needed = {output}
    for node in reversed(nodes.values()):
        if node.name in needed:
            needed.update(node.inputs)
    return {name: node for name, node in nodes.items() if name in needed or isinstance(node, ir.InputNode)}


class _Merging:
    """Appends node after node to `done`. Each is merged into the node that it reads, or moved before it, where that
    node has no other reader."""

    def __init__(self, nodes: dict[str, ir.Node], output: str) -> None:
        self.done: dict[str, ir.Node] = {}
        self._readers = Counter(name for node in nodes.values() for name in node.inputs)
        self._readers[output] += 1
        now: dict[str, str] = {}  # the wire that carries what the named node computed
        for name, node in nodes.items():
            now[name] = self._append(replace(node, inputs=tuple(now[i] for i in node.inputs)))
        self.output = now[output]

    def _append(self, node: ir.Node) -> str:
        before = self.done.get(node.inputs[0]) if len(node.inputs) == 1 else None
        if before is None or self._readers[before.name] != 1:
            self.done[node.name] = node
            return node.name
        source = self.done[before.inputs[0]] if before.inputs else before
        if isinstance(before, ir.ReshapeNode) and isinstance(node, ir.ReshapeNode) and source.shape == node.shape:
            del self.done[before.name]
            self._readers[source.name] += self._readers[node.name] - 1
            return source.name
        if joined := _joined(before, node):
            self.done[before.name] = joined
            self._readers[before.name] = self._readers[node.name]
            return before.name
        if first := _first(before, node, source):
            return self._swap(before, first, node.shape)
        self.done[node.name] = node
        return node.name

    def _swap(self, before: ir.Node, first: ir.Node, shape: ir.Shape) -> str:
        """Append `first` (the later node, made to read what `before` reads), then `before`, to this shape."""
        del self.done[before.name]
        readers, self._readers[first.name] = self._readers[first.name], 1
        name = self._append(first)
        self._readers[before.name] = readers
        return self._append(replace(before, inputs=(name,), shape=shape))


def _joined(before: ir.Node, node: ir.Node) -> ir.Node | None:
    """Return both nodes as one, under the name of the first."""
    match before, node:
        case AffineNode(), AffineNode():
            shift = _times(before.shift, node.scale) if before.shift is not None else None
            return replace(before, scale=_times(before.scale, node.scale), shift=_plus(shift, node.shift))
        case ir.ConvNode(), AffineNode() if _along(node, 0):
            return _into_conv(before, node)
        case ir.LinearNode(), AffineNode() if _along(node, len(node.shape) - 1):
            return _into_linear(before, node)
        case ir.ClampNode(offset=0), ir.ClampNode():
            high = node.high if before.high is None else _clip(before.high, node)
            return replace(before, low=_clip(before.low, node), high=high, offset=node.offset)
        case ir.ReshapeNode(), ir.ReshapeNode():
            return replace(before, shape=node.shape)
    return None


def _first(before: ir.Node, node: ir.Node, source: ir.Node) -> ir.Node | None:
    """Return `node` in the form in which it can run before `before`, where that gives the same result."""
    match before, node:
        case ir.ClampNode(), ir.MaxPoolNode():
            return replace(node, inputs=before.inputs)
        case ir.ReshapeNode(), ir.ClampNode() | ir.ScaleNode() | ir.SmoothNode():
            return replace(node, inputs=before.inputs, shape=source.shape)
        case ir.ReshapeNode(), AffineNode() if _along(node, 0) and source.shape[:1] == node.shape[:1]:
            ones = (1,) * (len(source.shape) - 1)
            scale, shift = (v if v is None else v.reshape(-1, *ones) for v in (node.scale, node.shift))
            return replace(node, inputs=before.inputs, shape=source.shape, scale=scale, shift=shift)
    return None


def _along(node: AffineNode, axis: int) -> bool:
    """Whether the node is constant along every axis but this one."""
    return all(v is None or v.numel() == (v.shape[axis] if v.dim() else 1) for v in (node.scale, node.shift))


def _clip(value: float, clamp: ir.ClampNode) -> float:
    return min(max(value, clamp.low), math.inf if clamp.high is None else clamp.high)


def _times(value: Tensor | None, scale: Tensor | None) -> Tensor | None:
    """Multiply in float64. A missing factor is one."""
    return value if scale is None else scale if value is None else value.double() * scale.double()


def _plus(value: Tensor | None, shift: Tensor | None) -> Tensor | None:
    return value if shift is None else shift if value is None else value.double() + shift.double()


def _vectors(node: AffineNode, channels: int) -> Iterator[Tensor | None]:
    """Yield the scale and the shift of each channel."""
    return (v if v is None else v.reshape(-1).expand(channels) for v in (node.scale, node.shift))


def _into_conv(conv: ir.ConvNode, node: AffineNode) -> ir.ConvNode:
    scale, shift = _vectors(node, conv.shape[0])
    weight, bias = conv.weight, conv.bias
    if scale is not None:
        kernel = (weight.shape[1], 1, 1)
        # Output channels are the first axis, but of a transposed convolution the second, within groups of the first.
        shaped = scale.reshape(-1, 1, 1, 1)
        if conv.transposed:
            shaped = scale.reshape(conv.groups, *kernel).repeat_interleave(len(weight) // conv.groups, dim=0)
        weight = weight.double() * shaped
        bias = None if bias is None else _times(bias, scale)
    return replace(conv, weight=weight, bias=_plus(bias, shift))


def _into_linear(linear: ir.LinearNode, node: AffineNode) -> ir.LinearNode:
    scale, shift = _vectors(node, linear.shape[-1])
    weight, bias = linear.weight, linear.bias
    if scale is not None:
        weight = weight.double() * scale[:, None]
        bias = None if bias is None else _times(bias, scale)
    return replace(linear, weight=weight, bias=_plus(bias, shift), bounds=_moved(linear, scale, shift))


def _moved(linear: ir.LinearNode, scale: Tensor | None, shift: Tensor | None) -> tuple[float, float] | None:
    """Return the bounds of the outputs after a scale and shift of each."""
    if linear.bounds is None:
        return None
    ends = torch.tensor(linear.bounds, dtype=torch.float64)[:, None]
    moved = ends * (1.0 if scale is None else scale.double()) + (0.0 if shift is None else shift.double())
    return float(moved.min()), float(moved.max())


def _lowered(node: ir.Node) -> Iterator[ir.Node]:
    """Write a scale and shift in nodes that the IR has: a depthwise 1 x 1 convolution, or a Bias if it only shifts."""
    if isinstance(node, MaskedNode):
        node = _filled(node)
    if not isinstance(node, AffineNode):
        yield node
        return
    shape, origin = node.shape, node.origin
    if node.scale is None:
        assert node.shift is not None  # noqa: S101  it does something
        yield ir.BiasNode(origin=origin, name=node.name, inputs=node.inputs, shape=shape, value=node.shift)
        return
    # All axes up to the last one along which the node differs become the channels.
    last = max(
        (i for v in (node.scale, node.shift) if v is not None for i, n in enumerate(v.shape) if n > 1), default=0
    )
    channels = math.prod(shape[: last + 1])

    def spread(value: Tensor) -> Tensor:
        return value.reshape(value.shape[: last + 1]).expand(shape[: last + 1]).reshape(channels)

    weight, shift = spread(node.scale).reshape(-1, 1, 1, 1), None if node.shift is None else spread(node.shift)
    planes = shape if last == 0 and len(shape) == 3 else (channels, math.prod(shape[last + 1 :]), 1)
    inputs, name, reshaped = node.inputs, node.name, planes != shape
    if reshaped:
        yield ir.ReshapeNode(origin=origin, name=f"{node.name}-in", inputs=inputs, shape=planes)
        inputs, name = (f"{node.name}-in",), f"{node.name}-conv"
    yield ir.ConvNode(origin=origin, name=name, inputs=inputs, shape=planes, weight=weight, bias=shift, groups=channels)
    if reshaped:
        yield ir.ReshapeNode(origin=origin, name=node.name, inputs=(name,), shape=shape)


def _filled(node: MaskedNode) -> AffineNode:
    """Write a mask that no softmax reads: x times the mask, and its fill elsewhere."""
    if not math.isfinite(node.fill):
        raise ir.NotServable(
            f"{node.origin}: puts an infinite constant in the place of values that something else than a softmax "
            "reads. Instead: use a finite one"
        )
    keys = node.keys.double().reshape((1,) * (len(node.shape) - node.keys.dim()) + tuple(node.keys.shape))
    return AffineNode(
        name=node.name,
        inputs=node.inputs,
        shape=node.shape,
        origin=node.origin,
        scale=keys,
        shift=(1 - keys) * node.fill,
    )


def _single(node: ir.Node) -> ir.Node:
    """Put the node's secrets in float32, detached from the model, whatever they were computed in."""
    secrets: dict[str, Any] = {
        k: v.detach().float().contiguous() for k, v in vars(node).items() if isinstance(v, Tensor)
    }
    return replace(node, **secrets) if secrets else node
