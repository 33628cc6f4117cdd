"""LSTM, GRU and RNN of ONNX, which has the time first unless told otherwise."""

from collections.abc import Callable

import torch
from torch import Tensor

from moiety_server.compiler import ir, recurrent
from moiety_server.compiler import operations as ops
from moiety_server.compiler.batched import HINT, Batched, Wire, located, placed
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.onnx.operators import OnnxNode
from moiety_server.compiler.recurrent import CellWeights, Step

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# ONNX has an LSTM's gates in the order input, output, forget, cell; and a GRU's in the order update, reset, new.
_ORDER = {"LSTM": (0, 2, 1, 3), "GRU": (1, 0, 2), "RNN": (0,)}


def layer(kind: str) -> Callable[[Builder, OnnxNode], list[Wire]]:
    return lambda b, node: _layer(b, node, kind)


def _layer(b: Builder, node: OnnxNode, kind: str) -> list[Wire]:
    """Returns the outputs of all steps, and each part of the last state."""
    axis = 0 if node.get("layout", 0) else 1
    b.require(not isinstance(node.x, Tensor), "reads a constant")
    at = located(node.x)
    x = at.node
    b.require(at.axis == axis and at.is_alone and len(x.shape) == 2, "has its batch elsewhere", HINT)
    given, own = (ops.secret(b, node[i], "a weight") for i in (1, 2))
    bias, n, count = ops.optional(b, node[3], "a bias"), own.shape[2], len(own)
    _check_plain(b, node, kind, count, x.shape[0])
    step = _step(b, node, kind, count)
    held = [_weights(given[i], own[i], None if bias is None else bias[i], kind, step) for i in range(count)]
    parts = (5, 6) if kind == "LSTM" else (5,)
    starts = [tuple(_start(b, node, part, side, axis) for part in parts) for side in range(count)]
    backwards = [node.get("direction", "forward") == "reverse", True]
    sides = [
        recurrent.unrolled(b, x, w, step, start, backwards=back)
        for w, start, back in zip(held, starts, backwards, strict=False)
    ]
    ends = [b.concat([b.reshape(one, (1, n)) for one in part], 0) for part in zip(*(e for _, e in sides), strict=True)]
    each = b.concat([b.reshape(y, (y.shape[0], 1, n)) for y, _ in sides], 1)  # steps, directions, units
    return [placed(Batched(each, 2 * axis)), *(placed(Batched(end, axis)) for end in ends)]


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
    place = located(value)
    alike = node.batch == 1 and place.node.shape[0] == 1  # of two axes of size one, either is the batch
    b.require(place.is_alone and (place.axis == axis or alike), "has a first state with its batch elsewhere", HINT)
    return b.slice(place.node, 0, at, at + 1)


RECURRENT: dict[str, Callable[[Builder, OnnxNode], list[Wire]]] = {kind: layer(kind) for kind in _DEFAULTS}
