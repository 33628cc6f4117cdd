"""What a call returns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import InvalidInput, LabelsOnly
from moiety_shared.plan.plan import Output


@dataclass(frozen=True)
class Prediction:
    """What a model says of each input, in the order of the inputs.

    `rounds` and `online_bytes` are what the parties counted: rounds of one run, and ring payload each party sent.
    """

    _output: Output
    _values: npt.NDArray[Any] = field(repr=False)
    classes: tuple[str, ...]
    rounds: int
    online_bytes: int
    seconds: float

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values(self) -> npt.NDArray[Any]:
        """What the parties gave out, (n, *output shape): outputs; of labels alone, each class's rank from 1, or 0."""
        return self._values

    @property
    def outputs(self) -> npt.NDArray[np.float64]:
        """The model's outputs, (n, *output shape). Raises LabelsOnly when its owner gives out labels alone."""
        if self._output.kind != "logits":
            raise LabelsOnly("this model gives no outputs, only which classes are likeliest: read `labels` or `top`")
        return self._values

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The most likely class of each input, (n,)."""
        if self._output.kind == "labels":
            return self.top[:, 0]
        labels: npt.NDArray[np.int64] = self._values.reshape(len(self._values), -1).argmax(axis=1)
        return labels

    @property
    def top(self) -> npt.NDArray[np.int64]:
        """Classes from the most likely one down, (n, k): as many as the model tells."""
        flat = self._values.reshape(len(self._values), -1)
        if self._output.kind == "logits":
            return np.argsort(-flat, axis=1, kind="stable")
        ranked = np.argsort(np.where(flat == 0, 256, flat.astype(np.int64)), axis=1, kind="stable")
        return ranked[:, : self._output.top]

    @property
    def names(self) -> list[str]:
        """The likeliest class of each input, as text: its name where the model names its classes, else its number."""
        return [self.classes[i] if self.classes else str(i) for i in self.labels]

    @classmethod
    def joined(cls, parts: Sequence["Prediction"]) -> "Prediction":
        """Those of several batches of one model, after one another. Raises InvalidInput when there are none."""
        if not parts:
            raise InvalidInput("there are no inputs: pass one at least")
        first = parts[0]
        return cls(
            first._output,
            np.concatenate([part._values for part in parts]),
            first.classes,
            max(part.rounds for part in parts),
            sum(part.online_bytes for part in parts),
            sum(part.seconds for part in parts),
        )


@dataclass(frozen=True)
class Evaluation:
    """How a model did on labelled inputs that nobody saw.

    `correct` is None where the number is the owner's alone; `for_owner` is what only the owner can open, one for each
    request, to be handed on to `moiety count`. Where the model gives out predictions, `prediction` is what it said of
    each input, and `right` whether that was its label, (n,).
    """

    correct: int | None
    total: int
    rounds: int
    online_bytes: int
    seconds: float
    for_owner: tuple[bytes, ...] = field(default=(), repr=False)
    prediction: Prediction | None = field(default=None, repr=False, compare=False)
    right: npt.NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)

    @property
    def accuracy(self) -> float | None:
        return None if self.correct is None else self.correct / self.total

    def __str__(self) -> str:
        if self.correct is None:
            return f"{self.total} inputs; how many were labelled right is for the owner to read"
        return f"{self.correct} of {self.total} right ({self.correct / self.total:.2%})"
