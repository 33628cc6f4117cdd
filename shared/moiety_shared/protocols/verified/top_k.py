"""The places of the largest values of an open wire, as top_k.py finds them. Four openings.

    1. the looked-up bits    (a byte a pair)     and
    2. the masked signs      (a bit)             of all differences t^_i - t^_j, which are open, under r_i - r_j
    3. rank^ = rank + m      (a word)            m is a free word: all ranks add up to a number that everybody knows
    4. place + r'            (a word)            the entry at rank^ of a table of words, rotated by m mod 2^w

The place is a word, also where it is for the client alone: it is under a mask that the client knows.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import TopK
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.top_k import pairs, places
from moiety_shared.protocols.verified.comparison import Signs
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, ProvableSigns, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened, unmasked
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.ring import Array


class VerifiedTopK(NamedTuple):
    """The look-ups; [beta] (2, rows, pairs); the masks m of the ranks (2, rows, n); the table (2, rows, 2^w, n); the
    mask r' of the result (rows, n)."""

    signs: ProvableSigns
    beta: Authentic
    rank: Authentic
    ranks: Authentic
    mask: Authentic


def _differences(layer: TopK, values: Array) -> Array:
    left, right = pairs(layer.size)
    return opened_ring(layer).wrap(values[:, left] - values[:, right])


def deal(dealer: LayerDealer, layer: TopK, y: DealtWire) -> DealtWire:
    """Deal the look-ups of all pairs, beta, and the table of ranks."""
    size = 1 << layer.rank_bits
    dealer.fix("beta", dealer.signs(layer, _differences(layer, cut_mask(layer, y.low))))
    shift = dealer.word.lowest(dealer.free("rank", (dealer.rows, layer.size)))
    dealer.fix("ranks", places(layer, (np.arange(size)[:, None] - shift[:, None]) % size).astype(np.int64))
    return dealer.result((dealer.rows, layer.size))


def prepare(holder: LayerHolder, layer: TopK, mask: object) -> tuple[VerifiedTopK, Authentic]:
    """Gather party p's randomness for the four openings."""
    rows, result = holder.rows, holder.result((holder.rows, layer.size))
    return VerifiedTopK(
        holder.signs(layer),
        holder.fixed("beta", (rows, layer.comparisons)),
        holder.free("rank", (rows, layer.size)),
        holder.fixed("ranks", (rows, 1 << layer.rank_bits, layer.size)),
        result,
    ), result


def evaluate(party: RunningParty, layer: TopK, prepared: VerifiedTopK, y: Array) -> Generator[Opening, Array, Array]:
    """Turn the open y^ (rows, n) into the open places. Four openings."""
    word = party.word
    signs = yield from Signs(party, layer, prepared.signs).of(_differences(layer, cut(layer, y)))
    known = zip(party.one[:2], prepared.beta[:2], strict=True)
    value, tag = (_ranks(layer, one, unmasked(one, signs.astype(np.int64), beta)) for one, beta in known)
    rank = word.lowest((yield from opened(party, f"{layer.name}/ranks", value, tag, prepared.rank)))
    at = (rank % (1 << layer.rank_bits))[None, :, None]
    value, tag = (np.take_along_axis(table, at, axis=2)[:, :, 0] for table in prepared.ranks[:2])
    return word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))


def _ranks(layer: TopK, one: Array, less: Array) -> Array:
    """Count what each value lost (2, rows, n), from words that say t_i < t_j of all pairs i < j (2, rows, pairs)."""
    left, right = pairs(layer.size)
    lost = np.zeros((*less.shape[:2], layer.size, layer.size), dtype=np.int64)  # [i, j]: i lost to j
    lost[..., left, right] = less
    lost[..., right, left] = one[:, None, None] - less
    ranks: Array = lost.sum(axis=-1)
    return ranks
