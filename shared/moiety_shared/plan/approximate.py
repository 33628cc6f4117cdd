"""Layers whose last bits depend on the masked value that is opened, and not on the secret alone.

They multiply words that the dealer rounded by public numbers that are rounded too. The layers say how far rounding can
be seen in their results, and so how many bits have to go before anything of them may leave a plan.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from moiety_shared.plan.layers import Correction, Layer, Wire, ring_bytes, word_corrections
from moiety_shared.plan.local import Local, Slice
from moiety_shared.plan.lookups import Lookup
from moiety_shared.plan.normalise import Normalise

_HIDING = 3  # bits: what is dropped is 2^3 times as coarse as the root mean square of what rounding adds


class Approximate(Lookup):
    """Base of the layers that make a function of t from words that the dealer fixes, modulo 2^word_bits. 1 round.

    The functionality: it draws the mask r and gives both parties t^ = t + r mod 2^opened_bits. The result depends on t
    and t^: on t alone but for its last bits.
    """

    opened_bits: Annotated[int, Field(ge=2, le=16)]
    word_bits: Annotated[int, Field(ge=4, le=64)]

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        if self.word_bits > ring_bits:
            raise ValueError("has words of more bits than the ring")
        return Wire(super().output(inputs, ring_bits).shape, self.word_bits)

    @property
    def words(self) -> int:
        """The number of words that the dealer fixes for each value."""
        raise NotImplementedError

    @property
    def rounding(self) -> float:
        """The root mean square of what rounding adds to the result, in units of the result."""
        raise NotImplementedError

    @property
    def hidden_bits(self) -> int:
        """The low bits of the result that no output may depend on: what rounding adds tells of the mask, and a client
        who learns it from alice or bob could tell by it what t was where the function is flat."""
        return math.ceil(math.log2(self.rounding)) + _HIDING

    def corrections(self, ring_bits: int) -> tuple[Correction, ...]:
        return word_corrections("words", (self.words, self.size), self.word_bits)

    def openings(self, ring_bits: int, rows: int) -> tuple[int, ...]:
        return (rows * self.size * ring_bytes(self.opened_bits),)


def check_cuts(layers: Sequence[Layer], output: str) -> None:
    """Raises ValueError unless every approximate result goes into layers that drop the bits which rounding shows in.

    What each party computes of it alone, such as a sum, shows more of them, and is cut as well before it goes on.
    Normalise keeps all bits of what it reads, in the first of its planes; the others are what it decided.
    """
    hidden: dict[str, int] = {}
    normalised = {layer.name for layer in layers if isinstance(layer, Normalise)}
    for layer in layers:
        read = {name: hidden[name] for name in layer.reads if name in hidden}
        if isinstance(layer, Normalise) and read:
            hidden[layer.name] = max(read.values())
        elif isinstance(layer, Slice) and layer.input in normalised and layer.axis == 0 and layer.start:
            continue
        elif isinstance(layer, Local) and read:
            shown = sum(gain << read[name] for gain, name in zip(layer.gains, layer.reads, strict=True) if name in read)
            hidden[layer.name] = max(shown - 1, 0).bit_length()
        elif read and not (isinstance(layer, Lookup) and layer.shift >= max(read.values())):
            name = max(read, key=read.__getitem__)
            raise ValueError(f"layer {layer.name!r} reads {name!r} without dropping {read[name]} bits first")
        if isinstance(layer, Approximate):
            hidden[layer.name] = layer.hidden_bits
    if output in hidden:
        raise ValueError(f"{output!r} is given out as it is: drop {hidden[output]} bits first")
