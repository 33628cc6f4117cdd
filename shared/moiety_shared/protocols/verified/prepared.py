"""Rows of what a party prepared: cut out of a bundle, and joined with those of others, as runs need them.

The first axis of an array is the row; of words it is the second, behind the limbs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from moiety_shared.protocols.verified.answers import ClientKeys, RowKeys
from moiety_shared.protocols.verified.graph import PreparedRun
from moiety_shared.protocols.verified.product import PreparedVerified
from moiety_shared.protocols.verified.wires import Authentic
from moiety_shared.ring import Array

_WORDS = (Authentic, PreparedVerified)
"""What holds words alone."""


def rows_of(run: PreparedRun, start: int, stop: int) -> PreparedRun:
    """Return views of rows start to stop - 1."""
    rows = slice(start, stop)

    def of(arrays: Sequence[Array], axis: int) -> Array:
        return arrays[0][:, rows] if axis else arrays[0][rows]

    layers = {name: _mapped([layer], of) for name, layer in run.layers.items()}
    keys = ClientKeys(*(each[rows] for each in run.keys))
    return PreparedRun(run.inputs[rows], layers, run.verdicts[rows], run.masks[rows], keys)


def joined(parts: Sequence[PreparedRun]) -> PreparedRun:
    """Join rows of several bundles. Copies them, unless there is only one part."""
    if len(parts) == 1:
        return parts[0]
    layers = {name: _mapped([part.layers[name] for part in parts], np.concatenate) for name in parts[0].layers}
    return PreparedRun(
        np.concatenate([part.inputs for part in parts]),
        layers,
        [verdict for part in parts for verdict in part.verdicts],
        [mask for part in parts for mask in part.masks],
        ClientKeys(*(_keys(each) for each in zip(*(part.keys for part in parts), strict=True))),
    )


def _keys(parts: Sequence[RowKeys]) -> RowKeys:
    return RowKeys(tuple(key for part in parts for key in part.keys), parts[0].of)


def _mapped(parts: Sequence[Any], make: Callable[[Sequence[Array], int], Array], axis: int = 0) -> Any:
    """What is made, array by array, of what a layer prepared for several bundles. All parts are of one form."""
    first = parts[0]
    if isinstance(first, np.ndarray):
        return make(parts, axis)
    if not isinstance(first, tuple):  # how many bits words have, or that a layer has nothing to prepare
        return first
    inside = int(isinstance(first, _WORDS))
    return type(first)(*(_mapped(each, make, inside) for each in zip(*parts, strict=True)))
