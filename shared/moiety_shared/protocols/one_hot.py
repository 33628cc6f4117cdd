"""Turns each index into a one-hot row, and any other value into a one-hot row too. One round.

    open t^ = t + r mod 2^w        w bits, as many as the number of classes needs

The dealer fixes e, the one-hot row of r: 2^w ring elements. t = c where r = t^ - c. So the row of t is e, reversed and
rotated by t^, and each party does that to its share of e. Entries at `classes` and beyond are added to class 0, so
every ring element that a client may share is the index of exactly one class.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import OneHot
from moiety_shared.protocols import reduce
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring


class PreparedOneHot(NamedTuple):
    """[r]_p (rows, size) mod 2^w, and [e]_p (rows, ..., 2^w) in the plan's ring."""

    mask: Array
    row: Array


def reference(layer: OneHot, t: Array) -> Array:
    """Compute the one-hot rows (rows, ..., classes) from plain values (rows, ..., 1)."""
    index = t & ((1 << layer.opened_bits) - 1)
    found: Array = np.where(index < layer.classes, index, 0) == np.arange(layer.classes)
    return found


def deal(dealer: Dealer, layer: OneHot) -> None:
    """Fix e (rows, ..., 2^w), the one-hot row of each mask r."""
    r = dealer.mask("value", (layer.size,), reduce.opened_ring(layer)).reshape(-1, *layer.shape)
    dealer.fix("row", (np.arange(1 << layer.opened_bits) == r).astype(dealer.ring.dtype))


def prepare(holder: Holder, layer: OneHot) -> PreparedOneHot:
    """Gather party p's shares of r and of e."""
    mask = holder.mask("value", (layer.size,), reduce.opened_ring(layer))
    return PreparedOneHot(mask, holder.fixed("row", layer.row_shape))


def evaluate(ring: Ring, party: int, layer: OneHot, x: Array, prepared: PreparedOneHot) -> Evaluation:
    """Turn [t]_p (rows, ..., 1) into [row]_p (rows, ..., classes). One opening."""
    opened = yield reduce.opening(layer, party, x, prepared.mask)
    return ring.wrap(turned(layer, opened.reshape(-1, *layer.shape), prepared.row))


def turned(layer: OneHot, opened: Array, row: Array) -> Array:
    """Compute the shares of t's row (..., classes) from t^ (..., 1) and the shares of e (..., 2^w). What stands in
    front of the last axis broadcasts."""
    size = 1 << layer.opened_bits
    places = (opened.astype(np.int64) - np.arange(size)) % size
    found = np.take_along_axis(row, np.broadcast_to(places, row.shape), axis=-1)
    found[..., 0] += found[..., layer.classes :].sum(axis=-1, dtype=found.dtype)
    return found[..., : layer.classes]
