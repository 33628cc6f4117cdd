"""What flows through a file before its first function that is not affine: features, each a sum of a table's atoms.

Trees compare numbers to the last bit, so a feature of one column also knows how the file makes it: step by step, in
the file's own precision.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.sheet import MOST_WEIGHTS, Array, Atom, Sheet

Step = Callable[[Array], Array]


def cast(dtype: Any) -> Step:
    return lambda x: x.astype(dtype)


@dataclass(frozen=True)
class Feature:
    """A feature that comes from one column.

    `steps` are what the file applies to the column's numbers, one after the other. Each keeps the order of any two
    numbers, or turns it round. `points` are the values that the feature has otherwise, after all steps: of a column of
    categories for each of them, then for an unknown one; and then, of a flagged column, for a missing one.

    Its value is also the sum of `terms`, each an atom times a factor, and `constant`.
    """

    column: int
    steps: tuple[Step, ...]
    points: Array
    terms: Mapping[Atom, float]
    constant: float = 0.0

    @property
    def is_category(self) -> bool:
        """Whether the column is one of categories. It then has a point for an unknown one besides."""
        return len(self.points) > 1

    def of(self, numbers: Array) -> Array:
        """Compute the feature of numbers of its column."""
        with np.errstate(all="ignore"):
            for step in self.steps:
                numbers = step(numbers)
        return numbers

    def after(self, step: Step, factor: float, constant: float) -> "Feature":
        """Return the feature times `factor`, plus `constant`, which `step` computes as the file does."""
        with np.errstate(all="ignore"):
            points = step(self.points)
        terms = {atom: value * factor for atom, value in self.terms.items()}
        return Feature(self.column, (*self.steps, step), points, terms, self.constant * factor + constant)

    def filled(self, value: float) -> "Feature":
        """Return the feature with a value where it is missing."""
        if not len(self.points) or not np.isnan(self.points[-1]):
            return self
        points = self.points.copy()
        points[-1] = value
        terms = {**self.terms, Atom(self.column, "missing"): float(points[-1]) - self.constant}
        return replace(self, points=points, terms=terms)


@dataclass(frozen=True)
class Raw:
    """Columns as they stand, (n, columns). The file has not yet said whether they are numbers or categories. `dtypes`
    are those of numbers; texts have none. `whole` says that the file cut numbers to whole ones."""

    columns: tuple[int, ...]
    dtypes: tuple[Any, ...]
    whole: bool = False

    def __len__(self) -> int:
        return len(self.columns)

    def picked(self, places: Sequence[int]) -> "Raw":
        return replace(
            self, columns=tuple(self.columns[i] for i in places), dtypes=tuple(self.dtypes[i] for i in places)
        )

    def features(self, sheet: Sheet) -> "Features":
        """Return the columns as numbers."""
        if None in self.dtypes:
            name = sheet.name(self.columns[self.dtypes.index(None)])
            raise NotServable(f"takes the texts of the column {name} for numbers. Instead: encode them first")
        if self.whole and any(np.issubdtype(dtype, np.floating) for dtype in self.dtypes):
            raise NotServable("cuts numbers to whole ones. Instead: export the column as whole numbers")
        return Features(tuple(map(self._feature, self.columns, self.dtypes, [sheet] * len(self.columns))))

    def _feature(self, column: int, dtype: Any, sheet: Sheet) -> Feature:
        points = np.full(int(sheet.flagged(column)), np.nan, dtype=np.result_type(dtype, np.float32))
        return Feature(column, (cast(dtype),), points, {Atom(column, "number"): 1.0})


@dataclass(frozen=True)
class Features:
    """An (n, features) tensor, each of whose features comes from one column. Where `nested` is not 0, the tensor is
    (n, nested, features / nested), as OneHotEncoder leaves it."""

    each: tuple[Feature, ...]
    nested: int = 0

    def __len__(self) -> int:
        return len(self.each)

    def picked(self, places: Sequence[int]) -> "Features":
        return Features(tuple(self.each[i] for i in places), self.nested)

    def mixed(self, sheet: Sheet) -> "Mixed":
        """Return the features as a matrix over all atoms. Raises NotServable where a missing value has no number."""
        for feature in self.each:
            if np.isnan(feature.points).any():
                what = "a missing value" if len(feature.points) == 1 else "a value without a number"
                raise NotServable(
                    f"gets {what} of the column {sheet.name(feature.column)}. Instead: fill missing values first "
                    "(SimpleImputer), or declare that the column has none"
                )
        placed = [{sheet.place(atom): factor for atom, factor in feature.terms.items()} for feature in self.each]
        if len(placed) * len(sheet.atoms) > MOST_WEIGHTS:
            raise NotServable(f"has {len(placed):,} features of {len(sheet.atoms):,} values, more than are served")
        matrix = np.zeros((len(placed), len(sheet.atoms)))
        for row, terms in zip(matrix, placed, strict=True):
            row[list(terms)] = list(terms.values())
        return Mixed(matrix, np.array([feature.constant for feature in self.each]))


@dataclass(frozen=True)
class Mixed:
    """An (n, features) tensor: `matrix` (features, atoms) times the atoms, plus `constant` (features,), in float64. It
    has as many atoms as were known when it was made."""

    matrix: Array = field(repr=False)
    constant: Array = field(repr=False)

    def __len__(self) -> int:
        return len(self.constant)

    def over(self, atoms: int) -> Array:
        """Return the matrix over so many atoms."""
        return np.pad(self.matrix, ((0, 0), (0, atoms - self.matrix.shape[1])))

    def through(self, weight: Array, bias: Array | float = 0.0) -> "Mixed":
        """Return weight (out, features) times the features, plus the bias."""
        with np.errstate(all="ignore"):
            return Mixed(weight @ self.matrix, weight @ self.constant + bias)

    def picked(self, places: Sequence[int]) -> "Mixed":
        return Mixed(self.matrix[list(places)], self.constant[list(places)])

    def plus(self, other: "Mixed", factor: float = 1.0) -> "Mixed":
        most = max(self.matrix.shape[1], other.matrix.shape[1])
        return Mixed(self.over(most) + factor * other.over(most), self.constant + factor * other.constant)


Affine = Raw | Features | Mixed
"""A tensor that is affine in what the client sends."""
