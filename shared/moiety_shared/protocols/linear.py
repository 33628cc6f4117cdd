"""Linear layers: y = x W^T + b with x and W both secret.

Upload (once per model):  w^ = w + s is opened, s derived from the upload id.  V_p = p w^ - [s]_p.
Bundle (per row):         r is a free mask; the dealer fixes c = r s^T.
Online:                   x^ = x + r is opened (1 round), then
                          y = (x^ - r)(w^ - s) = x^ (w^ - s) - r w^ + r s,  so
                          [y]_p = x^ V_p^T - [r]_p w^T + [c]_p + [b]_p.
Everything after the first product is known before the input is: online, a linear layer is one plaintext-sized
product. Weights keep torch's layout (out, in).
"""

from collections.abc import Generator
from typing import NamedTuple

from moiety_shared.plan import Linear
from moiety_shared.protocols.dealing import Dealer, Holder, Source, uniform
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring


class Weights(NamedTuple):
    """One layer's weights at party p: `masked` is w^ (out, in), the same at both; `local` is V_p (out, in);
    `bias` is [b]_p (out,) or None."""

    masked: Array
    local: Array
    bias: Array | None


class Prepared(NamedTuple):
    """`mask` is [r]_p (rows, in); `offset` is [c]_p - [r]_p w^T + [b]_p (rows, out)."""

    mask: Array
    offset: Array


def weight_mask(ring: Ring, source: Source, layer: Linear) -> Array:
    """[s]_p (out, in), from party p's stream for this upload and layer."""
    return uniform(ring, source, "weight", (layer.out_features, layer.in_features))


def mask_weights(
    ring: Ring, party: int, weight: Array, mask: Array, bias: Array | None
) -> Generator[Opening, Array, Weights]:
    """Open w^ from shares [w]_p and [s]_p, both (out, in). Runs once per upload: a second opening of another w
    under the same s would reveal the difference of the two."""
    masked = yield Opening(ring.wrap(weight + mask), Kind.RING)
    return Weights(masked, ring.wrap(party * masked - mask), bias)


def deal(dealer: Dealer, layer: Linear, weight_mask: Array) -> None:
    """`weight_mask` is s = [s]_0 + [s]_1, (out, in)."""
    r = dealer.mask("input", (layer.in_features,))
    dealer.fix("product", dealer.ring.matmul(r, weight_mask))


def prepare(holder: Holder, layer: Linear, weights: Weights) -> Prepared:
    r = holder.mask("input", (layer.in_features,))
    product = holder.fixed("product", (layer.out_features,))
    offset = product - holder.ring.matmul(r, weights.masked)
    if weights.bias is not None:
        offset = offset + weights.bias
    return Prepared(r, holder.ring.wrap(offset))


def evaluate(ring: Ring, layer: Linear, x: Array, prepared: Prepared, weights: Weights) -> Evaluation:
    """[x]_p (rows, in) to [y]_p (rows, out). One opening."""
    work = x.shape[0] * layer.in_features * layer.out_features
    opened = yield Opening(ring.wrap(x + prepared.mask), Kind.RING, work)
    return ring.wrap(ring.matmul(opened, weights.local) + prepared.offset)
