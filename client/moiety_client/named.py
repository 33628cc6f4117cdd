"""The inputs of a model that takes several, by name: a dictionary of arrays becomes one flat row for each input."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import InvalidInput
from moiety_shared.parts import spans
from moiety_shared.plan.plan import InputPart

Array = npt.NDArray[Any]


def flat_rows(
    parts: tuple[InputPart, ...],
    given: Mapping[str, Any],
    read: Callable[[Any], Array],
    stacked: Callable[[Array, tuple[int, ...]], Array],
) -> Array:
    """Flatten and join a model's inputs, in the model's order, as floats (n, all values).

    `read` makes an array of one input, and `stacked` gives it the input's shape, with one or a stack of them. Raises
    InvalidInput, whose text never contains a value.
    """
    _check_names([part.name for part in parts], given)
    columns = [_column(part, read(given[part.name]), stacked) for part in parts]
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        counts = ", ".join(f"{len(column)} of {part.name!r}" for part, column in zip(parts, columns, strict=True))
        raise InvalidInput(f"pass as many of each input, not {counts}")
    return np.concatenate(columns, axis=1)


def _column(part: InputPart, array: Array, stacked: Callable[[Array, tuple[int, ...]], Array]) -> Array:
    if array.dtype.kind not in "fiu" or array.dtype == np.uint8:
        raise InvalidInput(f"the input {part.name!r}: pass floats from {part.low:g} to {part.high:g}")
    try:
        found = stacked(array, part.shape)
    except InvalidInput as error:
        raise InvalidInput(f"the input {part.name!r}: {error}") from None
    return found.reshape(len(found), -1).astype(np.float64)


def _check_names(names: list[str], given: Mapping[str, Any]) -> None:
    unknown = [str(name) for name in given if name not in names]
    missing = [name for name in names if name not in given]
    if not missing and not unknown:
        return
    near = {name: difflib.get_close_matches(name, unknown, 1, 0.5) for name in missing}
    said = [f"{name!r}" + (f" (is it {near[name][0]!r}?)" if near[name] else "") for name in missing]
    texts = [f"missing inputs: {', '.join(said)}"] if missing else []
    texts += [f"unknown inputs: {', '.join(map(repr, unknown))}"] if unknown else []
    raise InvalidInput("; ".join(texts) + f"; the model takes {', '.join(map(repr, names))}")


def check_flat(parts: tuple[InputPart, ...], array: Array) -> Array:
    """Return inputs that are flattened and joined already. Raises InvalidInput unless they are (n, all values)."""
    size = [place.stop for _, place in spans(parts)][-1]
    if array.ndim != 2 or array.shape[1] != size or array.dtype.kind != "f":
        names = ", ".join(f"{part.name!r}" for part in parts)
        raise InvalidInput(f"the model takes several inputs: pass a dictionary of {names}")
    return array
