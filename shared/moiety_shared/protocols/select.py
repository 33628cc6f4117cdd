"""Select: d * t for a secret bit d and a secret t = known - rho + carry * mu (the form of truncation.py).

The sign b arrives as XOR shares of b^ = b xor beta, and the parties open b^ (1 round). b stays secret, as neither party
knows beta. d = 1 - b, so

    b^ = 0:   d = 1 - beta   d t = t - beta t
    b^ = 1:   d = beta       d t =     beta t

and beta t = beta known - beta rho + carry beta mu is linear in what the dealer fixes: beta, beta rho, beta mu. Where t
needs no lift (max), the protocol leaves mu and carry out. Where it does, ReLU fixes beta mu, of which only the bits
above those that are lifted are not 0.
"""

from collections.abc import Generator

import numpy as np

from moiety_shared.protocols.dealing import Dealer
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.ring import Array, Ring


def deal(dealer: Dealer, beta: Array, rho: Array, ring: Ring) -> None:
    """Fix shares of beta and of beta rho. `beta` is (rows, n) of 0 and 1; `rho` is (rows, n) of `ring`."""
    select = np.empty((len(beta), 2, beta.shape[1]), dtype=ring.dtype)
    select[:, 0] = beta
    np.multiply(rho, select[:, 0], out=select[:, 1])
    dealer.fix("select", select, ring)


def evaluate(
    ring: Ring, sign: Array, t: Array, known: Array, carry: Array | None, select: Array
) -> Generator[Opening, Array, Array]:
    """Compute [d t]_p (rows, n) from <b^>_p (rows, n; uint8), [t]_p, and [beta], [beta rho], [beta mu] as (rows, 2 or
    3, n).

    Both parties know `known` and `carry`. One opening.
    """
    return kept(ring, (yield Opening(sign, Kind.BITS)), t, known, carry, select)


def kept(ring: Ring, opened: Array, t: Array, known: Array, carry: Array | None, select: Array) -> Array:
    """Compute what `evaluate` does from the opened b^ (rows, n)."""
    b: Array = opened.astype(ring.dtype)
    product = select[:, 0] * known
    product -= select[:, 1]
    if carry is not None:
        product += carry * select[:, 2]
    b -= 1
    result: Array = t & b  # b^ = 0 keeps t
    b += b
    b += 1  # -1 for b^ = 0, else 1
    product *= b
    result += product
    return ring.wrap(result)
