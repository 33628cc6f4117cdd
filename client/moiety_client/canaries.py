"""Canaries: inputs with known answers. The client mixes them among its own and checks their answers."""

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.answers import Prediction
from moiety_client.errors import CanaryFailed, InvalidInput
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.canary import Canary, places
from moiety_shared.messages.catalogue import Entry


class Canaries:
    """The `count` canaries of one call: which inputs they are, and in which rows."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._placed: dict[int, Canary] = {}  # row -> what is there

    def check_offered(self, entry: Entry) -> None:
        """Raise InvalidInput if the model has no canaries, or can have none."""
        if self._count < 0:
            raise InvalidInput("canaries is how many inputs with known answers to mix in: pass 0 or more")
        if self._count and entry.plan.output.kind == "count":
            raise InvalidInput(
                f"model {entry.name!r} gives one count and no answers to single inputs: ask without canaries"
            )
        if self._count and not entry.canaries:
            raise InvalidInput(
                f"model {entry.name!r} has no canaries, because its owner found no inputs with sure answers: ask "
                "without canaries"
            )

    def mixed(self, entry: Entry, elements: RingArray) -> RingArray:
        """Mix canaries among the encoded inputs. The client draws their rows anew each time."""
        if not self._count:
            return elements
        total = len(elements) + self._count
        rows: set[int] = set()
        while len(rows) < self._count:
            rows.add(secrets.randbelow(total))
        self._placed = {row: secrets.choice(entry.canaries) for row in sorted(rows)}
        mixed = np.empty((total, elements.shape[1]), dtype=elements.dtype)
        mixed[_others(total, rows)] = elements
        for row, canary in self._placed.items():
            mixed[row] = canary.elements(entry.plan, entry.table)
        return mixed

    def checked(self, entry: Entry, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Check the canaries' answers and return those to the client's own inputs, (n, *output shape).

        Raises CanaryFailed if an answer is wrong.
        """
        wrong = [row for row, canary in self._placed.items() if not _fits(entry, canary, values[row])]
        if wrong:
            raise CanaryFailed(
                f"{len(wrong)} of {self._count} inputs with known answers came back wrong: discard all answers of this "
                "service, and tell the model's owner"
            )
        return values[_others(len(values), self._placed)]


def _others(total: int, rows: "set[int] | dict[int, Canary]") -> npt.NDArray[np.bool_]:
    keep = np.ones(total, dtype=np.bool_)
    keep[list(rows)] = False
    return keep


def _fits(entry: Entry, canary: Canary, answer: npt.NDArray[Any]) -> bool:
    """Whether the label is right, if the model has labels, and the outputs are near enough, if it gives them out."""
    output, flat = entry.plan.output, answer.ravel()
    if canary.label is not None:
        told = Prediction(output, answer[None], (), 0, 0, 0.0).labels
        if int(told[0]) != canary.label:
            return False
    if output.kind != "logits":
        return canary.label is not None
    return bool((np.abs(flat[places(len(flat))] - canary.outputs) <= canary.tolerance).all())
