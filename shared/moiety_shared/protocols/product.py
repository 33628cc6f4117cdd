"""Secret products: matrix products, convolutions, and the product of two wires. All are bilinear, so all work alike.

Open:                     the parties open x^ = x + r under a mask that costs no traffic (1 round). x^ serves any number
                          of products.

Linear and Conv, y = x * w + b, with * the matrix product or the convolution:
    Upload (once per model):  the owner draws s = [s]_0 + [s]_1 as two seeds and gives w^ = w + s to both parties, to
                              party p the seed of [s]_p, to the dealer both.  V_p = [w]_p = p w^ - [s]_p.
                              The bias goes the same way, under a mask of its own.
    Bundle (per row):         the dealer fixes c = r * s.
    Online:                   y = (x^ - r) * (w^ - s) = x^ * (w^ - s) - r * w^ + r * s,  so
                              [y]_p = x^ * V_p - [r]_p * w^ + [c]_p + [b]_p.
    A party computes all but the first product before it has the input, so online it computes one product, as large as
    the same product in the clear.

Mul, y = x z, both opened under masks:    the dealer fixes c = r t for the masks r of x and t of z, and
                              [y]_p = p x^ z^ - x^ [t]_p - [r]_p z^ + [c]_p   (Beaver, 1991).
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.layers import Conv, Linear, Mul, Open
from moiety_shared.protocols.dealing import Dealer, Holder, Source, uniform
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.ring import Array, Ring

Weighted = Linear | Conv


class Weights(NamedTuple):
    """One layer's secret constants at party p: `masked` is w^, the same at both parties; `local` is V_p; `bias` is
    [b]_p. A Bias layer has `bias` alone."""

    masked: Array | None
    local: Array | None
    bias: Array | None


class Opened(NamedTuple):
    """A masked wire that products read: x^ (rows, *shape), which both parties know, and [r]_p of the same shape."""

    value: Array
    mask: Array


class PreparedOpen(NamedTuple):
    """[r]_p (rows, *shape)."""

    mask: Array


class PreparedProduct(NamedTuple):
    """What party p adds to the online product: (rows, *output shape)."""

    offset: Array


def times(ring: Ring, layer: Weighted, x: Array, weight: Array) -> Array:
    """Compute x * w: (rows, *shape) to (rows, *output shape)."""
    if isinstance(layer, Conv):
        return ring.conv(layer, x, weight)
    return ring.matmul(x.reshape(-1, layer.shape[-1]), weight).reshape(len(x), *layer.output_shape)


def weight_mask(ring: Ring, source: Source, layer: Weighted) -> Array:
    """Draw [s]_p of the weight from party p's stream for this upload and layer."""
    return uniform(ring, source, "weight", layer.weights()["weight"])


def mask_weight(ring: Ring, weight: Array, halves: tuple[Array, Array]) -> Array:
    """Compute w^ = w + [s]_0 + [s]_1 of a weight or a bias. The owner does so once per upload, with a fresh s: another
    w under the same s would reveal the difference of the two."""
    return ring.wrap(weight + halves[0] + halves[1])


def weight_share(ring: Ring, party: int, masked: Array, mask: Array) -> Array:
    """Compute [w]_p = p w^ - [s]_p. The result overwrites [s]_p, because a model is large."""
    np.negative(mask, out=mask)
    if party == 1:
        mask += masked
    return ring.wrap(mask)


def deal_open(dealer: Dealer, layer: Open) -> Array:
    """Return the wire's mask r (rows, *shape). The dealer sends nothing for it."""
    return dealer.mask("input", layer.shape)


def prepare_open(holder: Holder, layer: Open) -> PreparedOpen:
    """Return [r]_p of the wire's mask."""
    return PreparedOpen(holder.mask("input", layer.shape))


def evaluate_open(ring: Ring, x: Array, prepared: PreparedOpen) -> Generator[Opening, Array, Opened]:
    """Open [x]_p (rows, *shape) as x^, under the mask r. One opening."""
    opened = yield Opening(ring.wrap(x + prepared.mask), Kind.RING, ring)
    return Opened(opened, prepared.mask)


def deal(dealer: Dealer, layer: Weighted, r: Array, s: Array) -> None:
    """Fix c = r * s. `r` is the mask of the opened wire (rows, *shape), and `s` is the mask of the weights."""
    dealer.fix("product", times(dealer.ring, layer, r, s))


def prepare(holder: Holder, layer: Weighted, mask: Array, weights: Weights) -> PreparedProduct:
    """Compute [c]_p + [b]_p - [r]_p * w^, all of the result that does not depend on x^. `mask` is [r]_p."""
    assert weights.masked is not None  # noqa: S101  a weighted layer's
    offset = times(holder.ring, layer, mask, weights.masked)
    np.subtract(holder.fixed("product", layer.output_shape), offset, out=offset)
    if weights.bias is not None:
        offset += weights.bias.reshape(-1, 1, 1) if isinstance(layer, Conv) else weights.bias
    return PreparedProduct(holder.ring.wrap(offset))


def evaluate(ring: Ring, layer: Weighted, x: Opened, prepared: PreparedProduct, weights: Weights) -> Array:
    """Turn x^ into [y]_p (rows, *output shape), without an opening."""
    assert weights.local is not None  # noqa: S101  a weighted layer's
    y = times(ring, layer, x.value, weights.local)
    y += prepared.offset
    return ring.wrap(y)


def deal_mul(dealer: Dealer, layer: Mul, r: Array, t: Array) -> None:
    """Fix c = r t. `r` and `t` are the masks of the left and the right wire."""
    dealer.fix("product", np.broadcast_to(r * t, (dealer.rows, *layer.output_shape)))


def prepare_mul(holder: Holder, layer: Mul) -> PreparedProduct:
    """Return [c]_p."""
    return PreparedProduct(holder.fixed("product", layer.output_shape))


def evaluate_mul(ring: Ring, party: int, x: Opened, z: Opened, prepared: PreparedProduct) -> Array:
    """Turn x^ and z^ into [x z]_p, without an opening."""
    left = z.value - z.mask if party == 1 else -z.mask  # [z]_p
    y = x.value * left
    y -= x.mask * z.value
    y += prepared.offset
    return ring.wrap(y)
