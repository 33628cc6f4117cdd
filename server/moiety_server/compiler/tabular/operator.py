"""One node of a file, as the operators of tables get it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.features import Affine, Features, Mixed, Raw
from moiety_server.compiler.tabular.sheet import Array, Sheet


@dataclass(frozen=True)
class Operator:
    """One node of the file, with its inputs: what is affine in the table, wires, constants, and None where one is left
    out. `builder` appends to the graph what follows a wire."""

    builder: Builder
    sheet: Sheet
    inputs: Sequence[Any]
    attributes: Mapping[str, Any]

    @property
    def x(self) -> Affine:
        """The first input."""
        found = self.inputs[0]
        if not isinstance(found, Affine):
            raise NotServable("follows a function that is not affine, where only a table's columns are prepared")
        return found

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def features(self) -> Features:
        """Return the first input as features of one column each."""
        x = self.x.features(self.sheet) if isinstance(self.x, Raw) else self.x
        if isinstance(x, Mixed):
            raise NotServable("gets sums of several columns. Instead: put it before what adds columns up")
        return x

    @property
    def width(self) -> int:
        """The number of features of the first input."""
        found = self.inputs[0]
        return found.shape[-1] if isinstance(found, ir.Node) else len(self.x)

    def through(self, weight: Array, bias: Array | float = 0.0) -> Mixed | ir.Node:
        """Return weight (out, features) times the first input, plus the bias."""
        if not np.isfinite(weight).all() or not np.isfinite(bias).all():
            raise NotServable("has weights that are NaN or infinite")
        if isinstance(self.inputs[0], ir.Node):
            added = np.array(np.broadcast_to(bias, len(weight)), dtype=np.float64)
            return self.builder.linear(self.inputs[0], torch.from_numpy(weight.copy()), torch.from_numpy(added))
        return mixed(self.x, self.sheet).through(weight, bias)

    def texts(self, name: str) -> list[str]:
        """Return an attribute of texts."""
        return [text.decode(errors="replace") if isinstance(text, bytes) else text for text in self.get(name) or []]

    def numbers(self, name: str, count: int, default: float) -> Array:
        """Return an attribute of one number, or of one for each of `count` features."""
        given = np.array(self.get(name, [default]), dtype=np.float32)
        return spread(given, count)


def mixed(x: Affine, sheet: Sheet) -> Mixed:
    """Return the tensor as a matrix over atoms."""
    x = x.features(sheet) if isinstance(x, Raw) else x
    return x if isinstance(x, Mixed) else x.mixed(sheet)


def spread(values: Array, count: int) -> Array:
    """Broadcast a constant to one number for each feature. Raises NotServable for one that has other axes."""
    if values.size not in (1, count) or values.ndim > 2 or (values.ndim == 2 and values.shape[0] != 1):
        raise NotServable(f"has a constant of shape {values.shape} for {count} features")
    if not np.isfinite(values).all():
        raise NotServable("has a constant that is NaN or infinite")
    return np.broadcast_to(values.reshape(-1), (count,))
