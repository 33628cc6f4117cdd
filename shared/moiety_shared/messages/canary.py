"""Canaries: inputs with known answers, which a client mixes among its real ones.

The owner publishes them in the signed catalogue entry. Parties see shares only, and shares are uniform whatever value
they are shares of. So parties cannot tell which rows of a request are canaries, although all canaries are public.
"""

import numpy as np
from pydantic import Field, field_validator

from moiety_shared.crypto.prg import SEED_BYTES, Stream
from moiety_shared.fixed_point import RingArray, grid, ring_dtype
from moiety_shared.plan.layers import Public
from moiety_shared.plan.plan import Plan

MOST = 16


class Canary(Public):
    """One input, as a public seed, and the model's answer to it. The answer holds no more than a client would be
    told."""

    seed: str = Field(description="32 bytes, hex; expands to the input")
    label: int = Field(ge=0, description="the most likely class")
    top: float | None = Field(None, description="the largest output; of a model that gives outputs")
    tolerance: float = Field(0.0, ge=0, description="how far the largest output of a private run may be from that")

    @field_validator("seed")
    @classmethod
    def _is_seed(cls, value: str) -> str:
        if len(bytes.fromhex(value)) != SEED_BYTES:
            raise ValueError("a canary's seed has 32 bytes")
        return value

    def elements(self, plan: Plan) -> RingArray:
        """The encoded input, (values of one input,)."""
        return expand(bytes.fromhex(self.seed), plan)


def expand(seed: bytes, plan: Plan) -> RingArray:
    """Draw values uniformly from the plan's input range in the ring. It computes with whole numbers only, so the values
    are the same on every machine."""
    least, largest = grid(plan.input.low, plan.input.high, plan.input.frac_bits)
    words = Stream(seed, "canary").words("input", (plan.input.size,), np.uint64)
    return ((words % np.uint64(largest - least + 1)).astype(np.int64) + least).astype(ring_dtype(plan.ring_bits))
