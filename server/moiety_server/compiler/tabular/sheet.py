"""The columns of a table while a model is read: what the file does with each, and where its elements lie.

A feature of a model is a sum of atoms. An atom is a column's number as it stands, a bit that says whether it is above
an edge, a bit that says whether it is a category, or a bit that says whether it is missing. What the file does with a
column decides what the client sends of it. So a file is read twice: the first time collects, the second one builds.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_server.compiler.tabular.edges import Rule
from moiety_shared.messages.table import Category, Column, Tabular

Array = np.ndarray[Any, Any]
Use = Literal["number", "bins", "category"]
MOST_WEIGHTS = 1 << 26  # of all features together, once they are mixed
_MOST_VALUES = 1 << 16  # edges or categories of one column: a table's own limit


class Atom(NamedTuple):
    """One term of a feature. `detail` is an edge, or the place of a category."""

    column: int
    kind: Literal["number", "above", "category", "missing"]
    detail: float = 0.0


class Sheet:
    """The columns, in the order of the file's inputs, as the owner declares them and as the file uses them."""

    def __init__(self, given: Sequence[Column], rule: Rule) -> None:
        self.given = tuple(given)
        self.rule = rule
        self.atoms: dict[Atom, int] = {}
        self._use: dict[int, Use] = {}
        self._categories: dict[int, tuple[Category, ...]] = {}
        self._strict: set[int] = set()
        self._edges: dict[int, set[float]] = {}

    def name(self, column: int) -> str:
        return shown(self.given[column].name)

    def flagged(self, column: int) -> bool:
        """Whether the client says that a value of the column is missing."""
        return self.given[column].missing == "flag"

    def place(self, atom: Atom) -> int:
        """Return the atom's place in the matrices of this table."""
        if atom.kind == "number":
            self._take(atom.column, "number")
        return self.atoms.setdefault(atom, len(self.atoms))

    def cut(self, column: int, edges: Iterable[float]) -> None:
        """Record edges at which the model tells the column's numbers apart."""
        self._take(column, "bins")
        known = self._edges.setdefault(column, set())
        known.update(map(float, edges))
        self._check_number(column, len(known))

    def sort(self, column: int, categories: Sequence[Category], zeros: bool) -> tuple[Category, ...]:
        """Record categories that one operator tells apart. `zeros` says that it lets others in. Returns all that the
        column has."""
        self._take(column, "category")
        joined = tuple(dict.fromkeys((*self._categories.get(column, ()), *categories)))
        self._check_number(column, len(joined))
        self._categories[column] = joined
        if not zeros:
            self._strict.add(column)
        return joined

    def categories(self, column: int) -> tuple[Category, ...]:
        return self._categories[column]

    def takes_unknown(self, column: int) -> bool:
        """Whether a category that the model does not know is let in, as zeros."""
        return column not in self._strict

    def use(self, column: int) -> Use:
        """What the client sends of the column. One that nothing reads is sent as a number among numbers, as bins among
        bins, and as the categories that it is declared with, so that it looks like any other."""
        if column not in self._use and self.given[column].kind == "category":
            return "category"
        return self._use.get(column) or ("bins" if "bins" in self._use.values() else "number")

    def _take(self, column: int, use: Use) -> None:
        known = self._use.setdefault(column, use)
        if known == use:
            return
        if "category" in (use, known):
            raise NotServable(f"takes the column {self.name(column)} for a {use}, and another part for a {known}")
        raise NotServable(
            f"gets the column {self.name(column)}, which trees compare, and a linear part multiplies. Instead: publish "
            "the two as models of their own"
        )

    def _check_number(self, column: int, count: int) -> None:
        if count > _MOST_VALUES:
            raise NotServable(f"tells more than {_MOST_VALUES:,} values of the column {self.name(column)} apart")

    # What the client sends.

    def edges(self, column: int) -> Array:
        """Return the rising edges of a column that is sent as bins."""
        return self.rule.edges(self.given[column], np.array(sorted(self._edges.get(column, ()))))

    def table(self) -> Tabular:
        """Return the columns as the client is told of them."""
        return Tabular(columns=tuple(map(self._column, range(len(self.given)))), precision=self.rule.precision)

    def _column(self, column: int) -> Column:
        given, use = self.given[column], self.use(column)
        told: dict[str, Any] = {"name": given.name, "kind": use, "missing": given.missing, "fill": given.fill}
        told |= {"unit": given.unit, "description": given.description}
        if use == "category" and column not in self._use:
            return Column(categories=given.categories, unknown=given.unknown, **told)
        if use == "category":
            unknown = "zeros" if self.takes_unknown(column) else "refuse"
            return Column(categories=self.categories(column), unknown=unknown, **told)
        told |= {"low": given.low, "high": given.high, "outside": given.outside}
        if use == "bins":
            return Column(edges=tuple(map(float, self.edges(column))), **told)
        if given.low is None:
            raise NotServable(
                f"the column {self.name(column)} has no range. Instead: declare its lowest and highest value"
            )
        return Column(**told)

    def expanded(self, weight: Array, bias: Array, table: Tabular) -> tuple[Array, Array]:
        """Return a matrix (out, atoms) and a constant (out,) as (out, elements) and (out,) of the client's elements."""
        if len(weight) * table.size > MOST_WEIGHTS:
            raise NotServable(f"makes {len(weight):,} features of {table.size:,} values, more than are served")
        matrix, constant = np.zeros((len(weight), table.size)), bias.copy()
        starts = np.cumsum([0, *(column.size for column in table.columns)])
        for atom, row in self.atoms.items():
            column, at = table.columns[atom.column], int(starts[atom.column])
            last = at + column.size - 1
            match atom.kind:
                case "number":  # a missing one has 0 in its element, and is to be 0 itself
                    low, high = column.low or 0.0, column.high or 0.0
                    matrix[:, at] += weight[:, row] * (high - low) / 2
                    constant += weight[:, row] * (high + low) / 2
                    if column.missing == "flag":
                        matrix[:, last] -= weight[:, row] * (high + low) / 2
                case "above":
                    matrix[:, at + column.edges.index(atom.detail)] += weight[:, row]
                case "category":
                    matrix[:, at + int(atom.detail)] += weight[:, row]
                case "missing":
                    matrix[:, last] += weight[:, row]
        return matrix, constant
