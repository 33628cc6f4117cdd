"""Powers of two: 2^((t - top) / 2^f) for t mod 2^q, over as many octaves as q holds. One round.

    1. open t^ = t + r mod 2^q      q <= 16 bits: opening the input truncates it to so few

Let t^ = v 2^h + w, where w has the low h bits and v names a span. A power of a sum is a product, so the power of
t - top is one of what is public and one of what only the dealer knows:

    2^((t - top) / 2^f)  =  A[w] W[v],    A[w] = 2^(w / 2^f),    W[v] = 2^(-x / 2^f),   x = (r + top - v 2^h) mod 2^q

t - top = w - x modulo 2^q. The dealer fixes W[v] for each of the few spans v, rounded to whole numbers, and each party
multiplies its share of the one that t^ names by A[w], which is public and rounded too. w - x lies between -2^q and
2^h, and so it is t - top itself for all t - top from 2^h - 2^q to 0. This is the layer's domain. Between 0 and 2^h
there are two such numbers, t - top and t - top - 2^q, and r decides which it is: the layers in front keep values away.

Rounding makes the last bits of the product depend on t^ too, a public coin: for t and t^ the product is exact, and
`reference` gives it. A table that differed by one unit between the parties would give garbage. So both tables are made
with whole numbers alone, which every machine computes alike.
"""

import math
from functools import lru_cache

import numpy as np

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.protocols import approximate
from moiety_shared.protocols.approximate import PreparedSum
from moiety_shared.protocols.dealing import Dealer, Holder, Words
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring

_FINE = 100  # fractional bits of the powers before they are rounded: far more than any table has
_KEPT = 16  # tables of each kind that are kept, of 1 MiB each at most


@lru_cache(maxsize=_KEPT)
def _fine(bits: int) -> tuple[int, ...]:
    """Compute 2^(_FINE + j / 2^bits) for j = 0 .. 2^bits - 1."""
    found, root = [1 << _FINE], 2 << _FINE
    for _ in range(bits):
        root = math.isqrt(root << _FINE)
        found = [one for low in found for one in (low, low * root >> _FINE)]
    return tuple(found)


def powers(bits: int, fraction: int) -> Array:
    """Compute 2^(fraction + j / 2^bits), rounded, for j = 0 .. 2^bits - 1."""
    dropped = _FINE - fraction
    half = 1 << (dropped - 1)
    return np.array([(one + half) >> dropped for one in _fine(bits)], dtype=np.int64)


@lru_cache(maxsize=_KEPT)
def table(octave_bits: int, span_bits: int, fraction: int, ring: Ring) -> Array:
    """Return the public A, for each w, as elements of the ring that the parties multiply in. Its first octave is
    rounded, and the others are multiples of it."""
    octaves = np.arange(1 << (span_bits - octave_bits))[:, None]
    found: Array = ring.wrap((powers(octave_bits, fraction) << octaves).reshape(-1).astype(ring.dtype))
    found.flags.writeable = False
    return found


@lru_cache(maxsize=_KEPT)
def heights(octave_bits: int, opened_bits: int, fraction: int) -> Array:
    """Return the dealer's words 2^(fraction - x / 2^octave_bits), rounded, for x = 0 .. 2^opened_bits - 1."""
    octaves = range(1, (1 << (opened_bits - octave_bits)) + 1)
    falling = [powers(octave_bits, fraction - octave)[::-1] for octave in octaves]
    found = np.concatenate([[1 << fraction], *falling])[:-1]
    found.flags.writeable = False
    return found


def every_word(layer: Exp2, r: Array) -> Array:
    """Compute W (rows, spans, size) for masks r (rows, size)."""
    behind = (
        r.astype(np.int32)[:, None] + layer.top - (np.arange(layer.spans, dtype=np.int32) << layer.span_bits)[:, None]
    )
    behind &= (1 << layer.opened_bits) - 1
    found = heights(layer.octave_bits, layer.opened_bits, layer.height_bits)
    return found.astype(Ring(layer.word_bits).dtype, copy=False).take(behind, mode="clip")


def summed(layer: Exp2, party: int, opened: Array, words: Words) -> Array:
    """Compute party p's share of the power (rows, size) from t^ (rows, size) and its shares of W. The result is not
    wrapped."""
    rows, size = opened.shape
    at = opened.view(f"u{opened.itemsize}").astype(np.intp)
    named = at >> layer.span_bits
    named += np.arange(rows)[:, None] * layer.spans
    named *= size
    named += np.arange(size)
    at &= (1 << layer.span_bits) - 1
    share = words.take(named, mode="clip")
    share *= table(layer.octave_bits, layer.span_bits, layer.table_bits, Ring(layer.word_bits)).take(at, mode="clip")
    return share


def reference(layer: Exp2, t: Array, opened: Array) -> Array:
    """Compute the power of plain values t, for the t^ that was opened; both have any shape."""
    masked = (opened.astype(np.int64) & ((1 << layer.opened_bits) - 1)).reshape(1, -1)
    return summed(layer, 1, masked, every_word(layer, masked - t.reshape(1, -1))).reshape(t.shape)


def deal(dealer: Dealer, layer: Exp2) -> None:
    """Fix W for the mask r."""
    approximate.deal(dealer, layer, every_word)


def prepare(holder: Holder, layer: Exp2) -> PreparedSum:
    """Gather party p's shares of r and of W (rows, spans, size)."""
    return approximate.prepare(holder, layer)


def evaluate(ring: Ring, party: int, layer: Exp2, x: Array, prepared: PreparedSum) -> Evaluation:
    """Turn [x]_p (rows, *shape) into [2^((t - top) / 2^f)]_p (rows, *shape) mod 2^word_bits. One opening."""
    return approximate.evaluate(party, layer, x, prepared, summed)
