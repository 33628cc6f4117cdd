"""How a row of a table becomes a model's input, as the model's owner declares it. All of it is public."""

import math
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, FailFast, Field, model_validator

from moiety_shared.plan.layers import MAX_ELEMENTS, Public
from moiety_shared.text import printable


def _readable(text: str) -> str:
    """Return the text. Raises ValueError if a terminal would obey a part of it."""
    if text != printable(text):
        raise ValueError("a text has line ends or control characters")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(_readable)]
Category = (
    Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)] | Annotated[str, Field(strict=True, max_length=200)]
)


class Column(Public):
    """One column of a table.

    number: one element, (x - middle) / half of the range `low` to `high`, so it is between -1 and 1.

    bins: one element for each of the rising `edges`, 1 where x is greater than the edge, else 0.

    category: one element for each of the `categories`, 1 where x is that one, else 0.

    A value outside of `low` to `high` is refused, or clipped to the nearer end. An unknown category is refused, or has
    zeros only. A missing value is refused; or one more element, the last, is 1 where it is missing and the others are 0
    ("flag"); or `fill` stands in for it ("fill"), which makes that value public.
    """

    name: Annotated[Text, Field(min_length=1)]
    kind: Literal["number", "bins", "category"]
    low: float | None = None
    high: float | None = None
    outside: Literal["refuse", "clip"] = "refuse"
    edges: Annotated[tuple[float, ...], Field(max_length=1 << 16), FailFast()] = ()
    categories: Annotated[tuple[Category, ...], Field(max_length=1 << 16), FailFast()] = ()
    unknown: Literal["refuse", "zeros"] = "refuse"
    missing: Literal["refuse", "flag", "fill"] = "refuse"
    fill: float | Category | None = None
    unit: Text = ""
    description: Text = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"column {self.name!r} has one end of a range")
        if self.low is not None and self.high is not None and not self.high / 2 - self.low / 2 > 0:
            raise ValueError(f"the range of column {self.name!r} is empty")
        if self.kind == "number" and self.low is None:
            raise ValueError(f"column {self.name!r} is a number and has no range")
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if (self.kind == "bins") != bool(self.edges) or not rising or not all(map(math.isfinite, self.edges)):
            raise ValueError(f"bins have finite edges that rise, and nothing else has; see column {self.name!r}")
        if (self.kind == "category") != bool(self.categories) or len(set(self.categories)) < len(self.categories):
            raise ValueError(f"a category has different categories, and nothing else has; see column {self.name!r}")
        for category in self.categories:
            _readable(str(category))
        if (self.missing == "fill") != (self.fill is not None):
            raise ValueError(f"column {self.name!r} has a value for missing ones, or says otherwise what they are")
        if self.fill is not None and not self._takes(self.fill):
            raise ValueError(f"what stands for missing values of column {self.name!r} is no value that it takes")
        return self

    def _takes(self, value: float | str) -> bool:
        if self.kind == "category":
            return value in self.categories or self.unknown == "zeros"
        low, high = self.range
        return not isinstance(value, str) and low <= value <= high

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value. They are infinite where the column has no range."""
        return (-math.inf if self.low is None else self.low, math.inf if self.high is None else self.high)

    @property
    def size(self) -> int:
        """The number of elements."""
        own = {"number": 1, "bins": len(self.edges), "category": len(self.categories)}[self.kind]
        return own + (self.missing == "flag")


class Tabular(Public):
    """The columns of a model's input, in the order of its elements.

    `precision` is what the training framework compares in: the client rounds numbers to it before it compares them with
    edges. XGBoost and scikit-learn's trees take float32.
    """

    kind: Literal["table"] = "table"
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=1 << 14), FailFast()]
    precision: Literal["float32", "float64"] = "float32"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len({column.name for column in self.columns}) < len(self.columns):
            raise ValueError("two columns have one name")
        if self.size > MAX_ELEMENTS:
            raise ValueError(f"a row has {self.size} elements, more than a plan takes")
        return self

    @property
    def size(self) -> int:
        """The number of elements of one row."""
        return sum(column.size for column in self.columns)
