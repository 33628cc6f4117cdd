"""How ids of tokens become a model's input, as the model's owner declares it. All of it is public, with the table."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moiety_shared.plan.layers import MAX_ELEMENTS, Public

MOST_ATTACHED = 1 << 28
"""Bytes of a file: a table of 50,000 ids times 2,600 values."""
ENTRY_BYTES = 2  # a table's: int16


class Attachment(Public):
    """A file beside a catalogue entry. The entry is signed, so the digest says which file its owner means."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256")]
    size: int = Field(ge=1, le=MOST_ATTACHED, description="bytes")


class Tokens(Public):
    """The client looks each id up in a table of whole numbers, int16 and little-endian, `width` for each id.

    A number times `step` is a value of the plan's input, which has `length` rows of `width` values. The client appends
    `pad_id` to fewer ids. Without one, it takes exactly `length`.
    """

    kind: Literal["tokens"] = "tokens"
    length: int = Field(ge=1, le=1 << 16)
    vocabulary: int = Field(ge=1, le=1 << 24, description="ids are below it")
    width: int = Field(ge=1, le=1 << 16)
    step: float = Field(gt=0)
    table: Attachment
    pad_id: int | None = Field(None, ge=0)
    tokenizer: Attachment | None = Field(
        None, description="a tokenizer.json of the library tokenizers, which makes ids of a text"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.table.size != self.vocabulary * self.width * ENTRY_BYTES:
            raise ValueError("the table is not of the vocabulary's size")
        if self.pad_id is not None and self.pad_id >= self.vocabulary:
            raise ValueError("the id of padding is none of the vocabulary")
        if self.size > MAX_ELEMENTS:
            raise ValueError(f"an input has {self.size} elements, more than a plan takes")
        return self

    @property
    def size(self) -> int:
        """The number of elements of one input."""
        return self.length * self.width
