"""The clients' methods without any I/O: how each encodes its inputs, and what it makes of the answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from moiety_client import inputs
from moiety_client.answers import Evaluation, Prediction
from moiety_client.canaries import Canaries
from moiety_client.errors import InvalidInput
from moiety_client.exchange import Drawn, added, joined
from moiety_client.tokens import Vocabulary
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.wire import Recipients
from moiety_shared.tabular import Others

Result = TypeVar("Result")
Draw = Callable[[Entry, RingArray], Drawn]


def draw_anew(_entry: Entry, _elements: RingArray) -> Drawn:
    """Draw new random numbers for a request."""
    return Drawn.new()


@dataclass(frozen=True)
class Answer:
    """The answer to one request: both parties' shares of it, and what the parties counted."""

    shares: tuple[RingArray, RingArray]
    rounds: int
    online_bytes: int
    for_owner: bytes


@dataclass(frozen=True)
class Task(Generic[Result]):
    """What one method asks of a model: `encode` makes the elements to send, `finish` makes a result of the answers.

    `encode` also gets the vocabulary of a model that takes ids of tokens.

    `draw` returns the random numbers of a request. `redraw` returns new ones when the parties no longer accept that
    request. `slow` says that `encode` has to read files or resize pictures.
    """

    encode: Callable[[Entry, Vocabulary | None], RingArray]
    finish: Callable[[Entry, RingArray, list[Answer], float], Result]
    recipients: Recipients = Recipients.CLIENT
    draw: Draw = draw_anew
    redraw: Draw = draw_anew
    slow: bool = False


def prediction(
    images: Any,
    canaries: int,
    *,
    others: Others = "strict",
    start: int = 0,
    draw: Draw = draw_anew,
    redraw: Draw = draw_anew,
) -> Task[Prediction]:
    """The task of `Client.predict`. `start` is the place of the first input among all of a call, for the errors."""
    among = Canaries(canaries)
    rows: inputs.Rows | None = None

    def encode(entry: Entry, vocabulary: Vocabulary | None) -> RingArray:
        among.check_offered(entry)
        inputs.check_predicts(entry)
        nonlocal rows
        rows = inputs.rows(entry, images, others)
        return among.mixed(entry, inputs.encode_rows(entry, rows, start, vocabulary))

    def finish(entry: Entry, _: RingArray, answers: list[Answer], started: float) -> Prediction:
        values = among.checked(entry, np.concatenate([joined(entry.plan, a.shares) for a in answers]))
        return Prediction(
            entry.plan.output, values, entry.classes, *_counted(answers, started), index=inputs.index(rows)
        )

    return Task(encode, finish, draw=draw, redraw=redraw, slow=inputs.is_slow(images))


def evaluation(images: Any, labels: npt.ArrayLike, reveal_to: str, others: Others = "strict") -> Task[Evaluation]:
    """The task of `Client.evaluate`.

    If the model is published for evaluation, the parties compute the count in private. For any other model, the client
    asks for predictions and compares them with the labels, or with the true values, here.
    """
    try:
        recipients = Recipients.named(reveal_to)
    except KeyError:
        raise InvalidInput("reveal_to must be client, owner or both") from None

    rows: inputs.Rows
    truth: Any

    def encode(entry: Entry, vocabulary: Vocabulary | None) -> RingArray:
        nonlocal rows, truth
        rows, truth = inputs.labelled_rows(entry, images, labels, others)
        if entry.plan.output.kind != "count" or not entry.plan.input.classes:
            return _to_compare(entry, vocabulary)
        if Recipients.OWNER in recipients and entry.plan.output.owner_key is None:
            raise InvalidInput(
                f"model {entry.name!r} cannot reveal the count to its owner: publish it with --reveal count"
            )
        return inputs.encode_labelled(entry, rows, truth, vocabulary)

    def _to_compare(entry: Entry, vocabulary: Vocabulary | None) -> RingArray:
        if entry.plan.output.kind == "count":
            raise InvalidInput(f"model {entry.name!r} gives a sum, not labels: call total")
        if recipients != Recipients.CLIENT:
            raise InvalidInput(f"model {entry.name!r} gives its answers to you alone: leave reveal_to out")
        elements = inputs.encode_rows(entry, rows, vocabulary=vocabulary)
        _true(entry, truth, len(elements))
        return elements

    def finish(entry: Entry, elements: RingArray, answers: list[Answer], started: float) -> Evaluation:
        counted = _counted(answers, started)
        if entry.plan.output.kind != "count":
            values = np.concatenate([joined(entry.plan, a.shares) for a in answers])
            told = Prediction(entry.plan.output, values, entry.classes, *counted)
            true = _true(entry, truth, len(elements))
            if entry.plan.output.task == "values":
                off = float(np.abs(told.outputs - true).mean())
                return Evaluation(None, len(elements), *counted, prediction=told, mean_absolute_error=off)
            right = told.labels == true
            return Evaluation(int(right.sum()), len(elements), *counted, prediction=told, right=right)
        correct = int(_sum(entry, answers).sum()) if Recipients.CLIENT in recipients else None
        tokens = tuple(a.for_owner for a in answers if a.for_owner)
        return Evaluation(correct, len(elements), *counted, tokens)

    return Task(encode, finish, recipients, slow=inputs.is_slow(images))


def total(values: Any) -> Task[npt.NDArray[np.float64]]:
    """The task of `Client.total`."""

    def encode(entry: Entry, vocabulary: Vocabulary | None) -> RingArray:
        if entry.plan.output.kind != "count":
            raise InvalidInput(f"model {entry.name!r} gives each input's outputs, not their sum: call predict")
        inputs.check_predicts(entry)
        return inputs.encode_rows(entry, inputs.rows(entry, values), vocabulary=vocabulary)

    def finish(entry: Entry, _: RingArray, answers: list[Answer], started: float) -> npt.NDArray[np.float64]:
        return _sum(entry, answers).astype(np.float64) * entry.plan.output.scale

    return Task(encode, finish, slow=inputs.is_slow(values))


def _true(entry: Entry, given: npt.ArrayLike, count: int) -> npt.NDArray[Any]:
    """Return what an owner of labelled inputs knows of them: the labels as ints (n,), or the true values
    (n, *output shape). Raises InvalidInput."""
    output = entry.plan.output
    if output.parts:
        raise InvalidInput(f"model {entry.name!r} gives several outputs: call predict, and compare each with its own")
    if output.task != "values":
        return inputs.label_indices(entry, given, count, output.classes)
    try:
        values = np.asarray(given, dtype=np.float64).reshape(count, *output.shape)
    except (ValueError, TypeError):
        values = np.full(1, np.nan)
    if not np.isfinite(values).all():
        shape = " x ".join(map(str, output.shape))
        raise InvalidInput(
            f"this model gives values: pass the true ones, {shape} finite numbers for each of {count} inputs"
        )
    return values


def _sum(entry: Entry, answers: list[Answer]) -> npt.NDArray[Any]:
    """Return the sum of all requests' results. The client never joins a single result."""
    return joined(entry.plan, added([a.shares for a in answers]))


def _counted(answers: list[Answer], started: float) -> tuple[int, int, float]:
    """Return the rounds of one run, the bytes of all runs, and the seconds since `started`."""
    rounds, sent = max(a.rounds for a in answers), sum(a.online_bytes for a in answers)
    return rounds, sent, time.perf_counter() - started
