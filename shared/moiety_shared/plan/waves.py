"""The layer that adds up waves: a smooth function of a masked value, from what the dealer knows of the mask."""

import math
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import FailFast, Field, model_validator

from moiety_shared.plan.approximate import Approximate
from moiety_shared.plan.layers import Correction, Public, ring_dtype

_LARGEST = 1 << 30


class Wave(Public):
    """cosine * cos(2 pi k t / 2^q) + sine * sin(2 pi k t / 2^q). The layer's k-th wave has this k, counted from 1.

    The dealer's words have the scale of `cosine` and `sine`, the public tables `table_bits` fractional bits.
    """

    cosine: Annotated[int, Field(gt=-_LARGEST, lt=_LARGEST)]
    sine: Annotated[int, Field(gt=-_LARGEST, lt=_LARGEST)]
    table_bits: Annotated[int, Field(ge=1, le=24)]

    @property
    def height(self) -> float:
        """The wave's largest value, in units of its words."""
        return math.hypot(self.cosine, self.sine)

    @property
    def reach(self) -> float:
        """The largest value of what the parties compute of it, with what rounding adds, in units of the result."""
        return (self.height + 1) * (2.0**self.table_bits + 1)


class Waves(Approximate):
    """constant + the sum of `waves` of t mod 2^opened_bits, modulo 2^word_bits. 1 round.

    The functionality: it draws the mask r and gives both parties t^ = t + r. The result is the sum of the products
    of rounded words and rounded tables that protocols.waves states. It depends on t and t^: on t alone but for its
    last bits. |result| < 2^(word_bits - 2) for every t, and so every Truncate of it is exact.
    """

    op: Literal["waves"] = "waves"
    constant: Annotated[int, Field(gt=-(1 << 56), lt=1 << 56)]
    waves: Annotated[tuple[Wave, ...], Field(min_length=1, max_length=64), FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.waves) > 1 << (self.opened_bits - 1):
            raise ValueError("has waves shorter than two steps")
        if abs(self.constant) + sum(wave.reach for wave in self.waves) >= 1 << (self.word_bits - 2):
            raise ValueError("has values that do not fit in its words")
        return self

    @property
    def words(self) -> int:
        """The number of words that the dealer fixes for each value."""
        return 2 * len(self.waves)

    @cached_property
    def rounding(self) -> float:
        """The root mean square of what rounding adds to the result, in units of the result."""
        return math.sqrt(sum((4.0**wave.table_bits + wave.height**2) / 12 for wave in self.waves))

    @property
    def multiply_adds(self) -> int:
        return self.words * self.size

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (Correction("words", (self.words, self.size), ring_dtype(self.word_bits)),)
