"""Canaries: inputs with known answers. The client mixes them among its own and checks their answers."""

import secrets
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import CanaryFailed, InvalidInput
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.canary import Canary
from moiety_shared.messages.catalogue import Entry


class Canaries:
    """The `count` canaries of one call: which inputs they are, and in which rows."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._placed: dict[int, Canary] = {}  # row -> what is there

    def check_offered(self, entry: Entry) -> None:
        """Raise InvalidInput if the model has no canaries, or can have none."""
        if self._count < 0:
            raise InvalidInput("canaries: how many inputs with known answers to mix in")
        if self._count and entry.plan.output.kind == "count":
            raise InvalidInput(f"model {entry.name!r} only counts: it gives no single answers that canaries could have")
        if self._count and not entry.canaries:
            raise InvalidInput(
                f"model {entry.name!r} has no canaries: its owner found no inputs whose answers are sure; ask without"
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
            mixed[row] = canary.elements(entry.plan)
        return mixed

    def checked(self, entry: Entry, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Check the canaries' answers and return those to the client's own inputs, (n, *output shape).

        Raises CanaryFailed if an answer is wrong.
        """
        wrong = [row for row, canary in self._placed.items() if not _fits(entry, canary, values[row])]
        if wrong:
            raise CanaryFailed(
                f"{len(wrong)} of {self._count} inputs with known answers came back wrong: believe nothing that this "
                "service computed, and tell the model's owner"
            )
        return values[_others(len(values), self._placed)]


def _others(total: int, rows: "set[int] | dict[int, Canary]") -> npt.NDArray[np.bool_]:
    keep = np.ones(total, dtype=np.bool_)
    keep[list(rows)] = False
    return keep


def _fits(entry: Entry, canary: Canary, answer: npt.NDArray[Any]) -> bool:
    """Whether the label is right and, if the model gives out outputs, the largest output has the right size."""
    flat = answer.ravel()
    if entry.plan.output.kind == "labels":
        return bool(flat[canary.label] == 1)
    if int(flat.argmax()) != canary.label:
        return False
    return canary.top is None or bool(abs(flat[canary.label] - canary.top) <= canary.tolerance)
