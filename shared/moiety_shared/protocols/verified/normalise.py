"""Normal forms of an open wire: y = v 16^(J-1-j), as normalise.py finds it. Three openings.

v^ = v + r is open whole, as every wire is. The parties open

    1. the looked-up bits            (a byte a hinge and value)    and
    2. the masked signs b^_i         (a bit)                       of the upper bits of v^, less each hinge
    3. y, 4^(J-1-j) and j, each + z  (three words)

The three are linear in what the dealer fixes, r, beta_i and beta_i r, once v^ and b^_i are public: the claim is the
formula of normalise.py run on tags. All three hold the same beta_i, times even numbers. So each z is a word.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.normalise import STEP_BITS, Normalise
from moiety_shared.protocols.normalise import gains
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.sign import beyond_hinges, each_hinge
from moiety_shared.protocols.verified.comparison import Signs
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, ProvableSigns, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened, scaled, unmasked
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array


class VerifiedNormalise(NamedTuple):
    """The look-ups; [r] (2, rows, size); [beta] and [beta r] (2, rows, 2, hinges size); the masks z of the result
    (rows, 3, *shape)."""

    signs: ProvableSigns
    value: Authentic
    beta: Authentic
    mask: Authentic


def deal(dealer: LayerDealer, layer: Normalise, v: DealtWire) -> DealtWire:
    """Deal the look-ups for the upper bits of r, then r, beta, beta r and z."""
    beta = dealer.signs(layer, each_hinge(layer, cut_mask(layer, v.low)))
    r = v.low.reshape(dealer.rows, layer.size)
    dealer.fix("value", r)
    dealer.fix("beta", np.stack((beta, beta * each_hinge(layer, r)), axis=1))
    return dealer.covered((dealer.rows, *layer.output_shape))


def prepare(holder: LayerHolder, layer: Normalise, mask: object) -> tuple[VerifiedNormalise, Authentic]:
    """Gather party p's randomness for the three openings."""
    rows, result = holder.rows, holder.covered((holder.rows, *layer.output_shape))
    value, beta = holder.fixed("value", (rows, layer.size)), holder.fixed("beta", (rows, 2, layer.comparisons))
    return VerifiedNormalise(holder.signs(layer), value, beta, result), result


def evaluate(
    party: RunningParty, layer: Normalise, prepared: VerifiedNormalise, v: Array
) -> Generator[Opening, Array, Array]:
    """Turn the open v^ (rows, *shape) into the open y, 4^(J-1-j) and j (rows, 3, *shape). Three openings."""
    word, whole = party.word, v.reshape(len(v), layer.size)
    beyond = beyond_hinges(layer, opened_ring(layer), cut(layer, v))
    signs = (yield from Signs(party, layer, prepared.signs).of(beyond)).astype(np.int64)
    value, tag = (
        _planes(word, layer, one, whole, signs, r, beta).reshape(2, len(v), *layer.output_shape)
        for one, r, beta in zip(party.one[:2], prepared.value[:2], prepared.beta[:2], strict=True)
    )
    return word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))


def _planes(word: Word, layer: Normalise, one: Array, opened: Array, signs: Array, r: Array, beta: Array) -> Array:
    """Compute the result (2, rows, 3, size) from v^ (rows, size) and the open signs (rows, n), and from words: the
    public 1 (2,), r (2, rows, size), and beta and beta r (2, rows, 2, n)."""
    by_hinge = (2, len(opened), len(layer.hinges), layer.size)
    value = scaled(word, one, opened) - r
    below = unmasked(one, signs, beta[:, :, 0])
    each = word.multiply(beta[:, :, 0], word.of(each_hinge(layer, opened))) - beta[:, :, 1]
    part = signs * each_hinge(layer, value) + (1 - 2 * signs) * each
    below, part = below.reshape(by_hinge), part.reshape(by_hinge)
    height, step = (
        word.multiply(words, word.of(np.array(gains(layer, bits)))[:, None, :, None]).sum(axis=2)
        for words, bits in ((part, STEP_BITS), (below, STEP_BITS // 2))
    )
    number = len(layer.hinges) * one[:, None, None] - below.sum(axis=2)
    return np.stack((value + height, one[:, None, None] + step, number), axis=2)
