"""What somebody asks on the page: a picture, or a row of a table. It becomes a model's input, and a picture of it."""

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from moiety_client import inputs, polarity, tables
from moiety_client.errors import InvalidInput
from moiety_client.sidecar import pictures
from moiety_client.sidecar.tensors import refused
from moiety_shared.fixed_point import RingArray
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.table import Category, Column, Tabular

_WHITE = 255


class Size(BaseModel):
    height: int
    width: int
    channels: int


class FormField(BaseModel):
    """A column of a table, for the page to make a form of."""

    name: str
    kind: str
    low: float | None
    high: float | None
    refuses: bool = Field(description="whether a number outside of the range is refused; else it is clipped")
    categories: tuple[Category, ...]
    may_be_missing: bool
    unit: str
    description: str

    @classmethod
    def of(cls, column: Column) -> "FormField":
        """Describe a column."""
        return cls(
            name=column.name,
            kind=column.kind,
            low=column.low,
            high=column.high,
            refuses=column.outside == "refuse",
            categories=column.categories,
            may_be_missing=column.missing != "refuse",
            unit=column.unit,
            description=column.description,
        )


@dataclass(frozen=True)
class Question:
    """One input: as a model takes it, and as the page draws it, (height, width) or (height, width, 3) bytes.

    `inverted` says whether dark and light of a picture were swapped.
    """

    rows: inputs.Rows
    pixels: npt.NDArray[np.uint8]
    inverted: bool = False

    def elements(self, entry: Entry) -> RingArray:
        """Return the input as ring elements, (1, input size). Raises InvalidInput."""
        return inputs.encode_rows(entry, self.rows)


def size(entry: Entry) -> Size:
    """Return the size of the picture that the page draws of an input. Raises Problem if the model takes numbers."""
    if entry.table is not None:
        return Size(height=1, width=entry.table.size, channels=1)
    how = pictures.preprocessing(entry)
    return Size(height=how.size[0], width=how.size[1], channels=how.channels)


def read(raw: bytes, entry: Entry, invert: bool | None) -> Question:
    """Read a picture file, or a row as JSON: an object with a value for each column, null where it is missing.

    `invert` says whether to swap dark and light of a picture. None: where its polarity is not the model's. Raises
    Problem, whose text never contains a value.
    """
    try:
        return _row(raw, entry, entry.table) if entry.table is not None else _picture(raw, entry, invert)
    except InvalidInput as error:
        raise refused(str(error)) from None


def _picture(raw: bytes, entry: Entry, invert: bool | None) -> Question:
    how = pictures.preprocessing(entry)
    inputs.check_predicts(entry)
    pixels = pictures.decode(raw, how)[None]
    if invert is None:
        pixels, inverted = polarity.aligned(pixels, how)
        return Question(pixels, pixels[0], inverted > 0)
    pixels = _WHITE - pixels if invert else pixels
    return Question(pixels, pixels[0], invert)


def _row(raw: bytes, entry: Entry, table: Tabular) -> Question:
    inputs.check_predicts(entry)
    try:
        values = json.loads(raw)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or any(isinstance(value, dict | list) for value in values.values()):
        raise refused("a row is a JSON object with a value for each column")
    rows = tables.read(table, values)
    elements = inputs.encode_rows(entry, rows)
    grey = (elements / 2.0**entry.plan.input.frac_bits + 1) / 2 * _WHITE
    return Question(rows, np.rint(grey).astype(np.uint8))
