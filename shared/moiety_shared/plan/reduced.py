"""The layer that brings shares into a smaller ring."""

from typing import Literal

from moiety_shared.plan.layers import Wire
from moiety_shared.plan.lookups import Lookup


class Reduce(Lookup):
    """t itself, modulo 2^opened_bits, in shares of that smaller ring. Each party cuts its share alone: no round, and
    the dealer sends nothing."""

    op: Literal["reduce"] = "reduce"

    def output(self, inputs: tuple[Wire, ...], ring_bits: int) -> Wire:
        return Wire(super().output(inputs, ring_bits).shape, self.opened_bits)
