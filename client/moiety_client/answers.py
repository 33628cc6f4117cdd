"""What the client's calls return: `Prediction` and `Evaluation`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import InvalidInput, LabelsOnly, NoLabels, NoProbabilities
from moiety_client.tables import joined_index
from moiety_shared.fixed_point import finish
from moiety_shared.parts import by_name, finish_all
from moiety_shared.plan.plan import Output

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What a model says about each input, in the order of the inputs. `len()` gives the number of inputs.

    - `labels`, `names`, `top`, `probabilities`, `scores`, `values` and `outputs` are the answers. Which of them there
      are depends on what the model is for, and on what its owner gives out.
    - `output` says what the model's outputs are for, and `given` holds what the parties gave out: the outputs without
      the model's last function, the ranks of classes, or decisions.
    - `classes` holds the names of the model's classes. It is empty if the model does not name them.
    - `rounds` is how often the two parties exchanged messages in one run, as they counted it.
    - `online_bytes` is how many bytes of payload each party sent the other, as they counted it.
    - `seconds` is how long the call took.
    - `index` is the index of the DataFrame that you passed, or None. `frame` uses it.
    """

    output: Output
    given: npt.NDArray[Any] = field(repr=False)
    classes: tuple[str, ...]
    rounds: int
    online_bytes: int
    seconds: float
    index: Any = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.given)

    @cached_property
    def outputs(self) -> Any:
        """The model's outputs, of shape (n, *output shape). Raises LabelsOnly if its owner gives out labels only.

        If the model has several outputs, this is a dictionary of them by name, each of shape (n, *its shape).
        """
        return by_name(self.output.parts, self._finished) if self.output.parts else self._finished

    @property
    def scores(self) -> Numbers:
        """The outputs without the model's last function, such as logits without their softmax.

        They are of shape (n, *output shape), or (n,) of a model with one output. Raises LabelsOnly.
        """
        return self._single(self._numbers)

    @property
    def values(self) -> Numbers:
        """The model's outputs, of shape (n, *output shape), or (n,) of a model with one output. Raises LabelsOnly.

        Several outputs are flattened and joined.
        """
        return self._single(self._finished)

    @cached_property
    def probabilities(self) -> Numbers:
        """The probability of each class, of shape (n, classes). One output that tells two classes apart gives both.

        Raises LabelsOnly if the owner gives out labels only, and NoProbabilities if no function makes probabilities of
        the outputs.
        """
        output, numbers = self.output, self._numbers
        if not output.has_probabilities:
            raise NoProbabilities(
                "this model's outputs are values: read `values`"
                if output.task == "values"
                else "this model's outputs are scores, which are no probabilities: read `scores` or `labels`"
            )
        if output.task == "binary":
            second = np.clip(numbers, 0, 1) if output.unit == "probabilities" else finish("sigmoid", numbers)
            return np.stack([1 - second.reshape(-1), second.reshape(-1)], axis=1)
        is_logits = output.unit == "logits" and output.final in ("none", "log_softmax")
        each = finish("softmax", numbers) if is_logits else self._finished
        return each.reshape(len(each), -1)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """The likeliest class of each input, as an array of n ints.

        Of two classes that one output tells apart, it is 1 where the output is above the model's threshold, else 0.
        Raises NoLabels if the model gives values.
        """
        match self.output.kind, self.output.task:
            case "labels", _:
                return self.top[:, 0]
            case "decision", _:
                return self.given.reshape(-1).astype(np.int64)
            case _, "binary":
                return (self.given.reshape(-1) > self.output.threshold).astype(np.int64)
            case _, "values":
                raise NoLabels("this model gives values and tells no classes apart: read `values`")
        labels: npt.NDArray[np.int64] = self._flat.argmax(axis=1)
        return labels

    @property
    def top(self) -> npt.NDArray[np.int64]:
        """The classes of each input from the likeliest down, of shape (n, k).

        k is the number of classes or, if the model gives out labels only, how many of them its owner gives out. Raises
        NoLabels if the model gives values.
        """
        if self.output.kind == "labels":
            ranks = np.where(self._flat == 0, 256, self._flat.astype(np.int64))
            return np.argsort(ranks, axis=1, kind="stable")[:, : self.output.top]
        if self.output.task == "classes":
            return np.argsort(-self._flat, axis=1, kind="stable")
        first = self.labels
        return np.stack([first, 1 - first], axis=1)

    @property
    def names(self) -> list[str]:
        """The likeliest class of each input as text: its name, or its number if the model does not name its classes.

        Raises NoLabels if the model gives values.
        """
        return [self.name(label) for label in self.labels.tolist()]

    def frame(self) -> Any:
        """The answers as a DataFrame of pandas, with the index of the one that you passed. Needs pandas.

        Its columns are `label` and `probability of CLASS` for each class, where the model has them, or `value`, or one
        for each of several values.
        """
        return import_module("pandas").DataFrame(dict(self._columns()), index=self.index)

    def _columns(self) -> Iterator[tuple[str, Any]]:
        if self.output.task != "values":
            yield "label", self.names
            for at in range(self.output.classes if self.output.has_probabilities else 0):
                yield f"probability of {self.name(at)}", self.probabilities[:, at]
        elif self.output.parts:
            for name, values in self.outputs.items():
                yield from _numbered(name, values.reshape(len(self), -1))
        else:
            yield from _numbered("value", self._finished.reshape(len(self), -1))

    def name(self, label: int) -> str:
        """Return a class's name, or its number as text if the model does not name its classes."""
        return self.classes[label] if self.classes else str(label)

    @property
    def _numbers(self) -> Numbers:
        if self.output.kind != "logits":
            raise LabelsOnly("this model gives only its likeliest classes, not its outputs: read `labels` or `top`")
        return self.given

    @cached_property
    def _finished(self) -> Numbers:
        """The outputs with the model's last function, as one array (n, *output shape)."""
        return finish_all(self.output, self._numbers)

    @property
    def _flat(self) -> npt.NDArray[Any]:
        return self.given.reshape(len(self.given), -1)

    def _single(self, numbers: Numbers) -> Numbers:
        """Drop the axes of the outputs where there is one output."""
        return numbers.reshape(-1) if self.output.size == 1 else numbers

    @classmethod
    def joined(cls, parts: Sequence["Prediction"]) -> "Prediction":
        """Put the predictions of several batches of one model into one. Raises InvalidInput if there are none."""
        if not parts:
            raise InvalidInput("there are no inputs: pass at least one")
        first = parts[0]
        return cls(
            first.output,
            np.concatenate([part.given for part in parts]),
            first.classes,
            max(part.rounds for part in parts),
            sum(part.online_bytes for part in parts),
            sum(part.seconds for part in parts),
            joined_index([part.index for part in parts]),
        )


def _numbered(name: str, values: Numbers) -> Iterator[tuple[str, Numbers]]:
    """Yield each column of values (n, k), with its number if there are several."""
    for at, column in enumerate(values.T):
        yield (name if len(values.T) == 1 else f"{name} {at}"), column


@dataclass(frozen=True)
class Evaluation:
    """How a model did on labelled inputs that nobody else saw.

    - `correct` is how many inputs the model labelled right. It is None if only the owner may learn the number, and of
      a model that gives values.
    - `total` is how many inputs there were.
    - `accuracy` is `correct` divided by `total`.
    - `mean_absolute_error` is how far the values of a model that gives values are from the true ones. It is None of
      any other model.
    - `for_owner` holds sealed counts that only the owner can open, one for each request. Hand them on to the owner, who
      opens them with `moiety count`.
    - `prediction` is what the model said about each input, and `right` whether that was its label, an array of n
      booleans. Both are None if the model does not give out predictions, and `right` of a model that gives values.
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
    mean_absolute_error: float | None = None

    @property
    def accuracy(self) -> float | None:
        """The part of the inputs that the model labelled right, or None where `correct` is."""
        return None if self.correct is None else self.correct / self.total

    def __str__(self) -> str:
        if self.mean_absolute_error is not None:
            return f"{self.total} inputs; values are off by {self.mean_absolute_error:.4g} on average"
        if self.correct is None:
            return f"{self.total} inputs; only the owner can read how many labels were right"
        return f"{self.correct} of {self.total} right ({self.correct / self.total:.2%})"
