"""Select: d * t for a secret bit d and a secret value t = known - rho + carry * mu (truncation's form).

The sign b arrives as XOR shares of b^ = b xor beta. It is opened (1 round), and with d = 1 - b, d^ = 1 - b^:

    d = d^ xor beta,   d t = d^ (t - beta t) + (1 - d^) beta t

beta t = beta known - beta rho + carry beta mu is linear in what the dealer fixes: beta, beta rho, beta mu.
"""

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.ring import Array, Ring


class Prepared(NamedTuple):
    """Shares of the factors of (known, 1, carry), (rows, 3, size): for b^ = 0, and what b^ = 1 adds to them."""

    kept: Array
    change: Array


def deal(dealer: Dealer, beta: Array, trunc: Array) -> None:
    """`beta` (rows, size) of 0 and 1; `trunc` = (rho, mu) as (rows, 2, size)."""
    factor = beta.astype(dealer.ring.dtype)[:, None]
    dealer.fix("select", np.concatenate((factor, factor * trunc), axis=1))


def prepare(holder: Holder, size: int, trunc: Array) -> Prepared:
    """`trunc` is the party's share of (rho, mu), (rows, 2, size)."""
    ring = holder.ring
    select = holder.fixed("select", (3, size))
    signs = np.array([1, -1, 1], dtype=ring.dtype)[:, None]
    whole = np.concatenate((np.full_like(select[:, :1], holder.party), trunc), axis=1)
    dropped, kept = signs * select, signs * (whole - select)
    return Prepared(ring.wrap(kept), ring.wrap(dropped - kept))


def evaluate(
    ring: Ring, sign: Array, known: Array, carry: Array, prepared: Prepared
) -> Generator[Opening, Array, Array]:
    """[d t]_p (rows, size) from <b^>_p (rows, size; uint8). `known` and `carry` are public. One opening."""
    opened = yield Opening(sign, Kind.BITS)
    factors: Array = opened.astype(ring.dtype)[:, None] * prepared.change
    factors += prepared.kept
    kept: Array = factors[:, 0] * known
    kept += factors[:, 1]
    kept += factors[:, 2] * carry
    return ring.wrap(kept)
