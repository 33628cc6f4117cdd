"""Trees as matrices: every leaf of a tree is a box of cells, and a row is in a leaf if it is in each column's cells.

The client says of each column in which of its cells a value lies: between which edges, or which category, or missing.
So whether one column meets a leaf's condition is a sum of the client's bits, and the number of conditions that are not
met is one row of a matrix. It is 0 for the leaf that the row reaches, and less for all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tabular.boundaries import boundaries
from moiety_server.compiler.tabular.ensembles import EQ, GT, GTE, LEQ, LT, MEMBER, NEQ, Ensemble
from moiety_server.compiler.tabular.features import Feature, Features
from moiety_server.compiler.tabular.sheet import Array, Sheet
from moiety_shared.messages.table import Tabular

_PADDED = 256  # the number of leaves that everybody learns is a multiple of this
_MOST_PRODUCTS = 64_000_000  # of one row; each takes 4 bytes of a party's memory
_MOST_CONDITIONS = 1023  # of a leaf: a table's index has at most 10 bits


@dataclass(frozen=True)
class Boxes:
    """`conditions` (leaves, elements) times a row, plus `bias` (leaves,), is 0 for a leaf that the row reaches. For
    another one it is less, but above -2^bits. `values` is (leaves, outputs). `low` and `high` bound each output."""

    conditions: Array
    bias: Array
    bits: int
    values: Array
    low: Array
    high: Array


def cut(trees: Ensemble, features: Features, sheet: Sheet) -> None:
    """Record the edges at which the trees split each column of numbers."""
    for place in np.unique(trees.features):
        feature, nodes = features.each[place], np.flatnonzero(trees.features == place)
        modes = trees.modes[nodes]
        if np.isnan(feature.points).any() and (modes == NEQ).any():
            raise NotServable("asks whether a value differs, where it may be missing: frameworks do not agree on that")
        if feature.is_category:
            continue
        members = [trees.members[node] for node in nodes[modes == MEMBER]]
        at, below = (
            np.unique(np.concatenate([trees.thresholds[nodes[np.isin(modes, kinds)]], *members]))
            for kinds in ((LEQ, GT, EQ, NEQ), (LT, GTE, EQ, NEQ))
        )
        for holds, thresholds in ((np.less_equal, at), (np.less, below)):
            sheet.cut(feature.column, boundaries(feature, sheet.rule.precision, holds, thresholds))


class _Cells:
    """The cells of the columns that the trees split, joined: of bins each bin, of categories each one and an unknown
    one; then a missing value, if the column has a flag."""

    def __init__(self, trees: Ensemble, features: Features, sheet: Sheet, table: Tabular) -> None:
        used = {int(place): features.each[place] for place in np.unique(trees.features)}
        first = np.cumsum([0, *(column.size for column in table.columns)])
        self.parts: dict[int, slice] = {}  # the cells of each column
        self.bases: dict[int, int] = {}  # the cell in which all elements of the column are 0
        elements, present = [], []
        at = 0
        for column in sorted({feature.column for feature in used.values()}):
            told = table.columns[column]
            flag = int(told.missing == "flag")
            own = told.size - flag
            base = at + own if told.kind == "category" else at
            # Element i is 1 in the cells from its own on: it adds what a cell has more than the one before it.
            steps = [(at + i, base) if told.kind == "category" else (at + i + 1, at + i) for i in range(own)]
            steps += [(at + own + 1, base)] * flag
            elements += [(int(first[column]) + i, *step, len(self.parts)) for i, step in enumerate(steps)]
            self.parts[column], self.bases[column] = slice(at, at + own + 1 + flag), base
            present += [*[True] * own, told.kind != "category" or sheet.takes_unknown(column), *[True] * flag]
            at += own + 1 + flag
        self.present = np.array(present, dtype=bool)
        self.elements = np.array(elements, dtype=np.int64).reshape(-1, 4)
        self.values = {place: self._values(feature, sheet) for place, feature in used.items()}
        self.columns = {place: feature.column for place, feature in used.items()}

    def _values(self, feature: Feature, sheet: Sheet) -> Array:
        """Return the feature's value in each cell of its column."""
        if feature.is_category:
            return feature.points
        edges = sheet.edges(feature.column)
        inside = sheet.rule.inside(edges).astype(sheet.rule.precision)
        return np.concatenate([feature.of(inside), feature.points])


def boxes(trees: Ensemble, features: Features, sheet: Sheet, table: Tabular) -> Boxes:
    """Return the leaves that some row can reach, padded to a number that says little.

    Raises NotServable where the matrix would be too large.
    """
    leaves = len(trees.values)
    if (leaves + _PADDED) * table.size > _MOST_PRODUCTS:
        raise NotServable(
            f"has {leaves:,} leaves, and the client sends {table.size:,} bits a row: more than the "
            f"{_MOST_PRODUCTS // 10**6} million products that are served. Instead: train on 64 bins a column "
            "(max_bin=63, or KBinsDiscretizer), or with fewer leaves (max_leaf_nodes)"
        )
    cells = _Cells(trees, features, sheet, table)
    reached = list(_walk(trees, cells))
    masks = np.array([mask for _, _, mask in reached], dtype=bool).reshape(len(reached), len(cells.present))
    conditions, bias, most = _counts(masks, cells, table.size)
    if most > _MOST_CONDITIONS:
        raise NotServable(f"has a leaf with conditions on {most:,} columns, where {_MOST_CONDITIONS:,} are served")
    values = trees.values[[leaf for _, leaf, _ in reached]]
    starts = np.unique([tree for tree, _, _ in reached], return_index=True)[1]
    low, high = (np.add.reduce(f.reduceat(values, starts), axis=0) + trees.base for f in (np.minimum, np.maximum))
    padding = -len(values) % _PADDED
    return Boxes(
        np.pad(conditions, ((0, padding), (0, 0))),
        np.pad(bias, (0, padding), constant_values=-1),  # no row reaches these
        max(int(most).bit_length(), 2),
        np.pad(values, ((0, padding), (0, 0))),
        low,
        high,
    )


def _walk(trees: Ensemble, cells: _Cells) -> Iterator[tuple[int, int, Array]]:
    """Yield (tree, leaf, the cells of a row that reaches it) for each leaf that some row reaches."""
    now = cells.present.copy()
    for number, root in enumerate(trees.roots.tolist()):
        pending: list[tuple[int | None, slice, Array]] = [(root, slice(0, 0), now[:0])]
        while pending:
            place, part, mask = pending.pop()
            now[part] = mask
            if place is None:  # both sides of a node are done: its column is as it was before
                continue
            if place < 0:
                yield number, -1 - place, now.copy()
                continue
            feature = int(trees.features[place])
            part = cells.parts[cells.columns[feature]]
            before, holds = now[part].copy(), trees.holds(place, cells.values[feature])
            true, false = trees.children[place].tolist()
            pending.append((None, part, before))
            pending += [
                (child, part, mask) for child, mask in ((false, before & ~holds), (true, before & holds)) if mask.any()
            ]


def _counts(masks: Array, cells: _Cells, size: int) -> tuple[Array, Array, int]:
    """Return (leaves, elements) int8, (leaves,), and the most conditions of a leaf."""
    conditions, bias = np.zeros((len(masks), size), dtype=np.int8), np.zeros(len(masks), dtype=np.int64)
    limited = (
        np.stack([(masks[:, part] != cells.present[part]).any(axis=1) for part in cells.parts.values()], axis=1)
        if cells.parts
        else np.zeros((len(masks), 0), dtype=bool)
    )
    if len(cells.elements):
        element, cell, before, column = cells.elements.T
        differing = masks[:, cell].astype(np.int8) - masks[:, before].astype(np.int8)
        conditions[:, element] = differing * limited[:, column]
        bias = (masks[:, list(cells.bases.values())] & limited).sum(axis=1) - limited.sum(axis=1)
    return conditions, bias, int(limited.sum(axis=1).max(initial=0))
