"""Smooth functions as sums of waves: f(t) for t mod 2^q, from a sum over k = 1 .. K. One round.

    1. open t^ = t + r mod 2^q      q <= 16 bits: opening the input truncates it to so few

t = t^ - r, and so a wave of t is a sum of two products of what is public and what only the dealer knows. With w = 2 pi
k / 2^q,

    a cos(w t) + b sin(w t) = cos(w t^) p + sin(w t^) o,    p = a cos(w r) - b sin(w r),   o = a sin(w r) + b cos(w r)

The dealer fixes p and o, rounded to whole numbers. Each party multiplies its shares of them by cosines and sines of t^,
rounded to the wave's `table_bits`, and adds all up. Rounding makes the last bits of the sum depend on t^ too, a public
coin: for t and t^ the sum is exact, and `reference` gives it.

A table that differed by one unit between the parties would give garbage. So its entries are those that every machine
rounds alike: none lies so near the middle between two whole numbers that the error of a cosine in float64 could matter.
A test looks at all of them.
"""

from functools import lru_cache

import numpy as np

from moiety_shared.plan.waves import Wave, Waves
from moiety_shared.protocols import approximate
from moiety_shared.protocols.approximate import PreparedSum
from moiety_shared.protocols.dealing import Dealer, Holder, Words
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring, blocks

_FINE = 30  # fractional bits of the dealer's cosines
_KEPT = 64  # tables that are kept, of 1 MiB each at most


@lru_cache(maxsize=_KEPT)
def cosines(bits: int, fraction: int) -> Array:
    """Compute 2^fraction cos(2 pi j / 2^bits), rounded, for j = 0 .. 2^bits - 1."""
    found: Array = np.rint(np.cos(2 * np.pi / (1 << bits) * np.arange(1 << bits)) * 2.0**fraction).astype(np.int64)
    found.flags.writeable = False
    return found


@lru_cache(maxsize=_KEPT)
def tables(bits: int, fraction: int, ring: Ring) -> tuple[Array, Array]:
    """Return the public cosines and sines as elements of the ring that the parties multiply in."""
    cosine = cosines(bits, fraction).astype(ring.dtype)
    sine = np.roll(cosine, 1 << (bits - 2))
    for table in (cosine, sine):
        table.flags.writeable = False
    return cosine, sine


def words_of(layer: Waves, number: int, wave: Wave, r: Array) -> tuple[Array, Array]:
    """Compute p and o of the wave k = `number` for masks r of any shape."""
    fine, place = cosines(layer.opened_bits, _FINE), (1 << layer.opened_bits) - 1
    turned = (r.astype(np.int64) * number) & place
    cosine, sine = fine.take(turned), fine.take((turned - (1 << (layer.opened_bits - 2))) & place)
    half = 1 << (_FINE - 1)
    return (
        (wave.cosine * cosine - wave.sine * sine + half) >> _FINE,
        (wave.cosine * sine + wave.sine * cosine + half) >> _FINE,
    )


def summed(layer: Waves, party: int, opened: Array, words: Words) -> Array:
    """Compute party p's share of the sum (rows, size) from t^ (rows, size) and its shares of the dealer's words. The
    result is not wrapped."""
    rows, size = opened.shape
    out = np.full((rows, size), party * layer.constant, dtype=words.dtype)
    place, ring = (1 << layer.opened_bits) - 1, Ring(layer.word_bits)
    for part in blocks(opened):
        step = opened[:, part].astype(np.intp)
        turned = np.zeros_like(step)
        for index, wave in enumerate(layer.waves):
            turned += step
            turned &= place
            for word, table in enumerate(tables(layer.opened_bits, wave.table_bits, ring), 2 * index):
                term = table.take(turned, mode="clip")
                term *= words[:, word, part]
                out[:, part] += term
    return out


def reference(layer: Waves, t: Array, opened: Array) -> Array:
    """Compute the sum on plain values t, for the t^ that was opened; both have any shape.

    There are only so many masks and openings: for many values each wave's words and tables are computed once for all of
    them, and then looked up.
    """
    place, ring = (1 << layer.opened_bits) - 1, Ring(layer.word_bits)
    opened = opened.astype(np.int64).reshape(1, -1) & place
    r = (opened - t.reshape(1, -1)) & place
    if t.size <= place:
        words = [word for k, wave in enumerate(layer.waves, 1) for word in words_of(layer, k, wave, r)]
        return summed(layer, 1, opened, np.stack(words, axis=1).astype(ring.dtype)).reshape(t.shape)
    every, out = np.arange(place + 1), np.full(opened.shape, layer.constant, dtype=ring.dtype)
    for k, wave in enumerate(layer.waves, 1):
        words = [word.astype(ring.dtype) for word in words_of(layer, k, wave, every)]
        turned = [table.take(every * k & place) for table in tables(layer.opened_bits, wave.table_bits, ring)]
        for part in blocks(out):
            for word, table in zip(words, turned, strict=True):
                term = word.take(r[:, part], mode="clip")
                term *= table.take(opened[:, part], mode="clip")
                out[:, part] += term
    return out.reshape(t.shape)


def every_word(layer: Waves, r: Array) -> Array:
    """Compute p and o of every wave for masks r (rows, size), as elements of the words' ring: (rows, words, size)."""
    ring = Ring(layer.word_bits)
    words = np.empty((len(r), layer.words, layer.size), dtype=ring.dtype)
    every = np.arange(1 << layer.opened_bits)
    for index, wave in enumerate(layer.waves):
        # There are only so many masks: for many values their words are computed once, and then looked up.
        few = r.size < len(every)
        for word, found in enumerate(words_of(layer, index + 1, wave, r if few else every), 2 * index):
            words[:, word] = found if few else found.astype(ring.dtype).take(r, mode="clip")
    return words


def deal(dealer: Dealer, layer: Waves) -> None:
    """Fix p and o of every wave for the mask r."""
    approximate.deal(dealer, layer, every_word)


def prepare(holder: Holder, layer: Waves) -> PreparedSum:
    """Gather party p's shares of r and of p, o of the first wave, p, o of the second, ... (rows, 2 K, size)."""
    return approximate.prepare(holder, layer)


def evaluate(ring: Ring, party: int, layer: Waves, x: Array, prepared: PreparedSum) -> Evaluation:
    """Turn [x]_p (rows, *shape) into [sum]_p (rows, *shape) mod 2^word_bits. One opening."""
    return approximate.evaluate(party, layer, x, prepared, summed)
