"""The layer that brings a wide value into a narrow range, by a power of 16 that only the parties together know."""

from typing import Literal, Self

from pydantic import model_validator

from moiety_shared.plan.layers import Correction, Wire, ring_bytes, ring_dtype
from moiety_shared.plan.lookups import Hinged

STEP_BITS = 4  # a hinge is 2^4 times the one before it


class Normalise(Hinged):
    """The wire (3, *shape) of y = v 16^(J-1-j), 4^(J-1-j), and j itself, in the plan's ring. 3 rounds.

    j is the number of hinges that floor(v / 2^shift) reaches, and there are J - 1 hinges h, 16 h, 256 h, ... So y is
    within a factor of 16 below 2^shift h 16^(J-1), for every v from 2^shift h / 16 to that. v is opened whole, so y has
    all its bits. The functionality: it draws the mask r and gives both parties v^ = v + r. The result is that of
    floor((v + u) / 2^shift) in place of floor(v / 2^shift), where u = v^ - v mod 2^shift. So v^ may decide for a v less
    than one 2^shift below a hinge.
    """

    op: Literal["normalise"] = "normalise"

    @model_validator(mode="after")
    def _check_hinges(self) -> Self:
        if any(hinge != self.hinges[0] << (STEP_BITS * place) for place, hinge in enumerate(self.hinges)):
            raise ValueError("the hinges are not powers of 16 apart")
        if self.hinges[0] < 1:
            raise ValueError("a hinge is not positive")
        return self

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        if inputs[0].bits != ring_bits or self.shift + self.opened_bits != ring_bits:
            raise ValueError("does not open the whole of a value in the plan's ring")
        return super().output(inputs, ring_bits)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (3, *self.shape)

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return (*super().corrections(ring_bits), Correction("beta", (2, self.comparisons), ring_dtype(ring_bits)))

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        _, looked_up, signs = super().openings(ring_bits, rows)
        return rows * self.size * ring_bytes(ring_bits), looked_up, signs
