"""Steep functions by pieces: f(t) for t mod 2^q, by a polynomial in what of t^ is public. One round.

    1. open t^ = t + r mod 2^q      q <= 16 bits: opening the input truncates it to so few

Let v be the upper m bits of t^ and w the lower h = q - m, and rv and rw those of r. Then t = start + w mod 2^q with

    start = ((v - rv) mod 2^m) 2^h - rw

The parties know w and v. For each v that there is, the dealer knows the start, and so the piece of 2^h values that t
lies in. It fits a polynomial c_0 + c_1 (w / 2^h) + ... to f on this piece, by interpolation at Chebyshev's points, and
fixes its coefficients, rounded to `value_bits`. Each party picks its shares of the coefficients at v and multiplies
them by the powers of w / 2^h, rounded to `table_bits`:

    f(t) = sum over i of c_i[v] round(2^a (w / 2^h)^i)

A start of 0 or less is one near 2^q, where the piece goes on beyond: it serves the largest t. So the lowest t that is
served lies one piece above 0. No polynomial starts below `first`: a start below takes the polynomial of `first`.

The polynomial's error and the roundings depend on t^ too, a public coin: for t and t^ the sum is exact, and `reference`
gives it. Powers are made with whole numbers alone, so both parties' are equal on every machine. Coefficients are the
dealer's alone; nobody else has to compute the same.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from moiety_shared.plan.pieces import Function, Pieces
from moiety_shared.protocols import approximate
from moiety_shared.protocols.approximate import PreparedSum
from moiety_shared.protocols.dealing import Dealer, Holder, Words
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring, blocks

_KEPT = 16  # tables of coefficients that are kept, of 2 MiB each at most

_FUNCTIONS: dict[Function, Callable[[Array], Array]] = {
    "log2": np.log2,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}


def coefficients(layer: Pieces) -> Array:
    """Compute the rounded coefficients of every start from 0 to 2^q: (d + 1, 2^q + 1)."""
    return _coefficients(
        layer.function, layer.opened_bits, layer.frac_bits, layer.first, layer.piece, layer.degree, layer.value_bits
    )


@lru_cache(maxsize=_KEPT)
def _coefficients(
    function: Function, opened_bits: int, frac_bits: int, first: int, piece: int, degree: int, value_bits: int
) -> Array:
    points = (1 - np.cos((np.arange(degree + 1) + 0.5) / (degree + 1) * np.pi)) / 2
    solve = np.linalg.inv(np.vander(points, increasing=True)) * 2.0**value_bits
    starts = np.maximum(np.arange((1 << opened_bits) + 1), first)
    values = [_FUNCTIONS[function]((starts + point * 2.0**piece) / 2.0**frac_bits) for point in points]
    found = np.empty((degree + 1, len(starts)), dtype=np.int64)
    for power, factors in enumerate(solve.tolist()):
        found[power] = np.rint(np.sum([f * value for f, value in zip(factors, values, strict=True)], axis=0))
    found.flags.writeable = False
    return found


@lru_cache(maxsize=_KEPT)
def powers(piece: int, table_bits: int, power: int, ring: Ring) -> Array:
    """Compute 2^table_bits (w / 2^piece)^power, rounded, for w = 0 .. 2^piece - 1, as elements of the ring."""
    w, half = np.arange(1 << piece, dtype=np.int64), 1 << (piece * power) >> 1
    found: Array = (((w**power << table_bits) + half) >> (piece * power)).astype(ring.dtype)
    found.flags.writeable = False
    return found


def _begins(layer: Pieces, start: Array) -> Array:
    """Place starts of 0 or less near 2^q."""
    return np.where(start > 0, start, start + (1 << layer.opened_bits))


def words_of(layer: Pieces, r: Array) -> Array:
    """Look up the coefficients of all pieces for masks r (rows, n): (rows, d + 1, 2^m, n)."""
    v, low = np.arange(1 << layer.piece_bits)[:, None], (1 << layer.piece) - 1
    start = (((v - (r >> layer.piece)[:, None]) % len(v)) << layer.piece) - (r & low)[:, None]
    found: Array = np.moveaxis(coefficients(layer).take(_begins(layer, start), axis=1), 0, 1)
    return found


def _at(layer: Pieces, chosen: Array, w: Array) -> Array:
    """Compute polynomials at w (rows, n), from their coefficients (rows, d + 1, n), which are overwritten."""
    ring = Ring(layer.word_bits)
    for power in range(1, layer.degree + 1):
        chosen[:, power] *= powers(layer.piece, layer.table_bits, power, ring).take(w)
    chosen[:, 0] <<= layer.table_bits
    found: Array = chosen.sum(axis=1, dtype=chosen.dtype)
    return found


def summed(layer: Pieces, party: int, opened: Array, words: Words) -> Array:
    """Compute party p's share of f(t) (rows, size) from t^ (rows, size) and its shares of the dealer's words. The
    result is not wrapped. Both parties do the same: nothing is added to the words."""
    rows, size = opened.shape
    out, each = np.empty((rows, size), dtype=words.dtype), np.arange(rows * (layer.degree + 1)).reshape(rows, -1, 1)
    for part in blocks(opened):
        t = opened[:, part].astype(np.int64) & ((1 << layer.opened_bits) - 1)
        named = ((each << layer.piece_bits) + (t >> layer.piece)[:, None]) * size + np.arange(part.start, part.stop)
        out[:, part] = _at(layer, words.take(named, mode="clip"), t & ((1 << layer.piece) - 1))
    return out


def reference(layer: Pieces, t: Array, opened: Array) -> Array:
    """Compute f on plain values t, for the t^ that was opened; both have any shape."""
    w = opened.astype(np.int64).reshape(1, -1) & ((1 << layer.piece) - 1)
    start = (t.astype(np.int64).reshape(1, -1) - w) & ((1 << layer.opened_bits) - 1)
    chosen = coefficients(layer).take(_begins(layer, start), axis=1).astype(Ring(layer.word_bits).dtype)
    return _at(layer, np.moveaxis(chosen, 0, 1).copy(), w).reshape(t.shape)


def every_word(layer: Pieces, r: Array) -> Array:
    """Look up the coefficients of all pieces for masks r (rows, size), as elements of the words' ring: (rows, words,
    size)."""
    words = np.empty((len(r), layer.words, layer.size), dtype=Ring(layer.word_bits).dtype)
    for part in blocks(words.reshape(-1, layer.size)):
        words[:, :, part] = words_of(layer, r[:, part]).reshape(len(r), layer.words, -1)
    return words


def deal(dealer: Dealer, layer: Pieces) -> None:
    """Fix the coefficients of every piece for the mask r."""
    approximate.deal(dealer, layer, every_word)


def prepare(holder: Holder, layer: Pieces) -> PreparedSum:
    """Gather party p's shares of r and of the coefficients: (rows, (d + 1) 2^m, size), power by power and in each v by
    v."""
    return approximate.prepare(holder, layer)


def evaluate(ring: Ring, party: int, layer: Pieces, x: Array, prepared: PreparedSum) -> Evaluation:
    """Turn [x]_p (rows, *shape) into [f]_p (rows, *shape) mod 2^word_bits. One opening."""
    return approximate.evaluate(party, layer, x, prepared, summed)
