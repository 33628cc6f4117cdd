"""LSTM, GRU and RNN of ONNX, and what its operators do to wires whose batch is not the first axis: ONNX has the time
first unless told otherwise."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from moiety_server.compiler import ir, recurrent
from moiety_server.compiler import operations as ops
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.onnx.operators import OnnxNode
from moiety_server.compiler.onnx.table import OPS
from moiety_server.compiler.recurrent import CellWeights, Step
from moiety_server.compiler.turned import HINT, Turned, Wire, checked, common, permuted, placed, reshaped, unturned

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# ONNX has an LSTM's gates in the order input, output, forget, cell; and a GRU's in the order update, reset, new.
_ORDER = {"LSTM": (0, 2, 1, 3), "GRU": (1, 0, 2), "RNN": (0,)}


def layer(kind: str) -> Callable[[Builder, OnnxNode], list[Wire]]:
    return lambda b, node: _layer(b, node, kind)


def _layer(b: Builder, node: OnnxNode, kind: str) -> list[Wire]:
    """Returns the outputs of all steps, and each part of the last state."""
    axis = 0 if node.get("layout", 0) else 1
    x, at = (node.x.node, node.x.axis) if isinstance(node.x, Turned) else (node.x, 0)
    b.require(isinstance(x, ir.Node) and at == axis and len(x.shape) == 2, "has its batch elsewhere", HINT)
    given, own = (ops.secret(b, node[i], "a weight") for i in (1, 2))
    bias, n, count = ops.optional(b, node[3], "a bias"), own.shape[2], len(own)
    _check_plain(b, node, kind, count, x.shape[0])
    step = _step(b, node, kind, count)
    held = [_weights(given[i], own[i], None if bias is None else bias[i], kind, step) for i in range(count)]
    starts = [tuple(_start(b, node, i, at, axis) for i in ((5, 6) if kind == "LSTM" else (5,))) for at in range(count)]
    backwards = [node.get("direction", "forward") == "reverse", True]
    sides = [
        recurrent.unrolled(b, x, w, step, start, backwards=back)
        for w, start, back in zip(held, starts, backwards, strict=False)
    ]
    ends = [b.concat([b.reshape(one, (1, n)) for one in part], 0) for part in zip(*(e for _, e in sides), strict=True)]
    each = b.concat([b.reshape(y, (y.shape[0], 1, n)) for y, _ in sides], 1)  # steps, directions, units
    return [placed(each, 0 if axis == 0 else 2), *(placed(end, 0 if axis == 0 else 1) for end in ends)]


def _check_plain(b: Builder, node: OnnxNode, kind: str, directions: int, steps: int) -> None:
    """Refuses what the steps of `recurrent` do not have."""
    lengths = node[4]
    whole = lengths is None or (isinstance(lengths, Tensor) and bool((lengths == steps).all()))
    b.require(whole, "has sequences of different lengths", "serve sequences of one length")
    b.require(node.get("clip") is None, "clips inside of its steps", "export it without clip")
    b.require(node[7] is None or not bool(torch.any(node[7] != 0)), "has peepholes", "use none")
    b.require(not node.get("input_forget", 0), "couples its gates", "use gates of their own")
    names = node.get("activations") or _DEFAULTS[kind] * directions
    allowed = [_DEFAULTS[kind] * directions, ["Relu"] * directions if kind == "RNN" else None]
    titled = [name.decode().title() if isinstance(name, bytes) else name.title() for name in names]
    b.require(titled in allowed, f"has the activations {', '.join(titled)}", "use those that torch has")


def _step(b: Builder, node: OnnxNode, kind: str, directions: int) -> Step:
    if kind == "LSTM":
        return recurrent.lstm_step
    if kind == "GRU":
        return recurrent.gru_step if node.get("linear_before_reset", 0) else recurrent.gru_step_reset_first
    names = node.get("activations") or ["Tanh"]
    first = names[0].decode() if isinstance(names[0], bytes) else names[0]
    return recurrent.rnn_step(first.lower())


def _weights(given: Tensor, own: Tensor, bias: Tensor | None, kind: str, step: Step) -> CellWeights:
    held = CellWeights(given, own)
    if bias is not None:
        one, other = bias.chunk(2)
        held = CellWeights(given, own, one, other) if kind == "GRU" else CellWeights(given, own, one + other)
    return recurrent.ordered(held, _ORDER[kind])


def _start(b: Builder, node: OnnxNode, part: int, at: int, axis: int) -> ir.Node | Tensor | None:
    """Return a part of the first state of a direction: (directions, batch, units), with layout 1 the batch first."""
    value = node[part]
    if value is None:
        return None
    if isinstance(value, Tensor):
        return recurrent.constant(b, value.select(1 - axis, at), 0)
    wire, place = (value.node, value.axis) if isinstance(value, Turned) else (value, 0)
    alike = node.batch == 1 and wire.shape[0] == 1  # of two axes of size one, either is the batch
    b.require(place == axis or alike, "has a first state with its batch elsewhere", HINT)
    return b.slice(wire, 0, at, at + 1)


# Wires whose batch is not the first axis.

_AXIS = ("Gather", "Slice", "Split", "Concat", "ReduceMean", "ReduceSum", "ReduceMax")
_EACH = {
    *("Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "Selu", "Softplus", "Neg", "Identity", "Cast", "Dropout", "Clip"),
    *("Add", "Sub", "Mul", "MatMul"),
}
MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
RECURRENT: dict[str, Callable[[Builder, OnnxNode], list[Wire]]] = {kind: layer(kind) for kind in _DEFAULTS}


def moved(b: Builder, kind: str, node: OnnxNode, expected: Sequence[int | None]) -> Wire | None:
    """Translate what may move the batch of a wire to or from another axis; or return None, where it stays first."""
    x = node.x
    if kind == "Transpose":
        rank = len((x.node if isinstance(x, Turned) else x).shape) + 1
        return permuted(b, x, node.get("perm") or list(reversed(range(rank))))
    stays = kind == "Flatten" or not expected or expected[0] in (node.batch, None)
    if kind not in MOVES or (not isinstance(x, Turned) and stays):
        return None
    if any(n is None for n in expected) or not expected:
        b.refuse("reshapes to a shape that is not known", HINT)
    return reshaped(b, x, [int(n or 0) for n in expected], node.batch)


def beside(b: Builder, kind: str, node: OnnxNode, expected: Sequence[Sequence[int | None]]) -> Any:
    """Translate an operator on wires whose batch is not first. `expected` are the full shapes of its results."""
    wires = [v for v in node.inputs if isinstance(v, ir.Node | Turned)]
    axis = common(b, wires)
    turned = next(v for v in wires if isinstance(v, Turned))
    b.require(kind in _AXIS or kind in _EACH, "works on a wire whose batch is not first", HINT)
    inputs, attributes = [unturned(v) for v in node.inputs], dict(node.attributes)
    own: list[int] = []
    dropped, behind = False, len(turned.node.shape) - axis
    for value in inputs if kind in _EACH else ():
        fits = kind == "MatMul" or not isinstance(value, Tensor) or value.dim() <= behind
        fits = fits and (kind != "MatMul" or (behind > 0 and isinstance(inputs[0], ir.Node)))
        b.require(fits, "has a constant along the batch", HINT)
    if kind in ("Gather", "Split", "Concat"):
        own = [turned.own(b, attributes.get("axis", 0))]
        constant = [value for value in inputs if isinstance(value, Tensor)]
        b.require(kind != "Concat" or not constant, "has a constant beside sequences", HINT)
        b.require(kind != "Gather" or constant[0].dim() < 2, "picks by a matrix of places", HINT)
        attributes["axis"] = own[0]
        dropped = kind == "Gather" and isinstance(inputs[1], Tensor) and inputs[1].dim() == 0
    elif kind in _AXIS:
        place = 3 if kind == "Slice" else 1
        axes = node.constants(place, "axes")
        b.require(axes is not None, "computes across the batch", HINT)
        own = [turned.own(b, dim) for dim in axes or ()]
        if place < len(inputs) and inputs[place] is not None:
            inputs[place] = torch.tensor(own)
        else:
            attributes["axes"] = own
        dropped = kind != "Slice" and not node.get("keepdims", 1)
    after = axis - sum(dim <= axis for dim in own) if dropped else axis
    result = OPS[kind](b, replace(node, inputs=inputs, attributes=attributes))
    if isinstance(result, list):
        return [checked(b, one, full, after) for one, full in zip(result, expected, strict=False)]
    return checked(b, result, expected[0], after)
