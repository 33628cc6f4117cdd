"""A model's outputs before the function that the client applies to them, and how files write that function.

A file computes probabilities; a plan gives what precedes them. So the function is not carried out while a file is read,
but noted in an `Outcome`. Whatever else follows is applied to its value.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.features import Affine
from moiety_shared.messages.table import Category
from moiety_shared.plan.plan import Final, Unit

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Outcome:
    """`value` has one column for each output, before `final`. `unit` says what it is where `final` is "none".

    `pair` says that the file's tensor has two columns for the one output: 1 - p and p of a probability, and of a score
    -s and s; where it is `turned`, s and -s. `complement` says that the tensor is 1 - p. `classes` are the labels, if
    this operator names them.
    """

    value: Affine | ir.Node
    final: Final = "none"
    unit: Unit = "logits"
    threshold: float = 0.0
    classes: tuple[Category, ...] = ()
    pair: bool = False
    complement: bool = False
    turned: bool = False

    @property
    def outputs(self) -> int:
        return math.prod(self.value.shape) if isinstance(self.value, ir.Node) else len(self.value)

    @property
    def columns(self) -> int:
        """The number of columns of the file's tensor."""
        return 2 if self.pair else self.outputs

    @property
    def is_plain(self) -> bool:
        """Whether the file's tensor is the value itself."""
        return self.final == "none" and not self.pair and not self.complement

    @property
    def are_probabilities(self) -> bool:
        return self.final in ("softmax", "sigmoid", "ovr") or (self.final == "none" and self.unit == "probabilities")

    def normalised(self, order: str) -> "Outcome":
        """Return the outcome divided by the sum of each row, as Normalizer and LpNormalization do behind a
        classifier."""
        if order == "L1" and self.are_probabilities and not self.complement:
            if self.final != "sigmoid" or self.pair:
                return self  # they add up to one as they are
            if self.outputs > 1:
                return replace(self, final="ovr")
        raise NotServable(f"divides by a norm ({order}) what are no probabilities of classes")

    def picked(self, places: list[int]) -> "Outcome":
        """Return columns of the outcome: of a pair the second one, which is the output itself."""
        if places == list(range(self.columns)):
            return self
        if self.pair and places == [1] and not self.turned:
            return replace(self, pair=False)
        raise NotServable("takes some of a model's outputs. Instead: export all of them")


def mirrored(weight: Array, bias: Array) -> bool:
    """Whether a matrix and a constant give two columns, -s and s, up to the precision of a file."""
    both = np.column_stack([weight, bias])
    return len(both) == 2 and np.allclose(both[0], -both[1], rtol=1e-6, atol=1e-6 * float(np.abs(both).max()))


def transformed(transform: str) -> Final:
    """Return the function that an operator's `post_transform` names."""
    known: dict[str, Final] = {"NONE": "none", "LOGISTIC": "sigmoid", "SOFTMAX": "softmax"}
    if transform not in known:
        raise NotServable(f"ends with the function {transform}. Instead: NONE, LOGISTIC or SOFTMAX")
    return known[transform]
