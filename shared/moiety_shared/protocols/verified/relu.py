"""ReLU on an open wire, and the opening of its result under the next mask, in one.

The parties cut t^ from the open y^, under r (opened.py). Then they open

    1. the looked-up bits    (a byte a hinge and wire)    shares of the masked signs, as without verification   sign.py
    2. the masked signs      (a bit)
    3. h^ = ReLU(t) + r'     (a word)                     the next product reads its low 32 bits

h is linear in what the dealer fixes, and the signs, t^ and its carry are public. So `hinges` computes h^ from words: of
the values it makes what is opened, and of the tags, with Delta_p for the public 1, the tag of that. The claim says that
the two belong together: tag - Delta_p h^ sums to 0 over both parties. The formula is that of truncation.py and
select.py, limb by limb, because neither wraps words of 64 bits.

Every fixed word has uniform upper bits. h^ needs them: r' has 33 bits only, and would not cover what the sum carries.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import ReLU
from moiety_shared.protocols import relu, select, sign, truncation
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.verified.comparison import Signs
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, ProvableSigns, RunningParty
from moiety_shared.protocols.verified.opened import cut, cut_mask, opened
from moiety_shared.protocols.verified.truncation import LIMB, lift_of
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array


class VerifiedReLU(NamedTuple):
    """The look-ups; ([r], [mu]) of the lift and ([beta], [beta r], [beta mu]) of each hinge, words (2, rows, 2 or 3,
    n); the mask r' of the result (rows, *shape)."""

    signs: ProvableSigns
    lift: Authentic
    select: Authentic
    mask: Authentic


def deal(dealer: LayerDealer, layer: ReLU, y: DealtWire) -> DealtWire:
    """Deal a layer for the mask rho of its input. Returns r' (rows, *shape)."""
    r = cut_mask(layer, y.low)
    beta = dealer.signs(layer, sign.each_hinge(layer, r))
    small = relu.compared_ring(layer)
    lift = lift_of(small, r)
    dealer.fix("lift", lift)
    each = np.concatenate((lift,) * len(layer.hinges), axis=2)
    dealer.fix("select", np.concatenate((beta[:, None], beta[:, None] * each), axis=1))
    return dealer.result((len(r), *layer.shape))


def prepare(holder: LayerHolder, layer: ReLU, mask: object) -> tuple[VerifiedReLU, Authentic]:
    """Gather party p's randomness for the three openings."""
    rows = holder.rows
    lift, chosen = holder.fixed("lift", (rows, 2, layer.size)), holder.fixed("select", (rows, 3, layer.comparisons))
    result = holder.result((rows, *layer.shape))
    return VerifiedReLU(holder.signs(layer), lift, chosen, result), result


def hinges(word: Word, layer: ReLU, one: Array, t: Array, signs: Array, lift: Array, chosen: Array) -> Array:
    """Compute h (2, rows, size) from the open t^ (rows, size) and signs (rows, n), and from words: the public 1 (2,),
    and what was dealt, (2, rows, 2, size) and (2, rows, 3, n)."""
    small = relu.compared_ring(layer)
    total = np.zeros((2, *t.shape), dtype=np.int64)
    beyond = sign.beyond_hinges(layer, opened_ring(layer), t)
    for hinge in range(len(layer.hinges)):
        at = slice(hinge * layer.size, (hinge + 1) * layer.size)
        known, carry = truncation.public_parts(small, LIMB, small.reduce(beyond[:, at], 0))
        for limb in (0, 1):
            lifted = truncation.lifted(LIMB, 0, known, carry, lift[limb]) + one[limb] * known
            kept = select.kept(LIMB, signs[:, at], lifted, known, carry, chosen[limb][:, :, at])
            total[limb] += -kept if hinge % 2 else kept
    return word.wrap(total)


def evaluate(party: RunningParty, layer: ReLU, prepared: VerifiedReLU, y: Array) -> Generator[Opening, Array, Array]:
    """Turn the open y^ (rows, *shape) into the open wire h^. Three openings."""
    word, t = party.word, cut(layer, y)
    signs = yield from Signs(party, layer, prepared.signs).of(sign.beyond_hinges(layer, opened_ring(layer), t))
    value, tag = (
        hinges(word, layer, one, t, signs, lift, chosen).reshape(2, *y.shape)
        for one, lift, chosen in zip(party.one[:2], prepared.lift[:2], prepared.select[:2], strict=True)
    )
    return word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))
