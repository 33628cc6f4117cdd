"""The layer that makes steep functions of a value in a narrow range, such as 1 to 16, from polynomials that the dealer
knows."""

import math
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moiety_shared.plan.approximate import Approximate

Function = Literal["log2", "rsqrt", "reciprocal"]


def steepness(function: Function, order: int, x: float) -> float:
    """The absolute value of the derivative of this order, which is 1 or more, at x > 0. It falls with x."""
    match function:
        case "log2":
            return math.factorial(order - 1) / math.log(2) * float(x**-order)
        case "rsqrt":
            return math.prod(i - 0.5 for i in range(1, order + 1)) * float(x ** -(order + 0.5))
        case "reciprocal":
            return math.factorial(order) * float(x ** -(order + 1))


class Pieces(Approximate):
    """`function` of t / 2^frac_bits with value_bits + table_bits fractional bits, modulo 2^word_bits. 1 round.

    Here t is an unsigned number, lowest <= t < 2^opened_bits. The functionality: it draws the mask r and gives both
    parties t^ = t + r. The result is the value at t of one of 2^opened_bits polynomials, which protocols.pieces states.
    Which one, t - t^ mod 2^piece decides, where piece = opened_bits - piece_bits. So it depends on t^ as well, but for
    its last bits on t alone. For t below `lowest` it may be the function of another value. |result| < 2^(word_bits -
    2) for every t, and so every Truncate of it is exact.
    """

    op: Literal["pieces"] = "pieces"
    function: Function
    frac_bits: Annotated[int, Field(ge=0, le=16)]
    lowest: Annotated[int, Field(ge=1, lt=1 << 16)]
    piece_bits: Annotated[int, Field(ge=1, le=8)]
    degree: Annotated[int, Field(ge=1, le=3)]
    value_bits: Annotated[int, Field(ge=1, le=30)]
    table_bits: Annotated[int, Field(ge=1, le=16)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.piece_bits >= self.opened_bits or not 1 << self.piece <= self.lowest < 1 << self.opened_bits:
            raise ValueError("has no whole piece below its lowest value")
        if self.reach >= 1 << (self.word_bits - 2):
            raise ValueError("has values that do not fit in its words")
        return self

    @property
    def piece(self) -> int:
        """The bits of a place within a piece."""
        return self.opened_bits - self.piece_bits

    @property
    def words(self) -> int:
        return (self.degree + 1) << self.piece_bits

    @property
    def first(self) -> int:
        """The least t that a polynomial starts at."""
        return self.lowest - (1 << self.piece) + 1

    def coefficient(self, power: int) -> float:
        """A bound of the polynomials' coefficients of this power, 1 or more, in units of the function.

        By Newton's form of the interpolation, with places in the piece from 0 to 1.
        """
        x, width = self.first / 2.0**self.frac_bits, 2.0 ** (self.piece - self.frac_bits)
        return sum(
            math.comb(order, power) * steepness(self.function, order, x) * width**order / math.factorial(order)
            for order in range(power, self.degree + 1)
        )

    @property
    def largest(self) -> float:
        """The largest absolute value of the function, from the first value to a piece beyond the last."""
        ends = (self.first / 2.0**self.frac_bits, ((1 << self.opened_bits) + (1 << self.piece)) / 2.0**self.frac_bits)
        match self.function:
            case "log2":
                return max(abs(math.log2(end)) for end in ends)
            case "rsqrt":
                return float(ends[0] ** -0.5)
            case "reciprocal":
                return 1 / ends[0]

    @property
    def miss(self) -> float:
        """A bound of what the polynomials differ from the function, in units of the function.

        The rest of an interpolation at Chebyshev's points of an interval of this width, at the steep end.
        """
        order, width = self.degree + 1, 2.0 ** (self.piece - self.frac_bits)
        steep = steepness(self.function, order, self.first / 2.0**self.frac_bits)
        return 2 * steep * (width / 4) ** order / math.factorial(order)

    @property
    def reach(self) -> float:
        """The largest absolute value of a result, in units of the result."""
        units = 2.0 ** (self.value_bits + self.table_bits)
        tables = sum(self.coefficient(i) * 2.0**self.value_bits + 1 for i in range(1, self.degree + 1))
        return (self.largest + self.miss) * units + ((self.degree + 1) * 2.0**self.table_bits + tables) / 2

    @cached_property
    def rounding(self) -> float:
        """The root mean square of what depends on the mask, in units of the result: what rounding adds, and what the
        polynomial misses at the steep end."""
        words = sum(4.0**self.table_bits / (2 * i + 1) for i in range(self.degree + 1))
        tables = sum((self.coefficient(i) * 2.0**self.value_bits) ** 2 for i in range(1, self.degree + 1))
        missed = self.miss * 2.0 ** (self.value_bits + self.table_bits)
        return math.sqrt((words + tables) / 12 + missed**2 / 2)

    @property
    def multiply_adds(self) -> int:
        return (self.degree + 1) * self.size
