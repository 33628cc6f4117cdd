"""Which edges a table's bins have. Everybody learns the edges, so the owner chooses what they tell."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.origin import shown
from moiety_shared.messages.table import Column

Array = np.ndarray[Any, Any]
_MOST = 1 << 12  # edges of a column of a grid: more than any training grid has


@dataclass(frozen=True)
class Rule:
    """own: the model's thresholds. trained: the owner's edges, on which all of the model's thresholds lie. grid: so
    many edges at equal distances over the column's range, whatever the model's thresholds are. `precision` is what the
    client rounds numbers to before it compares them."""

    kind: Literal["own", "trained", "grid"]
    precision: Literal["float32", "float64"]
    count: int = 0

    @classmethod
    def of(cls, text: str, precision: Literal["float32", "float64"]) -> "Rule":
        """Read "own", "trained" or "grid:N"."""
        if text in ("own", "trained"):
            return cls("own" if text == "own" else "trained", precision)
        found = re.fullmatch(r"grid:([0-9]{1,5})", text)
        if not found or not 1 <= int(found[1]) <= _MOST:
            raise NotServable(f"there are no edges {shown(text)}. Instead: own, trained, or grid:N of 1 to {_MOST:,}")
        return cls("grid", precision, int(found[1]))

    @property
    def tells(self) -> str:
        """What everybody learns of a model of trees, as a sentence."""
        match self.kind:
            case "own":
                return (
                    "Everybody learns at which values of each column the trees split, but not which tree, which leaf, "
                    "in what order, or to what effect; to hide the values too, train on a public grid (--edges trained)"
                )
            case "trained":
                return "Everybody learns the grid on which the model was trained, and no more of the trees"
            case "grid":
                return (
                    f"Nobody learns where the trees split; their thresholds were moved to the nearest of {self.count} "
                    "public edges, so some answers are not the model's"
                )

    def edges(self, column: Column, own: Array) -> Array:
        """Return the rising edges of a column whose thresholds in the model are `own`.

        A column that no tree reads has one edge, in the middle of its range, so that it looks like any other.
        """
        low, high = (column.low, column.high) if column.low is not None else (None, None)
        match self.kind:
            case "grid":
                if low is None or high is None:
                    raise NotServable(f"the column {shown(column.name)} has no range to lay a grid over")
                return self.rounded(np.linspace(low, high, self.count + 2)[1:-1])
            case "trained" if column.edges:
                edges = self.rounded(np.array(column.edges))
                before: Array = np.nextafter(edges.astype(self.precision), -np.inf, dtype=self.precision).astype(
                    np.float64
                )
                if np.isin(own, before).all() and not np.isin(own, edges).all():
                    return before  # of a model that asks what is less than an edge
                off = len(np.setdiff1d(own, edges))
                if off:
                    raise NotServable(
                        f"{off:,} thresholds of the column {shown(column.name)} are none of its declared edges. "
                        "Instead: declare the edges on which the model was trained, or --edges own"
                    )
                return edges
            case "trained" if len(own):
                raise NotServable(f"the column {shown(column.name)} has no declared edges, on which it was trained")
        if len(own):
            return own
        return self.rounded(np.array([0.0 if low is None or high is None else (low + high) / 2]))

    def inside(self, edges: Array) -> Array:
        """Return for each bin a number that stands for it when a threshold is compared.

        The model's own edges separate all that it tells apart, so any number will do: the upper end. Of a grid it is
        the middle, which moves a threshold to the nearest edge.
        """
        largest = float(np.finfo(self.precision).max)
        if self.kind != "grid":
            return np.append(edges, largest)
        return np.concatenate([[-largest], (edges[1:] + edges[:-1]) / 2, [largest]])

    def rounded(self, edges: Array) -> Array:
        """Return edges in this precision, rising, as a framework rounds its thresholds."""
        found: Array = np.unique(edges.astype(self.precision).astype(np.float64))
        return found
