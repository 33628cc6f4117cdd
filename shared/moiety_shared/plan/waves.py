"""The layer that adds up waves: a smooth function of a masked value, from what the dealer knows of the mask."""

import math
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import FailFast, Field, model_validator

from moiety_shared.plan.approximate import Approximate
from moiety_shared.plan.layers import Public

_LARGEST = 1 << 30
_PLACES = 64  # for each wave: what is between them is at most 0.12 % higher
Floats = npt.NDArray[np.float64]
_BEYOND_FLOAT = 1 + 2.0**-40  # the transform's own rounding, of float64, is a thousand times less


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
    def off(self) -> float:
        """How far rounding of its words and tables may move what the parties compute of it, in units of the result."""
        return self.height + 2.0**self.table_bits + 1


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
        if self.reach >= 1 << (self.word_bits - 2):
            raise ValueError("has values that do not fit in its words")
        return self

    @cached_property
    def reach(self) -> float:
        """A bound of |result| for all 2^opened_bits values of t and t^, in units of the result.

        K waves that stay below 1 at n places of their period stay below 1 / cos(pi K / n) between them (Ehlich and
        Zeller, 1964), so a few thousand places are enough, whatever a plan says.
        """
        cosines = np.array([wave.cosine * 2.0**wave.table_bits for wave in self.waves])
        sines = np.array([wave.sine * 2.0**wave.table_bits for wave in self.waves])
        period = 1 << self.opened_bits
        places = min(period, _PLACES << len(self.waves).bit_length())
        between = 1 / math.cos(math.pi * len(self.waves) / places) if places < period else 1.0
        most = float(np.abs(self.constant + waves_of(cosines, sines, places)).max())
        return most * between * _BEYOND_FLOAT + sum(wave.off for wave in self.waves)

    @property
    def words(self) -> int:
        return 2 * len(self.waves)

    @cached_property
    def rounding(self) -> float:
        """The root mean square of what rounding adds to the result, in units of the result."""
        return math.sqrt(sum((4.0**wave.table_bits + wave.height**2) / 12 for wave in self.waves))

    @property
    def multiply_adds(self) -> int:
        return self.words * self.size


def waves_of(cosines: Floats, sines: Floats, period: int) -> Floats:
    """Add waves up over one period: (period,), the sum of cosines[k - 1] cos(w k t) + sines[k - 1] sin(w k t) for
    t = 0 .. period - 1, w = 2 pi / period. At most period / 2 waves. One Fourier transform."""
    spectrum = np.zeros(period // 2 + 1, dtype=np.complex128)
    spectrum[1 : len(cosines) + 1] = (cosines - 1j * sines) * (period / 2)
    if len(cosines) == period // 2:  # the shortest wave has no second half, and is no sine
        spectrum[-1] *= 2
    return np.fft.irfft(spectrum, period)
