"""What an owner should know of a compiled model before anybody may ask it: how often it is right on the calibration
rows, which of them its rounding may decide, and what its answers tell of its weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from moiety_server.calibration import numbers_of
from moiety_server.compiler.compilation import Compiled, outputs_of
from moiety_server.compiler.ir import NotServable
from moiety_server.source import ModelSource
from moiety_shared.fixed_point import finish
from moiety_shared.plan.layers import Bias, Conv, Linear, Open, Reshare
from moiety_shared.plan.local import Local
from moiety_shared.plan.lookups import Truncate
from moiety_shared.plan.plan import Output

Array = npt.NDArray[Any]
_LINEAR = (Open, Linear, Conv, Bias, Reshare, Truncate, Local)


@dataclass(frozen=True)
class Assessment:
    """A model on its `rows` calibration rows.

    `accuracy` is the part of the rows whose label is the target's, and `mean_error` the mean distance of a value from
    the target, in its own unit; None without a target. `close` is how many rows are so near the threshold, or have two
    classes so near each other, that the plan's error may give another label than the model; None for values.
    """

    rows: int
    accuracy: float | None
    mean_error: float | None
    close: int | None


def assess(source: ModelSource, compiled: Compiled) -> Assessment:
    """Run the plan on the calibration rows. Raises NotServable for a target that has other values than the model."""
    rows, output = source.calibration, compiled.logits.output
    assert isinstance(rows, Tensor)  # noqa: S101  of a table, which is one input
    got = outputs_of(compiled, rows).reshape(len(rows), -1)
    accuracy = mean_error = None
    if source.target is not None and output.task == "values":
        mean_error = float(np.abs(finish(output.final, got) - _values(source.target, got.shape[1])).mean())
    elif source.target is not None:
        accuracy = float((_labels(output, got) == _places(source.target, source.classes, output)).mean())
    return Assessment(len(got), accuracy, mean_error, _close(output, got, compiled.error))


def _labels(output: Output, got: Array) -> Array:
    """Return each row's class, as its place among the classes."""
    found: Array = (got[:, 0] > output.threshold).astype(int) if output.task == "binary" else got.argmax(axis=1)
    return found


def _close(output: Output, got: Array, error: float) -> int | None:
    if output.task == "values":
        return None
    if output.task == "binary":
        return int((np.abs(got[:, 0] - output.threshold) <= error).sum())
    best = np.sort(got, axis=1)[:, -2:]
    return int((best[:, 1] - best[:, 0] <= 2 * error).sum())


def _values(target: Array, size: int) -> Array:
    """Return the target's numbers, (rows, 1)."""
    numbers = numbers_of(target)
    if numbers is None or size != 1:
        holds = "holds texts" if numbers is None else "is one column"
        gives = "values" if numbers is None else f"{size} values a row"
        raise NotServable(
            f"the target: {holds}, and the model gives {gives}. Instead: take no --target, or state --task"
        )
    return np.array(numbers)[:, None]


def _places(target: Array, classes: tuple[str, ...], output: Output) -> Array:
    """Return the places of the target's labels among the classes. A label is a class's name, or spells its number."""
    names = classes or tuple(str(place) for place in range(2 if output.task == "binary" else output.size))
    known = {name: place for place, name in enumerate(names)}
    numbers = numbers_of(names)
    by_number = {} if numbers is None else {number: place for place, number in enumerate(numbers)}
    places = [known.get(text, _numbered(text, by_number)) for text in target]
    if None in places:
        raise NotServable(
            f"the target: has in row {places.index(None)} none of the classes {', '.join(names[:6])}. Instead: take no "
            "--target, or give the file the model's labels"
        )
    return np.array(places)


def _numbered(text: str, by_number: dict[float, int]) -> int | None:
    numbers = numbers_of([text])
    return None if numbers is None else by_number.get(numbers[0])


def is_linear(compiled: Compiled) -> bool:
    """Whether clients get outputs that are a matrix times their inputs, clamped or not, plus a constant."""
    layers = [layer for layer in compiled.plan.layers if layer.name not in compiled.clamp]
    return compiled.plan.output.kind == "logits" and all(isinstance(layer, _LINEAR) for layer in layers)


def sentences(source: ModelSource, compiled: Compiled, found: Assessment) -> Iterator[str]:
    """Say what was found, and what clients and everybody can learn of the model."""
    if found.accuracy is not None:
        yield f"{found.accuracy:.2%} of the {found.rows:,} calibration rows get the target's label."
    if found.mean_error is not None:
        yield f"On the {found.rows:,} calibration rows a value is {found.mean_error:.4g} from the target in the mean."
    if found.close:
        yield (
            f"{found.close:,} of {found.rows:,} calibration rows are so near another class that the error of "
            f"{compiled.error:.2g} may decide: they may get another label than the model gives."
        )
    if is_linear(compiled):
        size = compiled.plan.input.size
        yield (
            f"A linear model that gives its outputs is solved from {size + 1:,} answers ({size:,} elements and a "
            "constant): consider --reveal decision or labels, and quotas (moiety token issue --rows-per-day)."
        )
    yield from source.tells
