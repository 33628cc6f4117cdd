"""Fresh shares: each party adds its share of zero, which the dealer fixes. Nothing is opened.

A client chooses both shares of its input. What drops the low bits of a share takes its dither from alice's (see
reduce.py), and whoever chose that share would have chosen the dither. [0]_0 is uniform, and no client knows it.
"""

from typing import NamedTuple

import numpy as np

from moiety_shared.plan.layers import Reshare
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.ring import Array, Ring


class PreparedReshare(NamedTuple):
    """[0]_p (rows, *shape)."""

    zero: Array


def deal(dealer: Dealer, layer: Reshare) -> None:
    dealer.fix("zero", np.zeros((dealer.rows, *layer.shape), dtype=dealer.ring.dtype))


def prepare(holder: Holder, layer: Reshare) -> PreparedReshare:
    return PreparedReshare(holder.fixed("zero", layer.shape))


def evaluate(ring: Ring, x: Array, prepared: PreparedReshare) -> Array:
    """[x]_p (rows, *shape) to another [x]_p."""
    return ring.wrap(x + prepared.zero)
