"""The product of two open wires, element by element or as matrices: y = x z, or x z^T. One opening.

Both wires are tagged, under masks r and t. As in product.py z_ is a free word, and rho = z_ - r t:

    y^ = x z + rho = x^ z^ - x^ t - r z^ + z_

which is linear in tagged words, so the claim is the formula run on tags.
"""

from collections.abc import Callable, Generator
from typing import NamedTuple

from moiety_shared.plan.layers import MatMul, WireProduct
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, RunningParty
from moiety_shared.protocols.verified.opened import opened
from moiety_shared.protocols.verified.product import deal_mask, prepare_mask
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array


class VerifiedProduct(NamedTuple):
    """The masks r and t of both wires, words (2, rows, *shape), and z_ (2, rows, *output shape)."""

    left: Authentic
    right: Authentic
    mask: Authentic


def _times(word: Word, layer: WireProduct) -> Callable[[Array, Array], Array]:
    return word.matmul if isinstance(layer, MatMul) else word.multiply


def deal(dealer: LayerDealer, layer: WireProduct, x: DealtWire, z: DealtWire) -> DealtWire:
    """Deal z_, and return rho."""
    return deal_mask(dealer, -_times(dealer.word, layer)(x.tagged, z.tagged))


def prepare(holder: LayerHolder, layer: WireProduct, r: Authentic, t: Authentic) -> tuple[VerifiedProduct, None]:
    """Gather party p's masks."""
    return VerifiedProduct(r, t, prepare_mask(holder, (holder.rows, *layer.output_shape))), None


def evaluate(
    party: RunningParty, layer: WireProduct, prepared: VerifiedProduct, x: Array, z: Array
) -> Generator[Opening, Array, Array]:
    """Open y^ and return its value (rows, *output shape). One opening."""
    word, times = party.word, _times(party.word, layer)
    left, right = word.of(x), word.of(z)
    both = times(left, right)
    value, tag = (
        word.multiply(one.reshape(2, *[1] * x.ndim), both) - times(left, t) - times(r, right)
        for one, r, t in zip(party.one[:2], prepared.left[:2], prepared.right[:2], strict=True)
    )
    return word.lowest((yield from opened(party, layer.name, value, tag, prepared.mask)))
