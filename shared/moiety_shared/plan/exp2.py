"""The layer that raises two to a masked value, which may lie anywhere in tens of octaves: from a few dealer words."""

import math
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moiety_shared.plan.approximate import Approximate

_MOST_SPANS = 16


class Exp2(Approximate):
    """2^((t - top) / 2^octave_bits), with height_bits + table_bits fractional bits, modulo 2^word_bits. 1 round.

    t counts in steps of 2^-octave_bits octaves. The 2^opened_bits values of t are cut into a few spans of 2^span_bits
    each. The dealer fixes a word for each span, of `height_bits` fractional bits; the public table has `table_bits`.

    The functionality: it draws the mask r and gives both parties t^ = t + r. The result is the product of a rounded
    word and an entry of the rounded table that protocols.exp2 states. It depends on t and t^: on t alone but for its
    last bits, where top - 2^opened_bits + 2^span_bits <= t <= top. Of the other values of t less than a span lies above
    top: there the result is the power for t or for t - 2^opened_bits, as the mask decides. In its domain |result| <
    2^(word_bits - 2), so every Truncate of it is exact.
    """

    op: Literal["exp2"] = "exp2"
    octave_bits: Annotated[int, Field(ge=0, le=14)]
    span_bits: Annotated[int, Field(ge=1, le=15)]
    top: Annotated[int, Field(gt=-(1 << 16), lt=1 << 16)]
    height_bits: Annotated[int, Field(ge=1, le=60)]
    table_bits: Annotated[int, Field(ge=1, le=24)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.octave_bits < self.span_bits < self.opened_bits and self.spans <= _MOST_SPANS):
            raise ValueError(f"has spans of at least two octaves, and 2 to {_MOST_SPANS} of them")
        if 1 << (self.span_bits - self.octave_bits) > self.height_bits:
            raise ValueError("has spans of more octaves than its words have bits")
        if self.height_bits + self.table_bits >= self.word_bits - 2:
            raise ValueError("has values that do not fit in its words")
        return self

    @property
    def spans(self) -> int:
        """The number of spans, each of which has a word."""
        return 1 << (self.opened_bits - self.span_bits)

    @property
    def words(self) -> int:
        return self.spans

    @property
    def lowest(self) -> int:
        """The least t of the domain."""
        return self.top - (1 << self.opened_bits) + (1 << self.span_bits)

    @property
    def floor(self) -> float:
        """The root mean square of what rounding the words adds to any result, however small, in units of the result."""
        octaves = 1 << (self.span_bits - self.octave_bits)
        return 2.0 ** (self.table_bits + octaves) / math.sqrt(12 * octaves * math.log(4))

    @cached_property
    def rounding(self) -> float:
        """The root mean square of what rounding adds to the result at t = top, in units of the result. For smaller t it
        adds less."""
        of_table = 4.0**self.height_bits * 0.75 / math.log(4)  # the mean square of a word, by the octave of its entry
        return math.sqrt(self.floor**2 + of_table / 12)

    @property
    def multiply_adds(self) -> int:
        return self.size
