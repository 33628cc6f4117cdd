"""A random plan as far as it has grown: its layers, and how large the values of its wires can be."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import assume
from hypothesis import strategies as st

from moiety_shared.plan.layers import Bias, Reshare, Wire
from moiety_shared.plan.local import Local, Reshape
from moiety_shared.plan.plan import LABELS, AnyLayer
from moiety_shared.plan.reduced import Reduce

MOST_VALUES = 300


@dataclass
class Grown:
    """A plan so far: its layers, and what is known of its wires."""

    draw: st.DrawFn
    ring_bits: int
    wires: dict[str, Wire] = field(default_factory=dict)
    bounds: dict[str, int] = field(default_factory=dict)
    """The largest |value| of every wire, as far as it is known."""
    layers: list[AnyLayer] = field(default_factory=list)
    shared: set[str] = field(default_factory=lambda: {"input"})
    """The input, and what each party computes of it alone: no low bits are dropped of these."""
    classes: int | None = None

    # What wires there are.

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return self.number(low, high), self.number(low, high)

    def share(self, fits: Callable[[Wire], bool] = lambda _: True, whole: bool = False) -> str | None:
        """A share that fits; of the plan's ring when `whole`. Late ones are likelier."""
        names = [
            name
            for name, wire in self.wires.items()
            if wire.kind == "share" and name != LABELS and (not whole or wire.bits == self.ring_bits) and fits(wire)
        ]
        return self.draw(st.sampled_from([*names, *names[-2:], *names[-1:]])) if names else None

    def add(self, layer: AnyLayer, bound: int) -> str:
        inputs = tuple(self.wires[name] for name in layer.reads)
        assume(math.prod(layer.output_shape) <= MOST_VALUES and min(layer.output_shape) > 0)
        wire = layer.output(inputs, self.ring_bits)
        self.layers.append(layer)
        if isinstance(layer, Local | Bias | Reduce) and self.shared.intersection(layer.reads):
            self.shared.add(layer.name)
        self.wires[layer.name] = wire
        self.bounds[layer.name] = min(bound, 1 << (wire.bits - 1))
        return layer.name

    def name(self) -> str:
        return f"w{len(self.layers)}"

    def image(self, whole: bool = False) -> str | None:
        """A share of three axes."""
        name = self.share(lambda wire: len(wire.shape) == 3, whole)
        if name is not None:
            return name
        name = self.share(whole=whole)
        return name and self.reshaped(name, (1, 1, math.prod(self.wires[name].shape)))

    def reshaped(self, name: str, to: tuple[int, ...]) -> str:
        shape = self.wires[name].shape
        return (
            name
            if shape == to
            else self.add(Reshape(name=self.name(), input=name, shape=shape, to=to), self.bounds[name])
        )

    def reshare(self, name: str | None = None) -> str | None:
        name = name or self.share(whole=True)
        return name and self.add(Reshare(name=self.name(), input=name, shape=self.wires[name].shape), self.bounds[name])

    def to_reduce(self, name: str) -> str:
        """The wire, perhaps in fresh shares where those it has are the client's."""
        whole = self.wires[name].bits == self.ring_bits
        return (self.reshare(name) or name) if name in self.shared and whole and self.draw(st.booleans()) else name
