"""The layer that adds up waves: a function of a masked value, from what the dealer knows of the mask.

It is in a file of its own because it says more of its result than other look-ups do: how far rounding can be seen in
it, and so how many bits have to go before anything of it may leave a plan.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import FailFast, Field, model_validator

from moiety_shared.plan.layers import Correction, Layer, Public, Wire, ring_bytes, ring_dtype
from moiety_shared.plan.lookups import Lookup, Truncate

_HIDING = 3  # bits: what is dropped is 2^3 times as coarse as the root mean square of what rounding adds
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


class Waves(Lookup):
    """constant + the sum of `waves` of t mod 2^opened_bits, modulo 2^word_bits. 1 round.

    The functionality: it draws the mask r and gives both parties t^ = t + r. The result is the sum of the products
    of rounded words and rounded tables that protocols.waves states. It depends on t and t^: on t alone but for its
    last bits. |result| < 2^(word_bits - 2) for every t, and so every Truncate of it is exact.
    """

    op: Literal["waves"] = "waves"
    opened_bits: Annotated[int, Field(ge=2, le=16)]
    word_bits: Annotated[int, Field(ge=4, le=64)]
    constant: Annotated[int, Field(gt=-(1 << 56), lt=1 << 56)]
    waves: Annotated[tuple[Wave, ...], Field(min_length=1, max_length=64), FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.waves) > 1 << (self.opened_bits - 1):
            raise ValueError("has waves shorter than two steps")
        if abs(self.constant) + sum(wave.reach for wave in self.waves) >= 1 << (self.word_bits - 2):
            raise ValueError("has values that do not fit in its words")
        return self

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        if self.word_bits > ring_bits:
            raise ValueError("has words of more bits than the ring")
        return Wire(super().output(inputs, ring_bits).shape, self.word_bits)

    @property
    def words(self) -> int:
        """The number of words that the dealer fixes for each value."""
        return 2 * len(self.waves)

    @cached_property
    def rounding(self) -> float:
        """The root mean square of what rounding adds to the result, in units of the result."""
        return math.sqrt(sum((4.0**wave.table_bits + wave.height**2) / 12 for wave in self.waves))

    @property
    def hidden_bits(self) -> int:
        """The low bits of the result that no output may depend on: what rounding adds tells of the mask, and a client
        who learns it from alice or bob could tell by it what t was where the function is flat."""
        return math.ceil(math.log2(self.rounding)) + _HIDING

    @property
    def multiply_adds(self) -> int:
        return self.words * self.size

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (Correction("words", (self.words, self.size), ring_dtype(self.word_bits)),)

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        return (rows * self.size * ring_bytes(self.opened_bits),)


def check_cuts(layers: Sequence[Layer], output: str) -> None:
    """Raises ValueError unless every result of waves goes into layers that drop the bits which rounding shows in."""
    hidden = {layer.name: layer.hidden_bits for layer in layers if isinstance(layer, Waves)}
    for layer in layers:
        for name in hidden.keys() & set(layer.reads):
            if not (isinstance(layer, Truncate) and layer.shift >= hidden[name]):
                raise ValueError(
                    f"layer {layer.name!r} reads waves {name!r} without dropping {hidden[name]} bits first"
                )
    if output in hidden:
        raise ValueError(f"waves {output!r} are given out as they are: drop {hidden[output]} bits first")
