"""The places of the largest values, without showing any value. The parties compare all pairs at once; a value's rank is
the number of comparisons that it lost. Four rounds.

    1. open t^ = t + r              gives every difference t^_i - t^_j too, under the mask r_i - r_j
    2. open the looked-up bits      of all n (n - 1) / 2 pairs i < j                                   sign.py
    3. open the masked signs        b^ = b xor beta, b = [t_i < t_j]: exact on t, ties to the lower index
       b = b^ + (1 - 2 b^) beta is local with shares of beta; rank_i = sum of what i lost, 0 .. n - 1
    4. open rank^ = rank + r'       mod 2^w, and look it up in a one-time table that is rotated by r'

The parties open ranks under masks, so they learn none. The table's entry is the output: XOR-shared bytes for the client
alone ("words"), or shares of ring elements to go on with ("share").

Each rank belongs to exactly one value, so the output tells the k places and nothing else. Where differences leave their
range, outcomes may go in circles, and a rank may belong to several values or to none. Only a client that shares more
than it may can bring that about. The output is then still a function of the values.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import TopK
from moiety_shared.protocols import reduce, sign
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring


class PreparedTopK(NamedTuple):
    """[r]_p (rows, n); the tables and words of `sign`; [beta]_p (rows, pairs) mod 2^w; [r']_p (rows, n) mod 2^w;
    the table (rows, 2^w, n)."""

    mask: Array
    tables: Array
    words: Array
    beta: Array
    rank_mask: Array
    ranks: Array


@cache
def pairs(n: int) -> tuple[Array, Array]:
    """The index arrays (i, j) of all pairs with i < j."""
    left, right = np.triu_indices(n, 1)
    return left, right


def reference(layer: TopK, less: Array) -> Array:
    """Compute the output from the plain outcomes t_i < t_j of all pairs i < j, (rows, pairs)."""
    left, right = pairs(layer.size)
    lost = np.zeros((len(less), layer.size, layer.size), dtype=np.int16)
    lost[:, left, right] = less
    lost[:, right, left] = ~less
    return places(layer, lost.sum(axis=2))


def places(layer: TopK, ranks: Array) -> Array:
    """What the output says of values of these ranks."""
    found: Array = ranks == 0 if layer.result == "share" else np.where(ranks < layer.k, ranks + 1, 0)
    return found.astype(np.int64 if layer.result == "share" else np.uint8)


def deal(dealer: Dealer, layer: TopK) -> None:
    """Fix the sign tables of all pairs, shares of beta, and the table of ranks, rotated by the mask r'."""
    small, (left, right) = Ring(layer.rank_bits), pairs(layer.size)
    r = dealer.mask("value", (layer.size,), reduce.opened_ring(layer))
    beta = sign.deal(dealer, layer, reduce.opened_ring(layer).wrap(r[:, left] - r[:, right]))
    dealer.fix("beta", beta.astype(small.dtype), small)
    shift = dealer.mask("rank", (layer.size,), small)
    place = np.arange(1 << layer.rank_bits, dtype=small.dtype)[:, None]
    table = places(layer, small.wrap(place - shift[:, None]))
    if layer.result == "words":
        dealer.fix_words("ranks", table)
    else:
        dealer.fix("ranks", table.astype(dealer.ring.dtype))


def prepare(holder: Holder, layer: TopK) -> PreparedTopK:
    """Gather party p's randomness for the four openings."""
    small, shape = Ring(layer.rank_bits), (1 << layer.rank_bits, layer.size)
    mask = holder.mask("value", (layer.size,), reduce.opened_ring(layer))
    tables, words = sign.prepare(holder, layer)
    beta = holder.fixed("beta", (layer.comparisons,), small)
    rank_mask = holder.mask("rank", (layer.size,), small)
    as_words = layer.result == "words"
    ranks = holder.fixed_words("ranks", shape, np.uint8) if as_words else holder.fixed("ranks", shape)
    return PreparedTopK(mask, tables, words, beta, rank_mask, ranks)


def evaluate(party: int, layer: TopK, x: Array, prepared: PreparedTopK) -> Evaluation:
    """Turn [x]_p (rows, n) into <place>_p (rows, n) as bytes, or into shares of ring elements. Four openings."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    small, (left, right) = Ring(layer.rank_bits), pairs(layer.size)
    difference = reduce.opened_ring(layer).wrap(opened[:, left] - opened[:, right])
    masked = yield from sign.evaluate(party, layer, difference, prepared.tables, prepared.words)
    signs = yield Opening(masked, Kind.BITS)
    public: Array = signs.astype(small.dtype)
    less: Array = (1 - 2 * public) * prepared.beta + party * public
    lost = np.zeros((len(x), layer.size, layer.size), dtype=small.dtype)  # [i, j]: i lost to j
    lost[:, left, right] = less
    lost[:, right, left] = party - less
    rank = lost.sum(axis=2, dtype=small.dtype)
    rotated = yield Opening(small.wrap(rank + prepared.rank_mask), Kind.RING, small)
    return np.take_along_axis(prepared.ranks, rotated[:, None].astype(np.int64), axis=1)[:, 0]
