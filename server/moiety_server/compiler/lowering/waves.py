"""Smooth functions as a line and waves: f(x) is about slope x + constant + the sum of a few cosines and sines of x.

The waves have one period, a little longer than the range of x, so that f may bend back to where it began. The compiler
fits them by least squares, for several periods and slopes, and takes as few as meet f within 0.0005 of its usual
values, or 0.00007 with longer ones. That is possible where f bends on a scale that is not much smaller than its
range: GELU, SiLU, sigmoid, tanh. Functions with kinks, or that are steep at one end, take too many waves. Parabolas
(`smooth`) meet those.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from moiety_server.compiler import ir
from moiety_server.compiler.functions import FUNCTIONS
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_server.compiler.scales import fitting
from moiety_shared.plan import local, lookups
from moiety_shared.plan.reduced import Reduce
from moiety_shared.plan.waves import Wave, Waves, waves_of
from moiety_shared.ring import Array

_CLOSE = {32: 0.0005, 40: 0.00007, 64: 0.00007}  # of the function's usual values, by the bits of the words
_MOST_BYTES = {32: 224, 64: 640}  # a value, by the ring: parabolas take 252 or 560 from the dealer, and 4 rounds more
_HEIGHT_BITS = {32: 30, 40: 38, 64: 54}  # of the largest sum; products of words and tables have no more
_USUAL = 4  # times the root mean square of the values: what is larger is rare, and may be met less closely
_COARSEST = 4  # times as far as the waves may be off: the steps that the result is rounded to
_OPENED_BITS = {32: 14, 40: 16, 64: 16}
_NEAR, _LEAST_WEIGHT = 4, 0.02
"""An error counts less the farther x is from 0: by a bell, as wide as so many times the root mean square of x, and by
so much at least."""
_TURNS = tuple(range(1, 16, 2))  # x is multiplied by one of these, so that periods need not be powers of two
_LEAST, _MOST = 1.06, 2.3  # periods, in ranges of x
_FEWEST = 2
_PLACES = 1001
_STEPS = 4096  # of a period, where the largest value is looked for: 100 of the shortest wave, so it is met within 0.1 %
_RIDGE = {32: 1e-9, 40: 1e-10, 64: 1e-10}
"""With less, sums overshoot where no x is, for which short words have no bit to spare."""
_LARGEST = 1e9


@dataclass(frozen=True)
class Fit:
    """f(x) is about slope x + constant + the sum of cosines[k] cos(w k x) + sines[k] sin(w k x), k = 1, 2, ...

    All in units of the wire's factor. w is 2 pi turns / 2^period_bits for ring elements. `error` is the largest error,
    as a part of the usual values.
    """

    slope: float
    constant: float
    cosines: Array
    sines: Array
    turns: int
    period_bits: int
    error: float

    @cached_property
    def reach(self) -> float:
        """The largest value of constant and waves, wherever x is."""
        return float(np.abs(self.constant + waves_of(self.cosines, self.sines, _STEPS)).max())

    @property
    def price(self) -> float:
        """The number of waves, and as much for each bit of what rounding adds as such a bit is worth: the more, the
        higher the waves are, however far they cancel."""
        heights = abs(self.constant) + float(np.hypot(self.cosines, self.sines).sum())
        return len(self.cosines) + 4 * math.log2(max(heights, 1e-9))


def fits(
    node: ir.SmoothNode, x: ScaledWire, usual: float, word_bits: int, ring_bits: int, typical: float = math.inf
) -> list[Fit]:
    """Fit waves over the values that `x` may have, in several ways, the cheapest first. None is there where no number
    of them that is worth it meets the function.

    `usual` is the root mean square of the function's values, and `typical` that of x.
    """
    if FUNCTIONS[node.function].is_steep:
        return []
    low, high = x.low / x.factor, x.high / x.factor
    places = np.linspace(low, high, _PLACES)
    y = node.forward(torch.from_numpy(places * x.factor)).numpy() / x.factor
    if not (np.isfinite(y).all() and max(high - low, float(np.abs(y).max())) < _LARGEST):
        return []
    usual = min(_USUAL * usual / x.factor, float(np.abs(y).max()))
    if usual <= 0:
        return []
    most = _MOST_BYTES[ring_bits]
    bell = np.exp(-((places * x.factor / max(_NEAR * typical, 1e-9)) ** 2))
    weight = np.maximum(bell, _LEAST_WEIGHT) / np.maximum(usual, np.abs(y))
    found = [
        fit
        for turns, period_bits in _periods(x, high - low)
        for fit in _series(places, y, weight, turns, period_bits, x.frac, word_bits, most)
    ]
    return sorted(found, key=lambda fit: fit.price)


def _periods(x: ScaledWire, width: float) -> Iterator[tuple[int, int]]:
    """Yield (turns, bits) of the periods that hold the range: 2^bits / turns ring elements."""
    for turns in _TURNS:
        least = math.ceil(math.log2(width * _LEAST * turns) + x.frac)
        for bits in (least, least + 1):
            if 2.0 ** (bits - x.frac) / turns <= _MOST * width and _FEWEST + 2 <= bits <= x.bits:
                yield turns, bits


def _series(
    places: Array, y: Array, weight: Array, turns: int, period_bits: int, frac: int, word_bits: int, most_bytes: int
) -> Iterator[Fit]:
    """Yield for each of a few slopes the least number of waves, if any, that is close enough."""
    steps = 1 << min(period_bits, _OPENED_BITS[word_bits])
    most = min(most_bytes * 4 // word_bits, steps // 2)
    angle = 2 * np.pi * turns * 2.0 ** (frac - period_bits) * places
    basis = np.ones((len(places), 2 * most + 1))
    basis[:, 1::2] = np.cos(np.outer(angle, np.arange(1, most + 1)))
    basis[:, 2::2] = np.sin(np.outer(angle, np.arange(1, most + 1)))
    basis *= weight[:, None]
    squares = basis.T @ basis + _RIDGE[word_bits] * float((weight**2).sum()) * np.eye(2 * most + 1)
    rise = float((y[-1] - y[0]) / (places[-1] - places[0]))
    slopes = {0.0, math.copysign(2.0 ** round(math.log2(abs(rise))), rise)} if rise else {0.0}
    for slope in sorted(slopes):
        wanted = (y - slope * places) * weight
        sides = basis.T @ wanted
        for count in range(_FEWEST, most + 1):
            size = 2 * count + 1
            c = np.linalg.solve(squares[:size, :size], sides[:size])
            error = float(np.abs(basis[:, :size] @ c - wanted).max())
            if error <= _CLOSE[word_bits]:
                yield Fit(slope, float(c[0]), c[1::2], c[2::2], turns, period_bits, error)
                break


def layer_of(fit: Fit, x: ScaledWire, name: str, word_bits: int, tallest: float) -> tuple[Waves, int]:
    """Return the layer for ring elements of x times `fit.turns`, and its fractional bits. Its words hold values up to
    `tallest`, in units of the wire's factor."""
    frac = fitting(tallest, _HEIGHT_BITS[word_bits])
    heights = np.maximum(np.hypot(fit.cosines, fit.sines), 2.0**-frac)
    # Words and tables share the bits of a product so that both add as much by rounding.
    tables = np.clip(np.round((frac + np.log2(heights)) / 2), 1, 24).astype(int)
    opened = min(fit.period_bits, _OPENED_BITS[word_bits])
    waves = tuple(
        Wave(cosine=round(cosine * 2.0 ** (frac - bits)), sine=round(sine * 2.0 ** (frac - bits)), table_bits=bits)
        for cosine, sine, bits in zip(fit.cosines.tolist(), fit.sines.tolist(), tables.tolist(), strict=True)
    )
    layer = Waves(
        name=name,
        input=x.name,
        shape=x.shape,
        shift=fit.period_bits - opened,
        opened_bits=opened,
        word_bits=word_bits,
        constant=round(fit.constant * 2.0**frac),
        waves=waves,
    )
    return layer, frac


def write(writer: Writer, node: ir.SmoothNode, x: ScaledWire) -> ScaledWire | None:
    """Write slope x + waves, both cut to few bits. Returns None, and writes nothing, where waves are not worth it.

    Where words of 32 bits are too coarse for one function of a plan, those of 40 or 64 bits may still beat parabolas.
    """
    usual, bounds = writer.known[node.name].rms, writer.bounds(node)
    typical = writer.known[node.inputs[0]].rms
    for words in (words for words in _CLOSE if words in range(writer.precision.waves, writer.ring.bits + 1)):
        found = fits(node, x, usual, words, writer.ring.bits, typical)
        if not found and words > 32:  # longer words have to be as close, with fewer waves
            return None
        for fit in found:
            if fit.reach * x.factor < _CLOSE[words] * max(map(abs, bounds)):  # hardly more than a line
                return None
            if written := _written(writer, node, x, fit, usual, words):
                return written
    return None


def _written(
    writer: Writer, node: ir.SmoothNode, x: ScaledWire, fit: Fit, usual: float, words: int
) -> ScaledWire | None:
    """Write what `fit` says. Returns None, and writes nothing, where it is too coarse once it is cut so far that
    rounding does not show."""
    low, high = writer.bounds(node)
    own, most = replace(x, name=node.name), max(-low, high)
    waves, frac = layer_of(fit, x, writer.name(own, "waves"), words, max(fit.reach, most / x.factor))
    if joined := not fit.slope or _joins(fit, x, frac, words):
        tall = most / x.factor
    else:
        waves, frac = layer_of(fit, x, waves.name, words, fit.reach)
        tall = max(fit.reach, abs(fit.slope) * x.reach)
    room = min(fitting(tall, writer.precision.short), fitting(most / x.factor, writer.ring.bits - 2))
    cut = min(frac - waves.hidden_bits, room)
    if 2.0**-cut * x.factor > _COARSEST * _CLOSE[words] * min(_USUAL * usual, most):
        return None
    x = writer.to_reduce(x, 1 if fit.slope and joined else waves.shift)  # the sum is cut as well
    source = x
    if fit.turns > 1:
        turned = local.Combine(
            name=writer.name(own, "turned"), inputs=(x.name,), shapes=(x.shape,), factors=(fit.turns,)
        )
        source = writer.after(x, turned)
    writer.add(waves.model_copy(update={"input": source.name}))
    bent = replace(x, name=waves.name, bits=words, frac=frac, factor=x.factor, low=low, high=high)
    opened = _HEIGHT_BITS[words] + 2 - (frac - cut)
    if fit.slope and joined:
        bent = _sum(writer, writer.name(own, "bent"), bent, _reduced(writer, own, x, fit, frac, words), fit)
    if joined:
        return _cut(writer, node.name, bent, cut, opened)
    bent = _cut(writer, writer.name(own, "bent"), bent, cut, opened)
    return _sum(writer, node.name, bent, _line(writer, x, cut + _steps(fit)), fit)


def _steps(fit: Fit) -> int:
    """The slope's power of two."""
    return round(math.log2(abs(fit.slope)))


def _joins(fit: Fit, x: ScaledWire, frac: int, words: int) -> bool:
    """Whether x has the bits to be added to waves of `frac` fractional bits in the ring of their words."""
    return x.bits > words and x.bits >= words + x.frac - _steps(fit) - frac


def _reduced(writer: Writer, own: ScaledWire, x: ScaledWire, fit: Fit, frac: int, words: int) -> ScaledWire:
    """Write x in the ring of the waves' words, cut to the bits that the line has there. That takes no opening."""
    shift = max(x.frac - _steps(fit) - frac, 0)
    layer = Reduce(name=writer.name(own, "line"), input=x.name, shape=x.shape, shift=shift, opened_bits=words)
    return writer.after(x, layer, frac=x.frac - shift, bits=words)


def _sum(writer: Writer, name: str, bent: ScaledWire, line: ScaledWire, fit: Fit) -> ScaledWire:
    """Write the sum of waves and their line, of one ring."""
    gain = round(math.copysign(2.0 ** (bent.frac + _steps(fit) - line.frac), fit.slope))
    both = local.Combine(name=name, inputs=(bent.name, line.name), shapes=(bent.shape,) * 2, factors=(1, gain))
    return writer.after(bent, both)


def _cut(writer: Writer, name: str, bent: ScaledWire, frac: int, opened: int) -> ScaledWire:
    """Write the truncation that hides the bits in which rounding shows."""
    layer = lookups.Truncate(name=name, input=bent.name, shape=bent.shape, shift=bent.frac - frac, opened_bits=opened)
    return writer.after(bent, layer, frac=frac, bits=writer.ring.bits)


def _line(writer: Writer, x: ScaledWire, frac: int) -> ScaledWire:
    """Return x in the plan's ring with at most `frac` fractional bits, opened with as few bits as hold it."""
    if x.frac <= frac:
        return writer.in_ring(x)
    short = writer.precision.short + 2
    return writer.truncated(x, frac, "line", short if x.reach * 2.0**frac < 2.0 ** (short - 2) else None)
