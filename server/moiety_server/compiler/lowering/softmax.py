"""Softmax as powers of two of scores d, in octaves, minus the logarithm of their sum: no maximum and no reciprocal.

    P = 2^(d - L),    L = log2 sum 2^d,    d = (x - mean of x) log2(e)

The mean and the factor are public and linear, so each party computes d alone. No mean is larger than the maximum, so
the sum is at least the number of keys. It may be as large as the scores' gap, the highest d, says. Where that is more
than a sum has octaves for, sums of 2^(d / 4), then of 2^(d / 2) come first. With a = 2^(d / 2 tau) and what the pass
before took off, sum 2^(d / tau) is sum a^2 / (sum a)^2, which lies between 1 / keys and 1 whatever the scores are. So
the gap matters to the first pass alone, and there by its tau-th part; and what the first pass errs cancels.

A ring of 64 bits has room for this. In one of 32, scores must lie closer together, and weights err by 0.001 and more:
logarithms are taken of what the sums' rounding leaves, 9 to 12 bits.

    one pass    Exp2 | Normalise (3) | Pieces | Exp2 | Truncate    7 rounds, 5 for each pass more
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from moiety_server.compiler import ir
from moiety_server.compiler.lowering import products
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_server.compiler.softmax import OCTAVE, CentredNode, SoftmaxNode, counts
from moiety_shared.plan import local
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.lookups import Truncate
from moiety_shared.plan.normalise import STEP_BITS, Normalise
from moiety_shared.plan.pieces import Pieces

_FACTOR_BITS = 12  # of log2(e) in the scores' unit: it errs by 2^-13 of d, and a power by 2^-14 at most
_MARGIN = 3  # of these: for what the powers err at each end, and for a whole number of them
_MOST_SLOPE = 8
_OPENED_BITS = 16
_PIECE_BITS, _FINER_PIECE_BITS = 6, 7  # for a sum of the scores themselves, and of a part: it is multiplied
_DEGREE = 3
_OUTPUT_FRAC = 12  # fractional bits of a log_softmax in octaves, at most


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a ring has room for: bits, but for `layouts` and `octaves`."""

    layouts: tuple[tuple[int, int], ...]
    """Spans of an exponential and its steps of an octave, as powers of two: few words first, then fine steps."""
    octaves: int
    """That the sums of one pass may lie in. A comparison of 4 digits of 5 bits reaches as far as 20."""
    scores: int
    """The most of scores in octaves."""
    fraction: tuple[int, int]
    """The fewest of these behind the point, where they fit, and the most."""
    power: int
    """Of a power at its top. The largest sum has one more, with a margin, so that it is positive."""
    read: tuple[int, int]
    """Of the sum that a logarithm is taken of: the fewest, and what is as good as any."""
    clear: int
    """By which the least sum lies above what rounding adds to it."""
    logarithm: tuple[int, int]
    """Behind the point of a logarithm, and those of them that its public powers have."""
    result: tuple[int, int]
    """Behind the point of the result: the fewest, and what products read."""


_ROOM = {
    64: Room(
        layouts=((2, 11), (2, 10), (3, 11), (3, 10), (3, 9), (4, 9), (4, 8)), octaves=20, scores=61, fraction=(36, 61),
        power=61, read=(15, 15), clear=12, logarithm=(44, 16), result=(18, 18),
    ),
    32: Room(
        layouts=((4, 11), (4, 10), (4, 9)), octaves=13, scores=29, fraction=(26, 26),
        power=29, read=(9, 12), clear=8, logarithm=(26, 13), result=(9, 11),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """A wire whose ring elements times 2^-frac, minus `offset`, are octaves between low and high. The lowest `hidden`
    bits have to be dropped."""

    name: str
    shape: tuple[int, ...]
    frac: int
    offset: int
    low: float
    high: float
    hidden: int = 0

    def over(self, slope: int) -> "Scores":
        """Return the scores divided by a power of two, of which the offset is a multiple."""
        frac = self.frac + slope.bit_length() - 1
        return replace(self, frac=frac, offset=self.offset // slope, low=self.low / slope, high=self.high / slope)


def centred(writer: Writer, node: CentredNode, x: ScaledWire) -> ScaledWire:
    """Write x minus its mean, in octaves: n x - sum x, for rows of n keys, times a whole number."""
    low, high = writer.bounds(node)
    many = counts(node).flatten().tolist()
    fewest, most = _ROOM[writer.ring.bits].fraction
    most = min(most, math.floor(_ROOM[writer.ring.bits].scores - math.log2(max(-low, high, OCTAVE) / OCTAVE)))
    frac = _needed(x, max(many))
    if frac > most:
        x = writer.at_most(writer.small(x), x.frac - (frac - most))
    frac = min(max(_needed(x, max(many)), fewest), most)
    factors = [round(x.unit / OCTAVE / count * 2.0**frac) for count in many]
    write = _Local(writer, node)
    kept = write.kept(x.name, x.shape, node.keys, "keys")
    total = write.sum(kept, x.shape, "total")
    if node.keys is None:
        mean = write.reshaped(total, x.shape[:-1] or (1,), (*x.shape[:-1], 1), "mean")
        write.combined(node.name, (x.name, mean), (x.shape, (*x.shape[:-1], 1)), (many[0] * factors[0], -factors[0]))
    else:
        rows, one = (len(many), x.shape[-1]), (len(many), 1)
        own = tuple(count * factor for count, factor in zip(many, factors, strict=True))
        flat = write.times(write.reshaped(kept, x.shape, rows, "rows"), rows, own, "own")
        mean = write.reshaped(total, x.shape[:-1] or (1,), one, "sums")
        mean = write.times(mean, one, tuple(-factor for factor in factors), "mean")
        apart = write.combined(write.name("apart"), (flat, mean), (rows, one), (1, 1))
        write.kept(write.reshaped(apart, rows, x.shape, "shaped"), x.shape, node.keys, "")
    return ScaledWire(node.name, x.shape, writer.ring.bits, frac, OCTAVE, low, high)


def _needed(x: ScaledWire, count: int) -> int:
    """The fractional bits of scores in octaves at which their factor has enough bits."""
    return math.ceil(_FACTOR_BITS - math.log2(x.unit / OCTAVE / count))


def softmax(writer: Writer, node: SoftmaxNode, x: ScaledWire) -> ScaledWire:
    """Write the passes, and then the powers, cut to the bits that products read."""
    keys = counts(node)
    many, few = math.log2(int(keys.max())), math.log2(int(keys.min()))
    source = writer.to_reduce(x, 1)
    scores = Scores(source.name, x.shape, x.frac, 0, x.low / OCTAVE, x.high / OCTAVE)
    first = slope = slope_of(scores.high, many, few, _ROOM[writer.ring.bits].octaves)
    writer.demand(
        slope <= _MOST_SLOPE, f"has scores that reach {scores.high:.3g} octaves above their mean, which have no room"
    )
    width = scores.high - scores.low
    while slope:
        least, most = (few, scores.high / slope + many) if slope == first else (-many, 0.0)
        scores = replace(_without_sum(writer, node, scores, slope, (least, most)), low=-width - slope * many, high=0.0)
        slope //= 2
    return (_logarithm if node.logarithm else _power)(writer, node, scores)


def slope_of(gap: float, many: float, few: float, octaves: int) -> int:
    """Return what the first pass divides scores by that reach `gap` octaves above their mean, in rows of 2^few to
    2^many keys, where the sums of one pass may lie in so many octaves. Each pass behind it divides them by half as
    much. More than the most if none will do."""
    slope = 1
    while gap / slope + many - few > octaves - _MARGIN and slope <= _MOST_SLOPE:
        slope *= 2
    return slope


def _exponentials(name: str, scores: Scores, ring_bits: int, bits: int) -> Iterator[Exp2]:
    """Yield the layers that raise two to scores up to an octave above `high`: few words first. At its top the power has
    so many bits."""
    top = math.ceil(scores.high) + 1
    for spans, steps in _ROOM[ring_bits].layouts:
        if scores.frac - steps < scores.hidden:
            continue
        octaves = 1 << (_OPENED_BITS - steps)
        if top - scores.low > octaves - (octaves >> spans):
            continue
        for table_bits in range(8, min(24, bits - (octaves >> spans)) + 1):
            yield Exp2(
                name=name,
                input=scores.name,
                shape=scores.shape,
                shift=scores.frac - steps,
                opened_bits=_OPENED_BITS,
                word_bits=ring_bits,
                octave_bits=steps,
                span_bits=_OPENED_BITS - spans,
                top=(top + scores.offset) << steps,
                height_bits=bits - table_bits,
                table_bits=table_bits,
            )


def _without_sum(writer: Writer, node: SoftmaxNode, scores: Scores, slope: int, octaves: tuple[float, float]) -> Scores:
    """Write scores minus slope times log2 sum 2^(scores / slope), which lies between `octaves`."""
    write, given = _Local(writer, node, f"{slope}"), scores.over(slope)
    least, most = octaves
    top, keys = math.ceil(given.high) + 1, scores.shape[-1]
    ring_bits, room = writer.ring.bits, _ROOM[writer.ring.bits]
    bits = min(room.power, room.power + top - math.ceil(most))
    end = bits - top + math.ceil(most) + 1  # bits of the largest sum, with a margin of an octave

    def left(layer: Exp2) -> int:
        return min(end - layer.hidden_bits - (keys - 1).bit_length(), _OPENED_BITS)

    def clear(layer: Exp2) -> float:
        return bits - top + least - math.log2(layer.floor * math.sqrt(keys))

    raised = next(
        (
            layer
            for read in range(room.read[1], room.read[0] - 1, -1)
            for layer in _exponentials(write.name("raised"), given, ring_bits, bits)
            if left(layer) >= read and clear(layer) >= room.clear
        ),
        None,
    )
    if raised is None:
        writer.demand(False, "has scores too far apart, which have no room")
        raise AssertionError
    writer.add(raised)
    total = write.sum(write.kept(raised.name, scores.shape, node.keys, "among"), scores.shape, "total")
    segments = max(math.ceil((math.ceil(most) + 2 - least) / STEP_BITS), 2)
    start = end - STEP_BITS * segments
    shape = scores.shape[:-1] or (1,)
    normalised = Normalise(
        name=write.name("normal"),
        input=total,
        shape=shape,
        shift=start,
        opened_bits=ring_bits - start,
        range_bits=STEP_BITS * segments,
        digit_bits=5,
        hinges=tuple(1 << STEP_BITS * place for place in range(1, segments)),
    )
    writer.add(normalised)
    height, step = (write.plane(normalised, plane, suffix) for plane, suffix in ((0, "height"), (2, "step")))
    opened, frac = left(raised), min(room.logarithm[0], scores.frac)
    logarithm = Pieces(
        name=write.name("log"),
        input=height,
        shape=(1, *shape),
        shift=end - opened,
        opened_bits=opened,
        word_bits=ring_bits,
        function="log2",
        frac_bits=opened - STEP_BITS,
        lowest=15 << (opened - 8),
        piece_bits=_PIECE_BITS if slope == 1 and not node.logarithm else _FINER_PIECE_BITS,
        degree=_DEGREE,
        value_bits=frac - room.logarithm[1],
        table_bits=room.logarithm[1],
    )
    writer.add(logarithm)
    one = (*scores.shape[:-1], 1)
    name = write.combined(
        write.name("less"),
        (
            scores.name,
            write.reshaped(logarithm.name, (1, *shape), one, "logs"),
            write.reshaped(step, (1, *shape), one, "steps"),
        ),
        (scores.shape, one, one),
        (1, -slope << (scores.frac - frac), -slope * STEP_BITS << scores.frac),
    )
    shown = (scores.hidden and 1 << scores.hidden) + (slope << (scores.frac - frac + logarithm.hidden_bits))
    return replace(
        scores, name=name, offset=scores.offset + slope * (start - bits + top), hidden=(shown - 1).bit_length()
    )


def _power(writer: Writer, node: SoftmaxNode, scores: Scores) -> ScaledWire:
    write, bits = _Local(writer, node), _ROOM[writer.ring.bits].power
    fewest, enough = _ROOM[writer.ring.bits].result
    below = bits - 1  # fractional bits: the top is an octave above 1
    made = _exponentials(write.name("power"), scores, writer.ring.bits, bits)
    layer = max(made, key=lambda one: min(below - one.hidden_bits, enough), default=None)
    if layer is None or below - layer.hidden_bits < fewest:
        writer.demand(False, "has scores too far apart, which have no room")
        raise AssertionError
    frac = min(below - layer.hidden_bits, enough)
    writer.add(layer)
    name = node.name if node.keys is None else write.name("cut")
    head = {"name": name, "input": layer.name, "shape": scores.shape}
    writer.add(Truncate(**head, shift=below - frac, opened_bits=frac + 3))
    write.kept(name, scores.shape, node.keys, "")
    low, high = writer.bounds(node)
    return ScaledWire(node.name, scores.shape, writer.ring.bits, frac, 1.0, low, high)


def _logarithm(writer: Writer, node: SoftmaxNode, scores: Scores) -> ScaledWire:
    write, (low, high) = _Local(writer, node), writer.bounds(node)
    shift = max(scores.frac - _OUTPUT_FRAC, scores.hidden)
    cut = Truncate(
        name=write.name("cut"), input=scores.name, shape=scores.shape, shift=shift, opened_bits=writer.precision.opened
    )
    writer.add(cut)
    moved = node.name if node.keys is None else write.name("moved")
    x = ScaledWire(cut.name, scores.shape, writer.ring.bits, scores.frac - shift, OCTAVE, low, high)
    x = products.bias(writer, moved, x, torch.tensor(-scores.offset * OCTAVE), low, high)
    return replace(x, name=write.kept(moved, scores.shape, node.keys, ""))


@dataclass(frozen=True)
class _Local:
    """Writes layers of one node that each party computes alone. Every method returns the wire's name; a method without
    a suffix writes the node's own wire."""

    writer: Writer
    node: ir.Node
    part: str = ""

    def name(self, suffix: str) -> str:
        suffix += self.part
        return f"{self.node.name[: 63 - len(suffix)]}-{suffix}"

    def combined(
        self, name: str, inputs: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], factors: tuple[int, ...]
    ) -> str:
        self.writer.add(local.Combine(name=name, inputs=inputs, shapes=shapes, factors=factors))
        return name

    def sum(self, wire: str, shape: tuple[int, ...], suffix: str) -> str:
        """Write the sum over the last axis."""
        self.writer.add(local.Sum(name=self.name(suffix), input=wire, shape=shape, axes=(len(shape) - 1,)))
        return self.name(suffix)

    def reshaped(self, wire: str, shape: tuple[int, ...], to: tuple[int, ...], suffix: str) -> str:
        if shape == to:
            return wire
        self.writer.add(local.Reshape(name=self.name(suffix), input=wire, shape=shape, to=to))
        return self.name(suffix)

    def plane(self, of: Normalise, place: int, suffix: str) -> str:
        head = {"name": self.name(suffix), "input": of.name, "shape": of.output_shape}
        self.writer.add(local.Slice(**head, axis=0, start=place, stop=place + 1))
        return self.name(suffix)

    def times(self, wire: str, shape: tuple[int, ...], factors: tuple[int, ...], suffix: str) -> str:
        """Multiply each row by a factor of its own."""
        head = {"name": self.name(suffix), "input": wire, "shape": shape}
        self.writer.add(local.Take(**head, axis=0, places=(tuple(range(shape[0])),), factors=(factors,)))
        return self.name(suffix)

    def kept(self, wire: str, shape: tuple[int, ...], keys: Tensor | None, suffix: str) -> str:
        """Write 0 in the places that are no keys."""
        if keys is None:
            return wire
        bits = np.packbits(keys.bool().numpy().reshape(-1)).tobytes().hex()
        name = self.name(suffix) if suffix else self.node.name
        self.writer.add(local.Keep(name=name, input=wire, shape=shape, keys=bits, keys_shape=tuple(keys.shape)))
        return name
