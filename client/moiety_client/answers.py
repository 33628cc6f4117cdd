"""What the client's calls return: `Prediction` and `Evaluation`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import InvalidInput, LabelsOnly
from moiety_shared.plan.plan import Output


@dataclass(frozen=True)
class Prediction:
    """What a model says about each input, in the order of the inputs. `len()` gives the number of inputs.

    - `labels`, `names`, `top` and `outputs` are the answers.
    - `classes` holds the names of the model's classes. It is empty if the model does not name them.
    - `rounds` is how often the two parties exchanged messages in one run, as they counted it.
    - `online_bytes` is how many bytes of payload each party sent the other, as they counted it.
    - `seconds` is how long the call took.
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
        """The answers as the parties gave them out, of shape (n, *output shape).

        These are the model's outputs. If the model gives out labels only, they are the ranks of its classes: 1 for the
        likeliest, and so on, and 0 for a class without a rank.
        """
        return self._values

    @property
    def outputs(self) -> npt.NDArray[np.float64]:
        """The model's outputs, of shape (n, *output shape). Raises LabelsOnly if its owner gives out labels only."""
        if self._output.kind != "logits":
            raise LabelsOnly("this model gives no outputs, only which classes are likeliest: read `labels` or `top`")
        return self._values

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The likeliest class of each input, as an array of n ints."""
        if self._output.kind == "labels":
            return self.top[:, 0]
        labels: npt.NDArray[np.int64] = self._values.reshape(len(self._values), -1).argmax(axis=1)
        return labels

    @property
    def top(self) -> npt.NDArray[np.int64]:
        """The classes of each input from the likeliest down, of shape (n, k).

        k is the number of classes or, if the model gives out labels only, how many of them its owner gives out.
        """
        flat = self._values.reshape(len(self._values), -1)
        if self._output.kind == "logits":
            return np.argsort(-flat, axis=1, kind="stable")
        ranked = np.argsort(np.where(flat == 0, 256, flat.astype(np.int64)), axis=1, kind="stable")
        return ranked[:, : self._output.top]

    @property
    def names(self) -> list[str]:
        """The likeliest class of each input as text: its name, or its number if the model does not name its classes."""
        return [self.classes[i] if self.classes else str(i) for i in self.labels]

    @classmethod
    def joined(cls, parts: Sequence["Prediction"]) -> "Prediction":
        """Put the predictions of several batches of one model into one. Raises InvalidInput if there are none."""
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
    """How a model did on labelled inputs that nobody else saw.

    - `correct` is how many inputs the model labelled right. It is None if only the owner may learn the number.
    - `total` is how many inputs there were.
    - `accuracy` is `correct` divided by `total`.
    - `for_owner` holds sealed counts that only the owner can open, one for each request. Hand them on to the owner, who
      opens them with `moiety count`.
    - `prediction` is what the model said about each input, and `right` whether that was its label, an array of n
      booleans. Both are None if the model does not give out predictions.
    - `rounds`, `online_bytes` and `seconds` are what the evaluation cost, as in `Prediction`.
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
        """The part of the inputs that the model labelled right, or None if only the owner may learn it."""
        return None if self.correct is None else self.correct / self.total

    def __str__(self) -> str:
        if self.correct is None:
            return f"{self.total} inputs; how many were labelled right is for the owner to read"
        return f"{self.correct} of {self.total} right ({self.correct / self.total:.2%})"
