"""ReLU on an open wire, and the opening of its result under the next mask, in one.

y^ = y + rho is open as words. The parties cut t^ = floor(y^ mod 2^32 / 2^g) mod 2^q from it, and the dealer cuts r from
rho. With e = rho mod 2^g, t^ - r = floor((y + e) / 2^g) mod 2^q for q <= 32 - g: e is the dither; no share holds it.
(Both parties know y^ mod 2^g, so both know which fractions round up. Neither knows e.)

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
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import ReLU
from moiety_shared.protocols import relu, select, sign, truncation
from moiety_shared.protocols.dealing import Dealer
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.protocols.reduce import opened_ring
from moiety_shared.protocols.verified.bits import LookUpClaim, ProvableBits
from moiety_shared.protocols.verified.claims import CheckFailed, ClaimSums
from moiety_shared.protocols.verified.dealing import Authentic, AuthenticDealer, AuthenticHolder
from moiety_shared.protocols.verified.product import Masked
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array, Ring

_LIMB = Ring(64)  # limbs do not wrap: words do, when they are opened


class VerifiedReLU(NamedTuple):
    """The look-ups of `sign`; ([r], [mu]) of the lift and ([beta], [beta r], [beta mu]) of each hinge, words
    (2, rows, 2 or 3, n); the mask r' of the result (rows, size)."""

    signs: tuple[Array, Array]
    provable: ProvableBits
    lift: Authentic
    select: Authentic
    mask: Authentic


def compared(layer: ReLU, low: Array) -> Array:
    """Cut t^ or r (rows, size) from the low bits of y^ or rho, as elements of the opened ring."""
    return opened_ring(layer).reduce(low, layer.shift).reshape(len(low), -1)


def deal(dealer: AuthenticDealer, looked_up: Dealer, word: Word, layer: ReLU, rho: Array) -> Array:
    """Deal a layer for the mask rho, words (2, rows, *shape), of its input. Returns r' (rows, *shape)."""
    r = compared(layer, word.lowest(rho))
    beta = sign.deal(looked_up, layer, sign.each_hinge(layer, r)).astype(np.int64)
    small = relu.compared_ring(layer)
    low = small.lift(small.reduce(r, 0), _LIMB)
    top = (low >> layer.range_bits) << (layer.range_bits + 1)
    lift = np.stack((low, top), axis=1)
    dealer.fix("lift", lift)
    each = np.concatenate((lift,) * len(layer.hinges), axis=2)
    dealer.fix("select", np.concatenate((beta[:, None], beta[:, None] * each), axis=1))
    return dealer.mask("result", (len(r), layer.size)).reshape(len(r), *layer.shape)


def prepare(
    holder: AuthenticHolder, layer: ReLU, rows: int, signs: tuple[Array, Array], provable: ProvableBits
) -> VerifiedReLU:
    """Gather party p's randomness for the three openings. `signs` are what `sign.prepare` returned."""
    lift, chosen = holder.fixed("lift", (rows, 2, layer.size)), holder.fixed("select", (rows, 3, layer.comparisons))
    return VerifiedReLU(signs, provable, lift, chosen, holder.mask("result", (rows, layer.size)))


def hinges(word: Word, layer: ReLU, one: Array, t: Array, signs: Array, lift: Array, chosen: Array) -> Array:
    """Compute h (2, rows, size) from the open t^ (rows, size) and signs (rows, n), and from words: the public 1 (2,),
    and what was dealt, (2, rows, 2, size) and (2, rows, 3, n)."""
    small = relu.compared_ring(layer)
    total = np.zeros((2, *t.shape), dtype=np.int64)
    beyond = sign.beyond_hinges(layer, opened_ring(layer), t)
    for hinge in range(len(layer.hinges)):
        at = slice(hinge * layer.size, (hinge + 1) * layer.size)
        known, carry = truncation.public_parts(small, _LIMB, small.reduce(beyond[:, at], 0))
        for limb in (0, 1):
            lifted = truncation.lifted(_LIMB, 0, known, carry, lift[limb]) + one[limb] * known
            kept = select.kept(_LIMB, signs[:, at], lifted, known, carry, chosen[limb][:, :, at])
            total[limb] += -kept if hinge % 2 else kept
    return word.wrap(total)


def evaluate(
    word: Word, one: Authentic, party: int, layer: ReLU, y: Array, prepared: VerifiedReLU
) -> Generator[Opening, Array, Masked]:
    """Turn the open y^, words (2, rows, *shape), into the open wire h^. Three openings."""
    t = compared(layer, word.lowest(y))
    beyond = sign.beyond_hinges(layer, opened_ring(layer), t)
    masked, claim = yield from _signs(party, layer, beyond, prepared)
    signs = yield Opening(masked, Kind.BITS, claim=claim)
    value = hinges(word, layer, one.value, t, signs, prepared.lift.value, prepared.select.value)
    value[0] += prepared.mask.value
    tag = hinges(word, layer, one.tag, t, signs, prepared.lift.tag, prepared.select.tag) + prepared.mask.tag
    h = yield Opening(value, Kind.WIDE, word, SelectClaim(layer.name, one.tag, tag))
    shape = (len(t), *layer.shape)
    mask = Authentic(prepared.mask.value.reshape(shape), prepared.mask.tag.reshape(2, *shape))
    return Masked(word.lowest(h).reshape(shape), mask)


def _signs(
    party: int, layer: ReLU, beyond: Array, prepared: VerifiedReLU
) -> Generator[Opening, Array, tuple[Array, LookUpClaim]]:
    """Look the signs up as without verification, and keep what both parties said of it. Raises CheckFailed."""
    signs = sign.evaluate(party, layer, beyond, *prepared.signs)
    opening = next(signs)
    looked_up = yield opening
    if _unread(layer, looked_up):
        raise CheckFailed
    try:
        signs.send(looked_up)
    except StopIteration as stop:
        return stop.value, LookUpClaim(layer, party, beyond, opening.share, looked_up, prepared.provable)
    raise RuntimeError("a comparison opens its looked-up bits once")


def _unread(layer: ReLU, looked_up: Array) -> bool:
    """Whether a byte has bits above those that are looked up. No proof covers them: the sign is in their place."""
    return bool((looked_up >> layer.lookups).any())


@dataclass(frozen=True)
class SelectClaim:
    """That the opened words are those whose tag this is, (2, rows, n). `one` is Delta_p, words (2,)."""

    layer: str
    one: Array
    tag: Array

    def settle(self, check: ClaimSums, mine: Array, opened: Array) -> None:
        coins = check.coins.combination(self.layer, *self.tag.shape[1:])
        check.add_words(coins.both(self.tag) - check.word.multiply(self.one[:, None], coins.both(opened)))
