"""Products of an opened wire with the owner's weights, in words. y = x * w + b, with * the matrix product or the
convolution; below they are written alike, and the rows of a convolution are its places (bilinear.py).

    Upload:   w^ = w + s mod 2^32 and b^ = b + s_b, as without verification; s = s_0 + s_1 as an integer has a tag.
    Bundle:   z is a free word. The mask of the result is rho = z - r s + s_b, which the dealer computes.
    Online:   x^ = x + r mod 2^32 is open, and the parties open y^ = y + rho as words (1 round):
              [y^]_p = x^ V_p - [r]_p w^ + p b^ + [z]_p,     V_p = p w^ - s_p as an integer

The low 32 bits of x^ - r and of w^ - s are x and w, so those of y are right; above them is what these integers make.

The claim: (x^ - r)(w^ - s) = x^ w^ - x^ s - r w^ + r s is linear in tagged values but for r s, and z - r s cancels it.
So a party's part of the check is the formula for y^ run on tags, with Delta_p for the public 1, and then a combination
of all rows and outputs. With X = psi x^ that takes no matrix product:

    sigma_p = psi [tag z]_p chi - Delta_p psi (y^ - b^) chi
              + X (Delta_p w^ - [tag s]_p) chi - psi [tag r]_p w^ chi

and sigma_0 + sigma_1 = 0 if y^ is right. A tag of s_b is not needed: rho contains it. Places outside of a picture have
x^ = 0 and no mask.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.protocols.verified.bilinear import Weighted, by_place, each_place, outputs, places, times
from moiety_shared.protocols.verified.claims import ClaimSums
from moiety_shared.protocols.verified.dealing import AuthenticDealer, AuthenticHolder
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, RunningParty, VerifiedWeights
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.ring import Array

_NONE = np.zeros(0)  # of a weight that there is not


class PreparedVerified(NamedTuple):
    """[z]_p - [r]_p w^ + p b^, as words (2, rows, *output shape); the tags of z and, words (2, rows, *shape), of r."""

    offset: Array
    tag: Array
    read: Array


def deal_weight(dealer: AuthenticDealer, s: Array) -> None:
    """Deal the tags of a weight's mask s, the integer sum of both halves. Once for each upload."""
    dealer.authenticate("weight", dealer.word.of(s))


def prepare_weight(
    holder: AuthenticHolder, delta: Array, masked: Mapping[str, Array], halves: Mapping[str, Array]
) -> VerifiedWeights:
    """Make party p's constants of w^ and b^, and of its halves of s, all int64 of 32 bits by "weight" and "bias".
    `delta` is Delta_p, words (2,)."""
    if "weight" not in masked:
        return VerifiedWeights(_NONE, _NONE, masked["bias"], _NONE)
    word, weight, half = holder.word, masked["weight"], halves["weight"]
    tags = word.multiply(delta.reshape(2, *[1] * weight.ndim), word.of(weight)) - holder.tag("weight", half.shape)
    local = (holder.party * weight - half).astype(np.float64)
    return VerifiedWeights(weight.astype(np.float64), local, masked.get("bias"), word.wrap(tags).astype(np.float64))


def deal(dealer: LayerDealer, layer: Weighted, x: DealtWire) -> DealtWire:
    """Deal z, and return the mask rho of the result."""
    word, s = dealer.word, dealer.constants[layer.name]
    known = -times(word, layer, x.tagged, x.bits, s["weight"].astype(np.float64), word.low + 1)
    if "bias" in s:
        known += word.of(each_place(layer, s["bias"]))
    return deal_mask(dealer, known)


def deal_mask(dealer: LayerDealer, known: Array) -> DealtWire:
    """Deal z, and return rho = z + known, words (2, rows, *output shape). z is a free word; or it is fixed so that the
    values of rho are those of the mask that a client will know."""
    word = dealer.word
    if dealer.output is None:
        return DealtWire(word.lowest(word.wrap(dealer.free("product", known.shape[1:]) + known)))
    rho = word.of(np.add(*dealer.output))
    dealer.fix("product", word.lowest(word.wrap(rho - known)))
    return DealtWire(word.lowest(rho))


def prepare_mask(holder: LayerHolder, shape: tuple[int, ...]) -> Authentic:
    """Return the share of z, and its tag."""
    return holder.free("product", shape) if holder.output is None else holder.fixed("product", shape)


def prepare(holder: LayerHolder, layer: Weighted, mask: Authentic) -> tuple[PreparedVerified, None]:
    """Compute all of [y^]_p that does not depend on x^."""
    word, weights = holder.word, holder.weights[layer.name]
    shape = (holder.rows, *layer.output_shape)
    z = prepare_mask(holder, shape)
    offset = times(word, layer, mask.value, mask.bits, weights.masked, word.low)
    np.subtract(z.value, offset, out=offset)
    if holder.party == 1 and weights.bias is not None:
        offset += word.of(each_place(layer, weights.bias))
    return PreparedVerified(offset, z.tag, mask.tag), None


def evaluate(
    party: RunningParty, layer: Weighted, prepared: PreparedVerified, x: Array
) -> Generator[Opening, Array, Array]:
    """Open y^ and return its value (rows, *output shape). One opening."""
    word, weights = party.word, party.weights[layer.name]
    share = times(word, layer, word.of(x), word.low, weights.local, word.low) + prepared.offset
    claim = ProductClaim(layer, party.one.tag, x, prepared, weights)
    return word.lowest((yield Opening(share, Kind.WIDE, word, claim)))


@dataclass(frozen=True)
class ProductClaim:
    """That y^ is the product of what was opened before. `one` is Delta_p, words (2,)."""

    layer: Weighted
    one: Array
    x: Array
    prepared: PreparedVerified
    weights: VerifiedWeights

    def settle(self, check: ClaimSums, mine: Array, opened: Array) -> None:
        layer, weights, word = self.layer, self.weights, check.word
        coins = check.coins.combination(layer.name, len(self.x) * places(layer), outputs(layer))
        product = opened if weights.bias is None else opened - word.of(each_place(layer, weights.bias))
        sigma, shown = np.swapaxes(coins.both(*(by_place(layer, y) for y in (self.prepared.tag, product))), 0, 1)
        whole, read = coins.inputs(layer, word.of(self.x), word.low), coins.inputs(layer, self.prepared.read, word.bits)
        masked, tags = coins.of_weight(layer, weights.masked), coins.of_tags(layer, weights.tags)
        sigma += word.dot(np.concatenate((whole, -read), axis=-1), np.concatenate((tags, masked), axis=-1))
        check.add_words(sigma - word.multiply(self.one[:, None], shown))
