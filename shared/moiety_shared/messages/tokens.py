"""How ids of tokens become a model's input, as the model's owner declares it. All of it is public: a table of the ids,
or in its place how the parties look ids up in a secret one."""

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from moiety_shared.plan.layers import MAX_ELEMENTS, Public

MOST_ATTACHED = 1 << 28
"""Bytes of a file: a table of 50,000 ids times 2,600 values."""
ENTRY_BYTES = 2  # a table's: int16
MOST_DIGIT = 2048
"""Values of an id's digit: as many as a one-hot row has."""


class Attachment(Public):
    """A file beside a catalogue entry. The entry is signed, so the digest says which file its owner means."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256")]
    size: int = Field(ge=1, le=MOST_ATTACHED, description="bytes")


class TokenIds(Public):
    """An input of `length` ids. The client appends `pad_id` to fewer ids. Without one, it takes exactly `length`."""

    length: int = Field(ge=1, le=1 << 16)
    vocabulary: int = Field(ge=1, le=1 << 24, description="ids are below it")
    pad_id: int | None = Field(None, ge=0)
    tokenizer: Attachment | None = Field(
        None, description="a tokenizer.json of the library tokenizers, which makes ids of a text"
    )

    @model_validator(mode="after")
    def _check_ids(self) -> Self:
        if self.pad_id is not None and self.pad_id >= self.vocabulary:
            raise ValueError("the id of padding is none of the vocabulary")
        if self.size > MAX_ELEMENTS:
            raise ValueError(f"an input has {self.size} elements, more than a plan takes")
        return self

    @property
    def size(self) -> int:
        """The number of elements of one input."""
        raise NotImplementedError

    @property
    def files(self) -> tuple[Attachment, ...]:
        """The files beside the entry."""
        return (self.tokenizer,) if self.tokenizer else ()


class Tokens(TokenIds):
    """The client looks each id up in a table of whole numbers, int16 and little-endian, `width` for each id.

    A number times `step` is a value of the plan's input, which has `length` rows of `width` values.
    """

    kind: Literal["tokens"] = "tokens"
    width: int = Field(ge=1, le=1 << 16)
    step: float = Field(gt=0)
    table: Attachment

    @model_validator(mode="after")
    def _check_table(self) -> Self:
        if self.table.size != self.vocabulary * self.width * ENTRY_BYTES:
            raise ValueError("the table is not of the vocabulary's size")
        return self

    @property
    def size(self) -> int:
        """The number of elements of one input."""
        return self.length * self.width

    @property
    def files(self) -> tuple[Attachment, ...]:
        """The files beside the entry: the table, then the tokenizer if there is one."""
        return (self.table, *super().files)


class SecretTokens(TokenIds):
    """The parties look each id up in a secret table. The client shares the id's digits, whole numbers: the id itself,
    or id // digits[1] and id % digits[1]. The plan's input has `length` rows of them."""

    kind: Literal["secret_tokens"] = "secret_tokens"
    digits: Annotated[
        tuple[Annotated[int, Field(ge=2, le=MOST_DIGIT)], ...],
        Field(min_length=1, max_length=2, description="how many values each digit has, the last one's last"),
    ]

    @model_validator(mode="after")
    def _check_digits(self) -> Self:
        if math.prod(self.digits) < self.vocabulary:
            raise ValueError("the digits do not reach all ids")
        return self

    @property
    def size(self) -> int:
        """The number of elements of one input."""
        return self.length * len(self.digits)

    def split(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Return the digits (..., digits) of ids (...), which are below `vocabulary`."""
        whole, last = ids.astype(np.int64), self.digits[-1]
        return np.stack((whole // last, whole % last)[-len(self.digits) :], axis=-1)
