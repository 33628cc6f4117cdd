"""Recurrent layers and cells as torch has them."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from moiety_server.compiler import ir, recurrent
from moiety_server.compiler import operations as ops
from moiety_server.compiler.batched import HINT, Batched, Wire, located, placed
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.recurrent import CellWeights, Step

_LSTM_ORDER = (0, 1, 3, 2)  # torch has input, forget, cell, output


def lstm(
    b: Builder, x: Wire, hx: Sequence[Any], params: Sequence[Any], biases: bool, layers: int, dropout: float,
    train: bool, both: bool, batch_first: bool,
) -> list[Wire]:  # fmt: skip
    """aten::lstm: returns the outputs and both parts of the last state."""
    return _layers(b, x, hx, params, layers, both, batch_first, recurrent.lstm_step, _lstm_weights)


def gru(
    b: Builder, x: Wire, hx: Any, params: Sequence[Any], biases: bool, layers: int, dropout: float, train: bool,
    both: bool, batch_first: bool,
) -> list[Wire]:  # fmt: skip
    return _layers(b, x, [hx], params, layers, both, batch_first, recurrent.gru_step, _gru_weights)


def rnn(function: str) -> Callable[..., list[Wire]]:
    def layer(
        b: Builder, x: Wire, hx: Any, params: Sequence[Any], biases: bool, layers: int, dropout: float, train: bool,
        both: bool, batch_first: bool,
    ) -> list[Wire]:  # fmt: skip
        return _layers(b, x, [hx], params, layers, both, batch_first, recurrent.rnn_step(function), _sum_weights)

    return layer


def lstm_cell(b: Builder, x: ir.Node, hx: Sequence[Any], *params: Any) -> list[ir.Node]:
    return _cell(b, x, hx, params, recurrent.lstm_step, _lstm_weights)


def gru_cell(b: Builder, x: ir.Node, hx: Any, *params: Any) -> ir.Node:
    return _cell(b, x, [hx], params, recurrent.gru_step, _gru_weights)[0]


def rnn_cell(function: str) -> Callable[..., ir.Node]:
    return lambda b, x, hx, *params: _cell(b, x, [hx], params, recurrent.rnn_step(function), _sum_weights)[0]


def _cell(
    b: Builder, x: ir.Node, hx: Sequence[Any], params: Sequence[Any], step: Step, weights: Callable[..., CellWeights]
) -> list[ir.Node]:
    w = weights(*(ops.optional(b, p, "a weight") for p in params))
    b.require(len(x.shape) == 1, "a cell reads one vector of each input of the batch")
    state = tuple(_row(b, part) for part in hx)
    read = b.linear(b.reshape(x, (1, *x.shape)), w.given, w.given_bias)
    return [b.reshape(part, (w.units,)) for part in step(b, read, w, state)]


def _row(b: Builder, value: Any) -> ir.Node | Tensor | None:
    """Return a cell's state as a step has it."""
    if isinstance(value, ir.Node):
        return b.reshape(value, (1, *value.shape))
    return recurrent.constant(b, value, 0)


def _layers(
    b: Builder,
    x: Wire,
    hx: Sequence[Any],
    params: Sequence[Any],
    layers: int,
    both: bool,
    batch_first: bool,
    step: Step,
    weights: Callable[..., CellWeights],
) -> list[Wire]:
    axis = 0 if batch_first else 1
    at = located(x)
    node = at.node
    b.require(
        at.axis == axis and at.is_alone and len(node.shape) == 2,
        "reads a batch of sequences elsewhere than it is",
        HINT,
    )
    constants = [ops.secret(b, p, "a weight") for p in params]
    directions = 2 if both else 1
    each = len(constants) // (layers * directions)
    held = [weights(*constants[i : i + each]) for i in range(0, len(constants), each)]
    starts = [tuple(_start(b, part, i) for part in hx) for i in range(len(held))]
    grouped = [held[i : i + directions] for i in range(0, len(held), directions)]
    begun = [starts[i : i + directions] for i in range(0, len(held), directions)]
    outputs, ends = recurrent.layers(b, node, grouped, step, begun)
    return [placed(Batched(outputs, axis)), *(Batched(end, 1) for end in ends)]


def _start(b: Builder, value: Any, at: int) -> ir.Node | Tensor | None:
    """Return a part of the first state of a layer's direction, of a tensor (layers * directions, batch, units)."""
    if isinstance(value, Batched) and value.axis == 1 and value.is_alone:
        return b.slice(value.node, 0, at, at + 1)
    return recurrent.constant(b, ops.secret(b, value, "a first state whose batch is not its second axis")[at], 0)


def _lstm_weights(given: Tensor, own: Tensor, *biases: Tensor | None) -> CellWeights:
    """Put the gates in the order of `lstm_step`. Both biases are added up: every gate has their sum. What remains of
    an odd number is the projection of the state (proj_size)."""
    added, projection = biases[: len(biases) // 2 * 2], biases[-1] if len(biases) % 2 else None
    return recurrent.ordered(CellWeights(given, own, _sum(added), projection=projection), _LSTM_ORDER)


def _gru_weights(given: Tensor, own: Tensor, *biases: Tensor | None) -> CellWeights:
    return CellWeights(given, own, *(biases or (None, None)))


def _sum_weights(given: Tensor, own: Tensor, *biases: Tensor | None) -> CellWeights:
    return CellWeights(given, own, _sum(biases))


def _sum(biases: Sequence[Tensor | None]) -> Tensor | None:
    held = [bias.double() for bias in biases if bias is not None]
    return sum(held[1:], held[0]) if held else None


RECURRENT: dict[str, Callable[..., Any]] = {
    "lstm.input": lstm,
    "gru.input": gru,
    "rnn_tanh.input": rnn("tanh"),
    "rnn_relu.input": rnn("relu"),
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "rnn_tanh_cell": rnn_cell("tanh"),
    "rnn_relu_cell": rnn_cell("relu"),
}
