"""Fresh shares: each party adds its share of zero, which the dealer fixes. The parties open nothing.

A client chooses both shares of its input. A layer that drops the low bits of a share takes its dither from alice's
share (see reduce.py), so the client would have chosen that dither too. [0]_0 is uniform, and no client knows it.
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
    """Fix shares of zero (rows, *shape)."""
    dealer.fix("zero", np.zeros((dealer.rows, *layer.shape), dtype=dealer.ring.dtype))


def prepare(holder: Holder, layer: Reshare) -> PreparedReshare:
    """Return [0]_p."""
    return PreparedReshare(holder.fixed("zero", layer.shape))


def evaluate(ring: Ring, x: Array, prepared: PreparedReshare) -> Array:
    """Turn [x]_p (rows, *shape) into a fresh [x]_p. No opening."""
    return ring.wrap(x + prepared.zero)
