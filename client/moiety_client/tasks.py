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
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.wire import Recipients

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

    `draw` returns the random numbers of a request. `redraw` returns new ones when the parties no longer accept that
    request. `slow` says that `encode` has to read files or resize pictures.
    """

    encode: Callable[[Entry], RingArray]
    finish: Callable[[Entry, RingArray, list[Answer], float], Result]
    recipients: Recipients = Recipients.CLIENT
    draw: Draw = draw_anew
    redraw: Draw = draw_anew
    slow: bool = False


def prediction(images: Any, canaries: int, draw: Draw = draw_anew, redraw: Draw = draw_anew) -> Task[Prediction]:
    """The task of `Client.predict`."""
    among = Canaries(canaries)

    def encode(entry: Entry) -> RingArray:
        among.check_offered(entry)
        return among.mixed(entry, inputs.encode(entry, images))

    def finish(entry: Entry, _: RingArray, answers: list[Answer], started: float) -> Prediction:
        values = among.checked(entry, np.concatenate([joined(entry.plan, a.shares) for a in answers]))
        return Prediction(entry.plan.output, values, entry.classes, *_counted(answers, started))

    return Task(encode, finish, draw=draw, redraw=redraw, slow=inputs.is_slow(images))


def evaluation(images: Any, labels: npt.ArrayLike, reveal_to: str) -> Task[Evaluation]:
    """The task of `Client.evaluate`.

    If the model is published for evaluation, the parties compute the count in private. For any other model, the client
    asks for predictions and compares them with the labels here.
    """
    try:
        recipients = Recipients.named(reveal_to)
    except KeyError:
        raise InvalidInput("a count is revealed to client, owner or both") from None

    def encode(entry: Entry) -> RingArray:
        if entry.plan.output.kind != "count" or not entry.plan.input.classes:
            return _to_compare(entry)
        if Recipients.OWNER in recipients and entry.plan.output.owner_key is None:
            raise InvalidInput(f"model {entry.name!r} names no key of its owner: publish it with --reveal count")
        return inputs.encode_labelled(entry, images, labels)

    def _to_compare(entry: Entry) -> RingArray:
        if entry.plan.output.kind == "count":
            raise InvalidInput(f"model {entry.name!r} gives a sum and no labels: call total")
        if recipients != Recipients.CLIENT:
            raise InvalidInput(f"model {entry.name!r} gives out its answers, to you alone: leave reveal_to out")
        elements = inputs.encode(entry, images)
        inputs.label_indices(entry, labels, len(elements), entry.plan.output.size)
        return elements

    def finish(entry: Entry, elements: RingArray, answers: list[Answer], started: float) -> Evaluation:
        counted = _counted(answers, started)
        if entry.plan.output.kind != "count":
            values = np.concatenate([joined(entry.plan, a.shares) for a in answers])
            told = Prediction(entry.plan.output, values, entry.classes, *counted)
            right = told.labels == inputs.label_indices(entry, labels, len(elements), entry.plan.output.size)
            return Evaluation(int(right.sum()), len(elements), *counted, prediction=told, right=right)
        correct = int(_sum(entry, answers).sum()) if Recipients.CLIENT in recipients else None
        tokens = tuple(a.for_owner for a in answers if a.for_owner)
        return Evaluation(correct, len(elements), *counted, tokens)

    return Task(encode, finish, recipients, slow=inputs.is_slow(images))


def total(values: Any) -> Task[npt.NDArray[np.float64]]:
    """The task of `Client.total`."""

    def encode(entry: Entry) -> RingArray:
        if entry.plan.output.kind != "count":
            raise InvalidInput(f"model {entry.name!r} gives each input's outputs, not their sum: call predict")
        return inputs.encode(entry, values)

    def finish(entry: Entry, _: RingArray, answers: list[Answer], started: float) -> npt.NDArray[np.float64]:
        return _sum(entry, answers).astype(np.float64) * entry.plan.output.scale

    return Task(encode, finish, slow=inputs.is_slow(values))


def _sum(entry: Entry, answers: list[Answer]) -> npt.NDArray[Any]:
    """Return the sum of all requests' results. The client never joins a single result."""
    return joined(entry.plan, added([a.shares for a in answers]))


def _counted(answers: list[Answer], started: float) -> tuple[int, int, float]:
    """Return the rounds of one run, the bytes of all runs, and the seconds since `started`."""
    rounds, sent = max(a.rounds for a in answers), sum(a.online_bytes for a in answers)
    return rounds, sent, time.perf_counter() - started
