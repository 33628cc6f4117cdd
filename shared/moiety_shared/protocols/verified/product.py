"""Products of an opened wire with the owner's weights, in words. y = x w + b.

    Upload:   w^ = w + s mod 2^32 and b^ = b + s_b, as without verification; s = s_0 + s_1 as an integer has a tag.
    Bundle:   z is a free word. The mask of the result is rho = z - r s + s_b, which the dealer computes.
    Online:   x^ = x + r mod 2^32 is open, and the parties open y^ = y + rho as words (1 round):
              [y^]_p = x^ V_p - [r]_p w^ + p b^ + [z]_p,     V_p = p w^ - s_p as an integer

The low 32 bits of x^ - r and of w^ - s are x and w, so those of y are right; above them is what these integers make.

The claim: (x^ - r)(w^ - s) = x^ w^ - x^ s - r w^ + r s is linear in tagged values but for r s, and z - r s cancels it.
So a party's part of the check is the formula for y^ run on tags, with Delta_p for the public 1, and then a combination
of all rows and outputs. With X = psi x^ that takes no matrix product:

    sigma_p = Delta_p (X w^ chi + (sum psi) b^ chi - psi y^ chi)
              - X [tag s]_p chi - psi [tag r]_p w^ chi + psi [tag z]_p chi

and sigma_0 + sigma_1 = 0 if y^ is right. A tag of s_b is not needed: rho contains it.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.layers import Linear
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.protocols.verified.claims import ClaimSums
from moiety_shared.protocols.verified.dealing import Authentic, AuthenticDealer, AuthenticHolder
from moiety_shared.protocols.verified.word import PIECE_BITS, Word, times
from moiety_shared.ring import Array


class VerifiedWeights(NamedTuple):
    """One layer's constants at party p: w^ and V_p (out, in), float64 integers below 2^32; b^ (out,), int64 of 32 bits;
    the tags of s, as float64 pieces (pieces, out, in) for the check."""

    masked: Array
    local: Array
    bias: Array
    tags: Array


class Masked(NamedTuple):
    """A wire that is open under a mask which both parties hold a share of: x^ (rows, *shape), int64 of 32 bits."""

    value: Array
    mask: Authentic


class PreparedVerified(NamedTuple):
    """[z]_p - [r]_p w^ + p b^, as words (2, rows, *output shape), and the tag of z."""

    offset: Array
    tag: Array


def deal_weight(dealer: AuthenticDealer, word: Word, s: Array) -> None:
    """Deal the tags of a weight's mask s (out, in), the integer sum of both halves. Once for each upload."""
    dealer.authenticate("weight", word.of(s))


def prepare_weight(
    holder: AuthenticHolder, word: Word, party: int, masked: Array, bias: Array, half: Array
) -> VerifiedWeights:
    """Make party p's constants of w^ and b^, and its half of s, all int64 of 32 bits."""
    width = min(PIECE_BITS, word.limb)
    tags = np.stack([piece.astype(np.float64) for piece in word.pieces(holder.tag("weight", half.shape), width)])
    return VerifiedWeights(masked.astype(np.float64), (party * masked - half).astype(np.float64), bias, tags)


def deal(dealer: AuthenticDealer, word: Word, layer: Linear, r: Array, s: Array, s_bias: Array) -> Array:
    """Deal z and return the result's mask rho (2, rows, *output shape). r (rows, *shape) and s (out, in) are integers
    of one bit more than a half has."""
    z = dealer.free("product", (len(r), *layer.output_shape))
    return word.wrap(z - _products(word, layer, r, s) + _each_row(word, layer, s_bias))


def deal_output(
    dealer: AuthenticDealer, word: Word, layer: Linear, r: Array, s: Array, s_bias: Array, mask: Array
) -> None:
    """Deal z so that the values of rho are `mask` (rows, *output shape), int64: the client will know them."""
    z = word.of(mask) + _products(word, layer, r, s) - _each_row(word, layer, s_bias)
    dealer.fix("product", word.lowest(word.wrap(z)))


def _products(word: Word, layer: Linear, r: Array, s: Array) -> Array:
    flat = times(word, r.reshape(-1, layer.shape[-1]), word.low + 1, s.astype(np.float64), word.low + 1)
    return flat.reshape(2, len(r), *layer.output_shape)


def _each_row(word: Word, layer: Linear, bias: Array) -> Array:
    return word.of(bias).reshape(2, *[1] * len(layer.output_shape), -1)


def prepare(
    holder: AuthenticHolder, word: Word, party: int, layer: Linear, mask: Array, weights: VerifiedWeights, last: bool
) -> PreparedVerified:
    """Compute all of [y^]_p that does not depend on x^. `mask` is [r]_p; z is fixed if the layer is the last."""
    shape = (len(mask), *layer.output_shape)
    z = holder.fixed("product", shape) if last else holder.free("product", shape)
    offset = times(word, mask.reshape(-1, layer.shape[-1]), word.low, weights.masked, word.low).reshape(2, *shape)
    np.subtract(z.value, offset, out=offset)
    if party == 1:
        offset += _each_row(word, layer, weights.bias)
    return PreparedVerified(offset, z.tag)


def evaluate(
    word: Word, one: Authentic, layer: Linear, x: Masked, prepared: PreparedVerified, weights: VerifiedWeights
) -> Generator[Opening, Array, Array]:
    """Open y^ and return it, normal words (2, rows, *output shape). One opening."""
    share = times(word, x.value.reshape(-1, layer.shape[-1]), word.low, weights.local, word.low)
    share = share.reshape(prepared.offset.shape) + prepared.offset
    return (yield Opening(share, Kind.WIDE, word, ProductClaim(layer, one.tag, x, prepared, weights)))


@dataclass(frozen=True)
class ProductClaim:
    """That y^ is the product of what was opened before. `one` is Delta_p, words (2,)."""

    layer: Linear
    one: Array
    x: Masked
    prepared: PreparedVerified
    weights: VerifiedWeights

    def settle(self, check: ClaimSums, mine: Array, opened: Array) -> None:
        layer, weights, word = self.layer, self.weights, check.word
        outputs = layer.out_features
        y = opened.reshape(2, -1, outputs)
        x, coins = self.x.value.reshape(-1, layer.shape[-1]), check.coins.combination(layer.name, y.shape[1], outputs)
        whole, masked = coins.over_rows(word.of(x)), coins.of_weight(weights.masked)
        public = word.dot(whole, masked) - coins.both(y)
        public += word.multiply(coins.row_sum(), coins.over_columns(word.of(weights.bias)[:, None]))
        sigma = word.multiply(self.one[:, None], public) - word.dot(whole, coins.of_tags(weights.tags))
        sigma -= word.dot(coins.over_rows(self.x.mask.tag.reshape(2, *x.shape)), masked)
        check.add_words(sigma + coins.both(self.prepared.tag.reshape(2, -1, outputs)))
