"""What a plan costs: rounds, bytes and work. Tests compare the formulas with the bytes that cross the wire."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from moiety_shared.plan.layers import Layer


@dataclass(frozen=True)
class Cost:
    """What a layer or a plan costs for some number of rows.

    `online_bytes` is what each party sends. `offline_bytes` is what the dealer sends, to party 1 only. `multiply_adds`
    counts the ring multiplications of the online products, and `comparisons` the signs that are looked up.
    """

    rounds: int = 0
    online_bytes: int = 0
    offline_bytes: int = 0
    multiply_adds: int = 0
    comparisons: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def layer_cost(layer: Layer, ring_bits: int, rows: int) -> Cost:
    """The cost of one layer for `rows` rows that are evaluated together."""
    openings = layer.openings(ring_bits, rows)
    return Cost(
        len(openings),
        sum(openings),
        rows * sum(correction.row_bytes for correction in layer.corrections(ring_bits)),
        rows * layer.multiply_adds,
        rows * layer.comparisons,
    )


def schedule(given: Iterable[str], layers: Iterable[Layer], ring_bits: int) -> dict[str, range]:
    """The rounds in which each layer opens values, counted from 0, by layer.

    The wires `given` are there from the start. A layer begins when all wires that it reads are there, so layers that do
    not wait for each other share rounds.
    """
    ends = dict.fromkeys(given, 0)
    rounds: dict[str, range] = {}
    for layer in layers:
        start = max(ends[name] for name in layer.reads)
        ends[layer.name] = start + len(layer.openings(ring_bits, 1))
        rounds[layer.name] = range(start, ends[layer.name])
    return rounds
