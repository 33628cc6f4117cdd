"""Recurrent layers, unrolled: every step of a sequence of fixed length becomes nodes of its own.

What the steps read of the input is one linear layer over all of them. Only what they read of the state follows step by
step. Both front ends build these layers here. A sequence is a wire (steps, features), a state one of (1, units): the
batch comes first, as everywhere.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder

_MOST_STEPS = 1024  # a plan of an LSTM has some 25 layers for each, and 10,000 at most
_PARTS = 256  # as many wires are put together at once


@dataclass(frozen=True)
class CellWeights:
    """One direction of one layer, in the gates' order of `Cell`. `own` is (gates * units, units), of the state; `given`
    is (gates * units, features), of the input. The biases are None or (gates * units,). `projection` is (fewer, units),
    of an LSTM that hands fewer numbers on; `own` then has as many columns."""

    given: Tensor
    own: Tensor
    given_bias: Tensor | None = None
    own_bias: Tensor | None = None
    projection: Tensor | None = None

    @property
    def units(self) -> int:
        return self.own.shape[1]


State = tuple[ir.Node | Tensor | None, ...]
"""A step's state, (1, units) each: h, and of an LSTM also c. None is all zeros, a tensor (units,) is constant."""
Step = Callable[[Builder, ir.Node, CellWeights, State], tuple[ir.Node, ...]]


def lstm_step(b: Builder, read: ir.Node, w: CellWeights, state: State) -> tuple[ir.Node, ...]:
    """One step of an LSTM. Gates are in the order input, forget, output, cell; `read` is what the step reads of the
    input."""
    h, c = state
    gates = _plus(b, read, _of_state(b, h, w.own, w.own_bias))
    n = len(w.own) // 4
    open_ = b.smooth(b.slice(gates, 1, 0, 3 * n), "sigmoid")
    enter, forget, leave = (b.slice(open_, 1, i * n, (i + 1) * n) for i in range(3))
    new = b.mul(enter, b.smooth(b.slice(gates, 1, 3 * n, 4 * n), "tanh"))
    if isinstance(c, ir.Node):
        new = b.combine((b.mul(forget, c), new), (1, 1))
    elif c is not None:
        new = b.combine((b.affine(forget, scale=c[None]), new), (1, 1))
    left = b.mul(leave, b.smooth(new, "tanh"))
    return left if w.projection is None else b.linear(left, w.projection), new


def gru_step(b: Builder, read: ir.Node, w: CellWeights, state: State) -> tuple[ir.Node, ...]:
    """One step of a GRU. Gates are in the order reset, update, new; the reset gate follows the linear layer."""
    (h,) = state
    n = w.units
    own = _of_state(b, h, w.own, w.own_bias)
    gates = b.smooth(_plus(b, b.slice(read, 1, 0, 2 * n), _columns(b, own, 0, 2 * n)), "sigmoid")
    reset, update = b.slice(gates, 1, 0, n), b.slice(gates, 1, n, 2 * n)
    own_new = _columns(b, own, 2 * n, 3 * n)
    if isinstance(own_new, ir.Node):
        own_new = b.mul(reset, own_new)
    elif own_new is not None:
        own_new = b.affine(reset, scale=own_new[None])
    return (_between(b, update, b.smooth(_plus(b, b.slice(read, 1, 2 * n, 3 * n), own_new), "tanh"), h),)


def gru_step_reset_first(b: Builder, read: ir.Node, w: CellWeights, state: State) -> tuple[ir.Node, ...]:
    """One step of a GRU whose reset gate comes before the linear layer, as ONNX has it by default."""
    (h,) = state
    n = w.units
    bias = None if w.own_bias is None else w.own_bias[: 2 * n]
    own = _of_state(b, h, w.own[: 2 * n], bias)
    gates = b.smooth(_plus(b, b.slice(read, 1, 0, 2 * n), own), "sigmoid")
    reset, update = b.slice(gates, 1, 0, n), b.slice(gates, 1, n, 2 * n)
    kept: ir.Node | None = None
    if isinstance(h, ir.Node):
        kept = b.mul(reset, h)
    elif h is not None:
        kept = b.affine(reset, scale=h[None])
    new_bias = None if w.own_bias is None else w.own_bias[2 * n :]
    own_new = _of_state(b, kept, w.own[2 * n :], new_bias)
    return (_between(b, update, b.smooth(_plus(b, b.slice(read, 1, 2 * n, 3 * n), own_new), "tanh"), h),)


def rnn_step(function: str) -> Step:
    """One step of a plain recurrent layer, with "tanh" or "relu"."""

    def step(b: Builder, read: ir.Node, w: CellWeights, state: State) -> tuple[ir.Node, ...]:
        total = _plus(b, read, _of_state(b, state[0], w.own, w.own_bias))
        return (b.relu(total) if function == "relu" else b.smooth(total, "tanh"),)

    return step


def unrolled(
    b: Builder, x: ir.Node, w: CellWeights, step: Step, start: State, *, backwards: bool = False
) -> tuple[ir.Node, tuple[ir.Node, ...]]:
    """Build one direction of one layer over a sequence (steps, features).

    Returns the state h after each step (steps, units), in the order of the sequence, and the last state, (units,) each.
    """
    steps = x.shape[0]
    b.require(steps <= _MOST_STEPS, f"has {steps} steps, more than {_MOST_STEPS}", "serve a shorter sequence")
    read = b.linear(x, w.given, w.given_bias)
    state, outputs = start, []
    for at in reversed(range(steps)) if backwards else range(steps):
        state = step(b, b.slice(read, 0, at, at + 1), w, state)
        outputs.append(state[0])
    last = tuple(b.reshape(part, part.shape[1:]) for part in state if isinstance(part, ir.Node))
    return together(b, [h for h in outputs[:: -1 if backwards else 1] if isinstance(h, ir.Node)]), last


def together(b: Builder, rows: Sequence[ir.Node]) -> ir.Node:
    """Put rows together along the first axis, however many there are."""
    while len(rows) > 1:
        rows = [b.concat(rows[at : at + _PARTS], 0) for at in range(0, len(rows), _PARTS)]
    return rows[0]


def layers(
    b: Builder,
    x: ir.Node,
    weights: Sequence[Sequence[CellWeights]],
    step: Step,
    starts: Sequence[Sequence[State]],
) -> tuple[ir.Node, list[ir.Node]]:
    """Build layers one above another, each of one or two directions, over a sequence (steps, features).

    Returns the last layer's outputs (steps, directions * units), and each part of the last state, (layers * directions,
    units).
    """
    ends: list[tuple[ir.Node, ...]] = []
    for directions, begin in zip(weights, starts, strict=True):
        sides = [
            unrolled(b, x, w, step, start, backwards=bool(back))
            for back, (w, start) in enumerate(zip(directions, begin, strict=True))
        ]
        ends += [last for _, last in sides]
        x = b.concat([y for y, _ in sides], 1)
    parts = zip(*ends, strict=True)
    return x, [b.concat([b.reshape(one, (1, *one.shape)) for one in part], 0) for part in parts]


def ordered(w: CellWeights, order: Sequence[int]) -> CellWeights:
    """Put the gates into another order: `order` names the gate that becomes the first, and so on."""

    def gates(value: Tensor | None) -> Tensor | None:
        return None if value is None else torch.cat([value.chunk(len(order))[i] for i in order])

    given, own = (torch.cat([m.chunk(len(order))[i] for i in order]) for m in (w.given, w.own))
    return CellWeights(given, own, gates(w.given_bias), gates(w.own_bias), w.projection)


def constant(b: Builder, value: Tensor, batch: int) -> Tensor | None:
    """Return a constant state (units,), of a tensor that is alike along its axis `batch`, or None where it is all
    zeros: a step then needs less."""
    row = value.select(batch, 0)
    b.require(bool((value == row.unsqueeze(batch)).all()), "begins with another state for each input of the batch")
    return row.reshape(-1) if bool(torch.any(row != 0)) else None


def _of_state(b: Builder, h: ir.Node | Tensor | None, matrix: Tensor, bias: Tensor | None) -> ir.Node | Tensor | None:
    """Multiply the state with its matrix, as a wire (1, rows), or as a constant (rows,) where the state is one."""
    if isinstance(h, ir.Node):
        return b.linear(h, matrix, bias)
    product = None if h is None else matrix.double() @ h.double()
    return bias if product is None else product if bias is None else product + bias.double()


def _columns(b: Builder, x: ir.Node | Tensor | None, start: int, stop: int) -> ir.Node | Tensor | None:
    return b.slice(x, 1, start, stop) if isinstance(x, ir.Node) else None if x is None else x[start:stop]


def _plus(b: Builder, x: ir.Node, y: ir.Node | Tensor | None) -> ir.Node:
    if isinstance(y, ir.Node):
        return b.combine((x, y), (1, 1))
    return x if y is None else b.affine(x, shift=y[None])


def _between(b: Builder, update: ir.Node, new: ir.Node, h: ir.Node | Tensor | None) -> ir.Node:
    """(1 - update) * new + update * h, with one product."""
    if isinstance(h, ir.Node):
        return b.combine((new, b.mul(update, b.combine((h, new), (1, -1)))), (1, 1))
    apart = b.scale(new, -1.0) if h is None else b.affine(b.scale(new, -1.0), shift=h[None])
    return b.combine((new, b.mul(update, apart)), (1, 1))
