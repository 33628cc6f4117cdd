"""Which numbers lie in a model's range, and what to say of those that do not."""

from typing import Any

import numpy as np
import numpy.typing as npt

from moiety_client.errors import InvalidInput
from moiety_shared import fixed_point
from moiety_shared.messages.catalogue import Entry, Preprocessing
from moiety_shared.plan.plan import Input

_SINGLE = 4  # bytes of a single precision number
_WHITE = 255


def forgiven(array: npt.NDArray[Any], given: Any, takes: Input) -> npt.NDArray[Any]:
    """Move to an end of the model's range what only its own type's rounding took out of it."""
    if array.dtype.kind != "f" or array.dtype.itemsize > _SINGLE:
        return array
    real = array.astype(np.float64)
    ends = [float(_in_type_of(given, array, end)) for end in (takes.low, takes.high)]
    inside = fixed_point.clipped(real, takes.low, takes.high, *ends)
    return array if np.array_equal(inside, real, equal_nan=True) else inside


def _in_type_of(given: Any, array: npt.NDArray[Any], end: float) -> Any:
    """Round an end of a range to the type of the values."""
    if hasattr(given, "new_tensor"):  # torch has a type bfloat16, and numpy has none
        return given.new_tensor(end)
    with np.errstate(over="ignore"):
        return array.dtype.type(end)


def check(entry: Entry, array: npt.NDArray[Any], start: int) -> None:
    """Raise InvalidInput if a value of the inputs (n, values) is outside of the model's range, or no number."""
    takes = entry.plan.input
    array = array.astype(np.float64, copy=False)
    grace = 0.5 * 2.0**-takes.frac_bits
    inside = (array >= takes.low - grace) & (array <= takes.high + grace)
    if inside.all():
        return
    rows = np.flatnonzero(~inside.all(axis=1))
    at = int(np.flatnonzero(~inside[rows[0]])[0])
    value = array[rows[0], at].item()
    place = tuple(map(int, np.unravel_index(at, takes.shape)))
    beyond = value - (takes.low if value < takes.low else takes.high) if np.isfinite(value) else None
    side = "is NaN or infinity" if beyond is None else "is below" if beyond < 0 else "is above"
    text = f"row {rows[0] + start}, place {place if len(place) > 1 else at} {side}"
    if beyond is not None:
        text += f" the model's range {takes.low:g} to {takes.high:g}"
    more = f" (and {len(rows) - 1} more rows)" if len(rows) > 1 else ""
    raise InvalidInput(
        f"{text}{more}: {_advice(entry, array)}", rows=(rows + start).tolist(), column=place, value=value, beyond=beyond
    )


def _advice(entry: Entry, array: npt.NDArray[Any]) -> str:
    """Say what to do about values out of the range. Whole numbers up to 255 are pixels that lost their type."""
    if (
        isinstance(entry.preprocessing, Preprocessing)
        and ((array >= 0) & (array <= _WHITE) & (np.rint(array) == array)).all()
    ):
        return "these look like pixels from 0 to 255: pass them as uint8, and the client scales them"
    return "bring the input into the model's range"
