"""The wires of a plan that is being written, and the forms in which a node may need one.

A node may need a wire with fewer bits, in the plan's ring, or opened under a mask. The writer writes each form of a
wire once, however many nodes need it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.ranges import Range
from moiety_server.compiler.scales import Precision, Scales, fitting
from moiety_shared.plan import layers as plan_layers
from moiety_shared.plan import local, lookups
from moiety_shared.plan.plan import AnyLayer
from moiety_shared.plan.reduced import Reduce
from moiety_shared.ring import Array, Ring

FEWEST_VALUE_BITS, MOST_FRAC_BITS = 7, 30
_NEEDLESS_BITS = 4  # an input with more bits than that which no reader wants is cut, to leave bits for the weights
_FEWEST_OPENED = 4


@dataclass(frozen=True)
class ScaledWire:
    """A wire of the plan: its ring elements times factor * 2^-frac are real values between low and high."""

    name: str
    shape: tuple[int, ...]
    bits: int
    frac: int
    factor: float
    low: float
    high: float

    @property
    def unit(self) -> float:
        return self.factor * 2.0**-self.frac

    @property
    def reach(self) -> float:
        """Largest magnitude in units of `factor`, so that reach * 2^frac is the largest ring element."""
        return max(abs(self.low), abs(self.high), 1e-9) / self.factor


class Writer:
    """The layers written so far, at one precision. `node` is the one being written; names and messages use it.

    `known` has the range of every node. `scales` has what was chosen for each.
    """

    def __init__(self, graph: ir.Graph, known: Mapping[str, Range], scales: Scales, precision: Precision) -> None:
        self.layers: list[AnyLayer] = []
        self.weights: dict[str, Array] = {}
        self.origins: dict[str, str] = {}
        self.measured: dict[str, float] = {}  # nodes whose range rests on calibration data, and its room
        self.node = graph.nodes[0]
        self.known, self.scales = known, scales
        self.precision, self.ring = precision, Ring(precision.ring_bits)
        self._shared: set[str] = set()  # wires that the client shared, and those that each party computes of them alone
        self._fresh: dict[str, str] = {}
        self._short: dict[str, ScaledWire] = {}
        self._opened: dict[str, str] = {}
        self.squared: dict[str, ScaledWire] = {}  # what each sum of squares is of

    def bounds(self, node: ir.Node) -> tuple[float, float]:
        """The least and the largest real value that the node can yield."""
        known = self.known[node.name]
        return known.low, known.high

    def add(self, layer: AnyLayer) -> None:
        """Append a layer. It belongs to the node that is being written."""
        self.layers.append(layer)
        self.origins[layer.name] = self.node.origin
        if isinstance(layer, local.Local | plan_layers.Bias | Reduce) and self._shared.intersection(layer.reads):
            self._shared.add(layer.name)

    def given(self, name: str) -> None:
        """Record a wire that the client shares."""
        self._shared.add(name)

    def is_shared(self, wire: ScaledWire) -> bool:
        return wire.name in self._shared

    def to_reduce(self, wire: ScaledWire, shift: int) -> ScaledWire:
        """Return the wire in shares whose low bits can be dropped. If the client chose the shares, it would choose the
        dither, so the wire gets fresh shares first."""
        if not shift or not self.is_shared(wire):
            return wire
        if wire.name not in self._fresh:
            layer = plan_layers.Reshare(name=self.name(wire, "fresh"), input=wire.name, shape=wire.shape)
            self.add(layer)
            self._fresh[wire.name] = layer.name
        return replace(wire, name=self._fresh[wire.name])

    def name(self, wire: ScaledWire, suffix: str) -> str:
        return f"{wire.name[: 63 - len(suffix)]}-{suffix}"

    def after(self, wire: ScaledWire, layer: AnyLayer, **changes: object) -> ScaledWire:
        """Return the wire that `layer` makes of `wire`, with `changes` to its scale or range."""
        self.add(layer)
        return replace(wire, name=layer.name, shape=layer.output_shape, **changes)  # type: ignore[arg-type]

    def cut(self, wire: ScaledWire, wanted: float) -> ScaledWire:
        """Return the wire in the plan's ring, truncated to what products can read, or to the fractional bits that they
        want."""
        frac = min(wire.frac, fitting(wire.reach, self.precision.short))
        if wire.bits == self.ring.bits:
            useful = math.ceil(min(wanted + math.log2(wire.factor), 60)) + 1
            frac = min(frac, max(useful, fitting(wire.reach, FEWEST_VALUE_BITS)))
        return self.at_most(wire, frac, "cut") if frac < wire.frac else self.truncated(wire, frac, "cut")

    def at_most(self, wire: ScaledWire, frac: int, suffix: str = "low") -> ScaledWire:
        """Return the wire with at most `frac` fractional bits."""
        while wire.frac > frac:
            wire = self.truncated(wire, max(frac, wire.frac - wire.bits + _FEWEST_OPENED), suffix)
        return wire

    def truncated(self, wire: ScaledWire, frac: int, suffix: str, most: int | None = None) -> ScaledWire:
        """Return the wire at `frac` fractional bits. At most `most` bits of each value are opened."""
        shift = wire.frac - frac
        opened = min(most or self.precision.opened, wire.bits - shift)
        self.demand(wire.reach * 2.0**frac < 2.0 ** (opened - 2), "has a value too large to be truncated")
        x = self.to_reduce(wire, shift)
        layer = lookups.Truncate(
            name=self.name(wire, suffix), input=x.name, shape=wire.shape, shift=shift, opened_bits=opened
        )
        return self.after(wire, layer, frac=frac, bits=self.ring.bits)

    def in_ring(self, wire: ScaledWire) -> ScaledWire:
        return wire if wire.bits == self.ring.bits else self.small(wire)

    def small(self, wire: ScaledWire, wanted: float = math.inf) -> ScaledWire:
        """Return the wire in the plan's ring at magnitudes that products can read. Each wire is cut once."""
        short = wire.reach * 2.0**wire.frac < 2.0 ** (self.precision.compared + 1)
        needless = wire.frac - (wanted + math.log2(wire.factor))
        if short and wire.bits == self.ring.bits and needless <= _NEEDLESS_BITS:
            return wire
        if wire.name not in self._short:
            self._short[wire.name] = self.cut(wire, wanted)
        return self._short[wire.name]

    def coarsest(self, wire: ScaledWire) -> float:
        """Return the unit of the wire, or of what products read of it."""
        return max(wire.unit, self._short.get(wire.name, wire).unit)

    def open(self, wire: ScaledWire) -> str:
        if wire.name not in self._opened:
            layer = plan_layers.Open(name=self.name(wire, "open"), input=wire.name, shape=wire.shape)
            self.add(layer)
            self._opened[wire.name] = layer.name
        return self._opened[wire.name]

    def demand(self, condition: bool, what: str) -> None:
        if not condition:
            raise NotServable(
                f"{self.node.origin}: {what} in a {self.ring.bits}-bit ring; declare a smaller input range, scale "
                "the weights down, or use a 64-bit ring"
            )

    def encode(self, values: Tensor, scale: float) -> Array:
        """round(values * scale) as ring elements."""
        rounded = np.rint(values.detach().double().numpy() * scale)
        self.demand(bool(np.isfinite(rounded).all()), "has weights that are NaN or infinite")
        self.demand(
            float(np.abs(rounded).max(initial=0)) < 2.0 ** (self.ring.bits - 1), "has weights that are too large"
        )
        return rounded.astype(self.ring.dtype)


def fits(wire: ScaledWire, reach: float) -> bool:
    """Whether values up to `reach` (real) leave a bit of the wire's ring free at its scale. The layers that read it
    need that bit."""
    return reach / wire.unit < 2.0 ** (wire.bits - 2) / 1.005
