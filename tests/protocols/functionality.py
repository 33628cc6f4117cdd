"""What every layer is defined to compute: on values in its stated range, and on all others."""

import math
from itertools import combinations

import numpy as np

from moiety_shared.plan.approximate import Approximate
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.lookups import Comparison, Decide, Hinged, Lookup, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.waves import Waves
from moiety_shared.ring import Array


def in_range(k: int, layer: Lookup, t: tuple[int, ...]) -> bool:
    """What the layers state about the values they are given."""
    match layer:
        case Truncate():
            middle = 1 << (layer.opened_bits - 2)
            return layer.opened_bits == k or all(-middle <= value < middle for value in t)
        case Hinged():
            compared = [value - h for value in t for h in layer.hinges]
        case MaxPool() | TopK():
            compared = [a - b for a, b in combinations(t, 2)]
        case _:
            return True
    return all(-(1 << layer.range_bits) <= v < 1 << layer.range_bits for v in compared)


def functionality(layer: Lookup, t: Array) -> Array:
    """The layer's definition, on true integers (rows, *shape). A pool's window is its whole input here."""
    match layer:
        case Truncate():
            return t
        case ReLU():
            terms = [np.where(t > h, t - h, 0) for h in layer.hinges]
            return np.asarray(sum(terms[::2]) - sum(terms[1::2]))
        case MaxPool():
            return t.max(axis=(2, 3), keepdims=True)
        case Decide():
            return np.asarray(sum(t >= h for h in layer.hinges)) % 2
        case OneHot():
            index = t % 2**layer.opened_bits
            return (np.where(index < layer.classes, index, 0) == np.arange(layer.classes)) * 1
        case Table():
            return np.stack([np.array(values)[t % 2**layer.opened_bits] for values in layer.values], axis=1)
        case TopK():
            places = np.arange(layer.size)
            ahead = (t[:, None] > t[:, :, None]) | ((t[:, None] == t[:, :, None]) & (places < places[:, None]))
            rank = ahead.sum(axis=2)
            return (rank == 0) * 1 if layer.result == "share" else np.where(rank < layer.k, rank + 1, 0)
    raise TypeError(layer.op)  # type: ignore[attr-defined]


def functionality_of_approximate(layer: Approximate, t: Array, opened: Array) -> Array:
    """The result for t (rows, *shape) and the t^ (rows, size) that was opened."""
    match layer:
        case Waves():
            return _of_waves(layer, t, opened)
        case Exp2():
            return _of_exp2(layer, t, opened)
        case Pieces():
            return _of_pieces(layer, t, opened)
    raise TypeError(type(layer).__name__)


def _of_waves(layer: Waves, t: Array, opened: Array) -> Array:
    modulus = 1 << layer.opened_bits

    def circle(place: int) -> tuple[float, float]:
        return math.cos(2 * math.pi * place / modulus), math.sin(2 * math.pi * place / modulus)

    def one(value: int, masked: int) -> int:
        total = layer.constant
        for k, wave in enumerate(layer.waves, 1):
            cosine, sine = circle(k * (masked - value) % modulus)
            p, o = wave.cosine * cosine - wave.sine * sine, wave.cosine * sine + wave.sine * cosine
            public = [round(side * 2**wave.table_bits) for side in circle(k * masked % modulus)]
            total += math.floor(p + 0.5) * public[0] + math.floor(o + 0.5) * public[1]
        return total

    every = np.array([[one(value, masked) for masked in range(modulus)] for value in range(modulus)])
    found: Array = every[t.reshape(-1) % modulus, opened.reshape(-1)].reshape(t.shape)
    return found


def _of_exp2(layer: Exp2, t: Array, opened: Array) -> Array:
    """In the domain the power of t. Above it that of t or of t - 2^q: t^ and a mask of its span's bits say which."""
    modulus, span, octave = 1 << layer.opened_bits, 1 << layer.span_bits, 1 << layer.octave_bits

    def one(value: int, masked: int) -> int:
        behind = (masked % span - value + layer.top) % modulus  # how far the start of t^'s span lies below r + top
        below = masked % span - behind  # t - top, or as much less 2^q
        assert (below + layer.top - value) % modulus == 0
        if any(layer.lowest <= same <= layer.top for same in (value, value - modulus)):
            assert -modulus + span <= below <= 0
        word = math.floor(2.0 ** (layer.height_bits - behind / octave) + 0.5)
        return word * math.floor(2.0 ** (layer.table_bits + masked % octave / octave) + 0.5) << masked % span // octave

    every = np.array([[one(value, masked) for masked in range(modulus)] for value in range(modulus)])
    found: Array = every[t.reshape(-1) % modulus, opened.reshape(-1)].reshape(t.shape)
    return found


def _of_pieces(layer: Pieces, t: Array, opened: Array) -> Array:
    modulus, piece = 1 << layer.opened_bits, 1 << layer.piece
    points = [(1 - math.cos((i + 0.5) / (layer.degree + 1) * math.pi)) / 2 for i in range(layer.degree + 1)]

    def function(x: float) -> float:
        return {"log2": math.log2, "rsqrt": lambda x: x**-0.5, "reciprocal": lambda x: 1 / x}[layer.function](x)

    def one(value: int, masked: int) -> int:
        place = masked % piece
        start = value - place if value > place else value - place + modulus  # below 0 lies the top
        start = max(start, layer.lowest - piece + 1)
        values = [function((start + point * piece) / 2**layer.frac_bits) for point in points]
        c = np.polynomial.polynomial.polyfit(points, values, layer.degree) * 2**layer.value_bits
        tables = [math.floor(2**layer.table_bits * (place / piece) ** i + 0.5) for i in range(layer.degree + 1)]
        return sum(round(a) * table for a, table in zip(c, tables, strict=True))

    every = np.array([[one(value, masked) for masked in range(modulus)] for value in range(modulus)])
    found: Array = every[t.reshape(-1) % modulus, opened.reshape(-1)].reshape(t.shape)
    return found


def functionality_of_normalise(layer: Normalise, v: Array, opened: Array) -> Array:
    """The result for v (rows, size) and the v^ that was opened: (rows, 3, size)."""
    t = (v + (opened - v) % 2**layer.shift) >> layer.shift
    reached = np.stack([t >= h for h in layer.hinges], axis=1).sum(axis=1)
    left = len(layer.hinges) - reached
    return np.stack([v * 16**left, 4**left, reached], axis=1)


def functionality_of_normalise_beyond(layer: Normalise, v: Array, opened: Array) -> Array:
    """As before, of values that are not in range: hinges need not be reached in order."""
    t, modulus = (v + (opened - v) % 2**layer.shift) >> layer.shift, 2 << layer.range_bits
    y, scale, reached = v.copy(), np.ones_like(v), np.zeros_like(v)
    for above, h in enumerate(reversed(layer.hinges)):
        below = (t - h) % modulus >= modulus // 2
        y, scale = y + below * v * 15 * 16**above, scale + below * 3 * 4**above
        reached = reached + ~below
    return np.stack([y, scale, reached], axis=1)


def functionality_beyond(layer: Lookup, t: Array) -> Array:
    """What is made of values that are not in range: every comparison reads its value mod 2^(B+1), and no more."""
    if isinstance(layer, Table):
        return functionality(layer, t)
    assert isinstance(layer, Comparison)
    modulus = 2 << layer.range_bits

    def negative(v: Array) -> Array:
        return v % modulus >= modulus // 2

    def winner(values: list[Array]) -> Array:
        while len(values) > 1:
            met = [np.where(negative(a - b), b, a) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = met + values[2 * len(met) :]
        return values[0]

    match layer:
        case ReLU():
            return sum((-1) ** i * np.where(negative(t - h), 0, (t - h) % modulus) for i, h in enumerate(layer.hinges))
        case Decide():
            return np.asarray(sum(~negative(t - h) for h in layer.hinges)) % 2
        case MaxPool():
            rows = [winner([t[:, 0, i, j] for j in range(t.shape[3])]) for i in range(t.shape[2])]
            return winner(rows)[:, None, None, None]
        case TopK():
            places = np.arange(layer.size)
            upper = negative(t[:, :, None] - t[:, None])  # [i, j]: i lost to j, for i < j
            lost = np.where(places[:, None] < places, upper, (places[:, None] > places) & ~upper.transpose(0, 2, 1))
            rank = lost.sum(axis=2)
            return (rank == 0) * 1 if layer.result == "share" else np.where(rank < layer.k, rank + 1, 0)
    raise TypeError(layer.op)  # type: ignore[attr-defined]
