"""Finds the number at which a feature's comparison turns, to the last bit.

A file scales a column and then compares it, each in its own precision. Steps keep the order of numbers, so the
comparison turns once, and halving the numbers of a precision finds where: 32 or 64 times, whatever the steps are.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from moiety_server.compiler.tabular.features import Feature
from moiety_server.compiler.tabular.sheet import Array

_KINDS: dict[str, tuple[Any, Any, int]] = {
    "float32": (np.float32, np.int32, 0x7FFFFFFF),
    "float64": (np.float64, np.int64, 0x7FFFFFFFFFFFFFFF),
}


def boundaries(
    feature: Feature, precision: Literal["float32", "float64"], compare: Callable[[Array, Array], Array], to: Array
) -> Array:
    """Return the last number before each comparison of the feature with one of `to` turns, as float64. Of one that
    never turns there is nothing."""
    _, whole, flip = _KINDS[precision]
    count = len(to)
    largest = int(_number(np.array(np.finfo(precision).max), whole, flip))
    low, high = np.full(count, -largest - 1), np.full(count, largest)
    first, last = (compare(feature.of(_float(end, precision)), to) for end in (low, high))
    for _ in range(np.dtype(precision).itemsize * 8):
        middle = (low & high) + ((low ^ high) >> 1)  # their mean, without a sum that would overflow
        same = compare(feature.of(_float(middle, precision)), to) == first
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    turns: Array = _float(low, precision)[first != last].astype(np.float64)
    return turns


def boundary(feature: Feature, precision: Literal["float32", "float64"]) -> tuple[float, bool, bool]:
    """Return the last number before a feature becomes positive or ceases to be, and whether it is up to there, and from
    there."""
    largest = float(np.finfo(precision).max)
    ends = np.array([-largest, largest], dtype=precision)
    first, last = (feature.of(ends) > 0).tolist()
    found = boundaries(feature, precision, np.greater, np.zeros(1))
    return float(found[0]) if len(found) else 0.0, first, last


def _number(numbers: Array, whole: Any, flip: int) -> Array:
    """Return whole numbers in the order of the floats."""
    bits = numbers.view(whole)
    found: Array = np.where(bits < 0, bits ^ whole(flip), bits)
    return found


def _float(numbers: Array, precision: str) -> Array:
    """Return the floats of whole numbers that are in their order."""
    kind, whole, flip = _KINDS[precision]
    bits = numbers.astype(whole)
    found: Array = np.where(bits < 0, bits ^ whole(flip), bits).view(kind)
    return found
