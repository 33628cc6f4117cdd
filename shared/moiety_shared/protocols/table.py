"""Smooth functions: several public functions of a short value t mod 2^m, all from one one-time one-hot row. Two rounds.

    1. open t^ = t + r mod 2^m      m <= 10 bits: opening the input truncates it to so few
    2. open the masked output bits  f_i(t) xor beta_i

The dealer XOR-shares the one-hot row e of r: 2^m bits, however many functions there are. t = t^ - r, so bit i of f(t)
is the parity of e & F_i. F_i is a public word that rotates with t^: it holds bit i of f(t^ - r) for every r. With the
dealer's beta_i a bit becomes a ring element, f_i = b^_i + (1 - 2 b^_i) beta_i, and each party adds up the bits at their
places.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import Table
from moiety_shared.protocols import reduce
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening
from moiety_shared.ring import Array, Ring

_BLOCK = 1 << 14
_KEPT = 64  # tables whose words are kept, of 1 MiB each at most with their keys


class PreparedTable(NamedTuple):
    """[r]_p (rows, size) mod 2^m; <e>_p (rows, words, size); <beta>_p (rows, bits, size) as bytes of 0 and 1, and
    [beta]_p (rows, bits, size) in the plan's ring."""

    mask: Array
    one_hot: Array
    masks: Array
    beta: Array


@lru_cache(maxsize=_KEPT)
def rotated_bits(layer: Table) -> Array:
    """(bits, 2^m): for each output bit and each place, the word whose bit r is that bit of f(place - r).

    It is cyclic: what a later word of the one-hot row meets is the word at an earlier place. Bits of the word that no r
    has are 0: a verified run proves nothing of them.
    """
    size, word = 1 << layer.opened_bits, np.dtype(layer.word_dtype).itemsize * 8
    index = (np.arange(size)[:, None] - np.arange(min(word, size))[None, :]) % size  # [place, r]
    rows = []
    for values, width in zip(layer.values, layer.widths, strict=True):
        stored = np.array(values, dtype=np.int64) - min(values)
        rows += [
            np.packbits(((stored >> bit) & 1).astype(np.uint8)[index], axis=1, bitorder="little")
            for bit in range(width)
        ]
    return np.stack(rows).view(layer.word_dtype).reshape(-1, size)


def reference(layer: Table, t: Array) -> Array:
    """Compute the functions on plain values (rows, *shape): (rows, functions, *shape)."""
    index = t & ((1 << layer.opened_bits) - 1)
    return np.stack([np.array(values, dtype=np.int64)[index] for values in layer.values], axis=1)


def deal(dealer: Dealer, layer: Table) -> None:
    """Fix the one-hot row of the mask r, and additive shares of the output bits' masks beta."""
    beta = deal_words(dealer, layer, dealer.mask("value", (layer.size,), reduce.opened_ring(layer)))
    dealer.fix("beta", beta.astype(dealer.ring.dtype))


def deal_words(dealer: Dealer, layer: Table, r: Array) -> Array:
    """Fix the one-hot row of the masks r (rows, size). Returns the output bits' masks beta (rows, bits, size), 0 or
    1."""
    whole, word = r.astype(np.uint64), np.dtype(layer.word_dtype).itemsize * 8
    one_hot = np.zeros((dealer.rows, layer.words, layer.size), dtype=layer.word_dtype)
    for index in range(layer.words):
        bit = np.left_shift(np.uint64(1), whole % word).astype(layer.word_dtype)
        one_hot[:, index] = np.where(whole // word == index, bit, 0)
    dealer.fix_words("one_hot", one_hot)
    return dealer.mask_words("masks", (sum(layer.widths), layer.size)) & 1


def prepare_words(holder: Holder, layer: Table) -> tuple[Array, Array]:
    """Return <e>_p (rows, words, size), and <beta>_p (rows, bits, size) as bytes of 0 and 1."""
    one_hot = holder.fixed_words("one_hot", (layer.words, layer.size), layer.word_dtype)
    return one_hot, holder.mask_words("masks", (sum(layer.widths), layer.size)) & 1


def prepare(holder: Holder, layer: Table) -> PreparedTable:
    """Gather party p's randomness for the two openings."""
    mask = holder.mask("value", (layer.size,), reduce.opened_ring(layer))
    return PreparedTable(mask, *prepare_words(holder, layer), holder.fixed("beta", (sum(layer.widths), layer.size)))


def evaluate(ring: Ring, party: int, layer: Table, x: Array, prepared: PreparedTable) -> Evaluation:
    """Turn [x]_p (rows, *shape) into [f(t)]_p (rows, functions, *shape). Two openings."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    rows, size = opened.shape
    bits = yield Opening(look_up(layer, opened, prepared.one_hot, prepared.masks), Kind.BITS)
    out = np.zeros((rows, len(layer.values), size), dtype=ring.dtype)
    at = 0
    for index, (values, width) in enumerate(zip(layer.values, layer.widths, strict=True)):
        for place in range(width):
            public: Array = bits[:, at].astype(ring.dtype)
            share: Array = (1 - 2 * public) * prepared.beta[:, at]
            out[:, index] += (share + party * public) << place
            at += 1
        if party == 1:
            out[:, index] += min(values)
    return ring.wrap(out).reshape(rows, len(layer.values), *x.shape[1:])


def look_up(layer: Table, opened: Array, one_hot: Array, masks: Array) -> Array:
    """Compute <f_i(t) xor beta_i>_p (rows, bits, size) from t^ (rows, size), <e>_p and <beta>_p."""
    table = rotated_bits(layer)
    out = masks.copy()
    step = max(_BLOCK // len(opened), 1)
    for at in range(0, opened.shape[1], step):
        part = slice(at, at + step)
        for word in range(layer.words):
            places = (opened[:, part].astype(np.intp) - 64 * word) % table.shape[1]
            for bit in range(len(table)):
                public = table[bit].take(places)
                public &= one_hot[:, word, part]
                out[:, bit, part] ^= np.bitwise_count(public) & 1
    return out
