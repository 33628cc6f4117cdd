"""Canaries: inputs with known answers, which a client mixes among its real ones.

The owner publishes them in the signed catalogue entry. Parties see shares only, and shares are uniform whatever value
they are shares of. So parties cannot tell which rows of a request are canaries, although all canaries are public.
"""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from moiety_shared.crypto.prg import SEED_BYTES, Stream
from moiety_shared.fixed_point import RingArray, grid, ring_dtype
from moiety_shared.messages.table import Tabular
from moiety_shared.plan.layers import Public
from moiety_shared.plan.plan import Plan

MOST = 16
MOST_OUTPUTS = 16
_RARE = 8  # one value in so many is missing, where a column may have missing values


class Canary(Public):
    """One input, as a public seed, and the model's answer to it. The answer holds no more than a client would be
    told."""

    seed: str = Field(description="32 bytes, hex; expands to the input")
    label: int | None = Field(None, ge=0, description="the most likely class; of a model that tells classes apart")
    outputs: Annotated[tuple[float, ...], Field(max_length=MOST_OUTPUTS)] = Field(
        (), description="at the places that `places` names, without the model's last function; where they are given out"
    )
    tolerance: float = Field(0.0, ge=0, description="how far an output of a private run may be from these")

    @field_validator("seed")
    @classmethod
    def _is_seed(cls, value: str) -> str:
        if len(bytes.fromhex(value)) != SEED_BYTES:
            raise ValueError("a canary's seed has 32 bytes")
        return value

    def elements(self, plan: Plan, table: Tabular | None) -> RingArray:
        """The encoded input, (values of one input,)."""
        return expand(bytes.fromhex(self.seed), plan, table)


def places(size: int) -> npt.NDArray[np.int64]:
    """The outputs that a canary tells, of a model with `size` of them: all, or MOST_OUTPUTS spread evenly over them."""
    return np.arange(min(size, MOST_OUTPUTS)) * size // min(size, MOST_OUTPUTS)


def expand(seed: bytes, plan: Plan, table: Tabular | None) -> RingArray:
    """Draw an input of ring elements, (values of one input,), uniformly from the plan's input range.

    For a model of a table, draw a row that a table may have: a value of each number's range, a place among each
    column's edges, a category, and sometimes a missing value. This computes with whole numbers only, so the elements
    are the same on every machine.
    """
    stream, frac_bits = Stream(seed, "canary"), plan.input.frac_bits
    if table is not None:
        return _row(stream, table, frac_bits).astype(ring_dtype(plan.ring_bits))
    words = stream.words("input", (plan.input.size,), np.uint64)
    return _within(words, *grid(plan.input.low, plan.input.high, frac_bits)).astype(ring_dtype(plan.ring_bits))


def _within(words: npt.NDArray[np.uint64], least: int, largest: int) -> npt.NDArray[np.int64]:
    return (words % np.uint64(largest - least + 1)).astype(np.int64) + least


def _row(stream: Stream, table: Tabular, frac_bits: int) -> npt.NDArray[np.int64]:
    """Draw the elements of one row, 2^frac_bits standing for 1."""
    one = 1 << frac_bits
    elements = np.zeros(table.size, dtype=np.int64)
    drawn, rare = stream.words("row", (2, len(table.columns)), np.uint64)
    at = 0
    for column, word, missing in zip(table.columns, drawn, (rare % _RARE == 0).tolist(), strict=True):
        block = elements[at : at + column.size]
        at += column.size
        if column.missing == "flag" and missing:
            block[-1] = one
        elif column.kind == "number":
            block[:1] = _within(word[None], -one, one)
        elif column.kind == "bins":
            block[: int(word) % (len(column.edges) + 1)] = one
        else:
            block[int(word) % len(column.categories)] = one
    return elements
