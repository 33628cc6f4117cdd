"""What a call returns."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import LabelsOnly
from moiety_shared.plan import Output


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
        """The same as text, where the model names its classes."""
        return [self.classes[i] if self.classes else str(i) for i in self.labels]


@dataclass(frozen=True)
class Evaluation:
    """How a model did on labelled inputs that nobody saw.

    `correct` is None where the number is the owner's alone; `for_owner` is what only the owner can open, one for each
    request, to be handed on to `moiety count`.
    """

    correct: int | None
    total: int
    rounds: int
    online_bytes: int
    seconds: float
    for_owner: tuple[bytes, ...] = ()

    @property
    def accuracy(self) -> float | None:
        return None if self.correct is None else self.correct / self.total
