"""Several inputs as one flat wire, and one flat wire as several outputs. This is the client's side, so it needs numpy
only."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from moiety_shared.fixed_point import NotEncodable, finish
from moiety_shared.plan.plan import InputPart, Output, OutputPart

Part = TypeVar("Part", InputPart, OutputPart)
Floats = npt.NDArray[np.float64]


def spans(parts: Sequence[Part]) -> Iterator[tuple[Part, slice]]:
    """Yield each part with its place on the flat wire."""
    start = 0
    for part in parts:
        stop = start + math.prod(part.shape)
        yield part, slice(start, stop)
        start = stop


def in_units(parts: Sequence[InputPart], values: npt.NDArray[Any], grace: float = 0.0) -> Floats:
    """Map each part's range to -1..1. `values` are (n, all values). A value may be `grace` units outside of its range.

    Raises NotEncodable for NaN, infinity, and any value outside of its part's range. The message names the part.
    """
    units = np.array(values, dtype=np.float64)
    for part, place in spans(parts):
        middle, half = (part.low + part.high) / 2, (part.high - part.low) / 2
        if not np.isfinite(units[:, place]).all():
            raise NotEncodable(f"the input {part.name!r} contains NaN or infinity")
        units[:, place] = (units[:, place] - middle) / half
        if units.size and float(np.abs(units[:, place]).max(initial=0)) > 1 + grace:
            raise NotEncodable(
                f"the input {part.name!r} has values outside the declared range {part.low:g} to {part.high:g}"
            )
    return units


def finish_all(output: Output, logits: Floats) -> Floats:
    """Apply the model's last function to outputs (n, *output shape): of several outputs, to each its own scale and
    function."""
    if not output.parts:
        return finish(output.final, logits)
    done = [
        finish(part.final, part.scale * logits[:, place].reshape(-1, *part.shape)).reshape(len(logits), -1)
        for part, place in spans(output.parts)
    ]
    return np.concatenate(done, axis=1)


def by_name(parts: Sequence[OutputPart], values: Floats) -> Mapping[str, Floats]:
    """Cut flat outputs (n, all values) into the parts, (n, *part shape) each, by name."""
    return {part.name: values[:, place].reshape(-1, *part.shape) for part, place in spans(parts)}
