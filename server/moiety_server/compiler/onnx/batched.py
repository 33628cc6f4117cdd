"""What ONNX's operators do to tensors whose batch is not their first axis alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler.batched import (
    HINT,
    Batched,
    Wire,
    aligned,
    expanded,
    is_wire,
    located,
    permuted,
    reshaped,
    unplaced,
)
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.onnx.operators import OnnxNode
from moiety_server.compiler.onnx.table import OPS

# These work along one axis, which is an attribute, or along axes that an input or an attribute lists: which input.
_AXIS = {"Gather": 0, "Split": 0, "Concat": 0, "Softmax": -1, "LogSoftmax": -1, "LayerNormalization": -1}
_AXES = {"Slice": 3, "ReduceMean": 1, "ReduceSum": 1, "ReduceMax": 1, "ReduceMin": 1, "ReduceL2": 1}
# These work on each number alone. Constants and other wires broadcast against the first.
_EACH = {
    *("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Softplus", "Neg", "Identity", "Cast", "Dropout", "Clip"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Erf", "Gelu", "Reciprocal", "Where", "HardSwish"),
}
MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def moved(b: Builder, kind: str, node: OnnxNode, expected: Sequence[int | None]) -> Wire | None:
    """Translate what may move the batch of a wire to or from another axis; or return None, where it stays first."""
    x = node.x
    if kind == "Transpose":
        return permuted(b, x, node.get("perm") or list(reversed(range(located(x).rank))))
    if kind == "Expand" and isinstance(x, Batched):
        return expanded(b, x, [int(n or -1) for n in expected])
    stays = kind == "Flatten" or not expected or expected[0] in (node.batch, None)
    if kind not in MOVES or (not isinstance(x, Batched) and stays):
        return None
    if any(n is None for n in expected) or not expected:
        b.refuse("reshapes to a shape that is not known", HINT)
    return reshaped(b, x, [int(n or 0) for n in expected], node.batch)


def beside(b: Builder, kind: str, node: OnnxNode, expected: Sequence[Sequence[int | None]]) -> Any:
    """Translate an operator on tensors whose batch is not first. `expected` are the full shapes of its results."""
    changed, place = _along(b, kind, node)
    result = OPS[kind](b, changed)
    if isinstance(result, list):
        return [place.holding(b, one, full) for one, full in zip(result, expected, strict=False)]
    return place.holding(b, result, expected[0])


def _along(b: Builder, kind: str, node: OnnxNode) -> tuple[OnnxNode, Batched]:
    """Return the node for wires that have the batch first, and where the batch of the result is."""
    if kind == "Concat" or kind in _EACH:
        inputs, place = aligned(b, node.inputs)
        if kind in _EACH:
            return replace(node, inputs=inputs), place
        return replace(
            node, inputs=inputs, attributes={**node.attributes, "axis": place.own(b, node.get("axis", 0))}
        ), place
    if kind in ("MatMul", "Gemm"):
        return _product(b, node)
    b.require(kind in _AXIS or kind in _AXES, "works on a wire whose batch is not first", HINT)
    place, attributes = located(node.x), dict(node.attributes)
    inputs = unplaced(node.inputs)
    if kind in _AXIS:
        axis = node.get("axis", _AXIS[kind])
        attributes["axis"] = place.own(b, axis)
        if kind == "LayerNormalization":
            b.require(place.axis < axis % place.rank, "computes across the batch", HINT)
        constant = inputs[1] if kind == "Gather" else None
        b.require(constant is None or constant.dim() < 2, "picks by a matrix of places", HINT)
        dropped = isinstance(constant, Tensor) and constant.dim() == 0
        return replace(node, inputs=inputs, attributes=attributes), place.without([axis % place.rank] * dropped)
    axes = node.constants(_AXES[kind], "axes")
    b.require(axes is not None, "computes across the batch", HINT)
    own = [place.own(b, int(dim)) for dim in axes or ()]
    if _AXES[kind] < len(inputs) and inputs[_AXES[kind]] is not None:
        inputs[_AXES[kind]] = torch.tensor(own)
    else:
        attributes["axes"] = own
    dropped = kind != "Slice" and not node.get("keepdims", 1)
    lost = [int(dim) % place.rank for dim in axes or ()] if dropped else []
    return replace(node, inputs=inputs, attributes=attributes), place.without(lost)


def _product(b: Builder, node: OnnxNode) -> tuple[OnnxNode, Batched]:
    """Leave a matrix that is constant as it is, and a bias. Other factors have as many axes as one another."""
    x, y = node.inputs[:2]
    b.require(
        is_wire(x) and not node.get("transA", 0), "multiplies from the left, across the batch", "turn the product"
    )
    inputs, place = unplaced(node.inputs), located(node.x)
    constant = isinstance(y, Tensor) and y.dim() <= 2
    if not constant:
        inputs, place = aligned(b, node.inputs)
    b.require(place.axis < place.rank - (1 if constant else 2), "computes across the batch", HINT)
    return replace(node, inputs=inputs), place
