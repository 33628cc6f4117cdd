"""Opening the upper bits of a share, masked. Every non-linear layer begins so, and the truncation in it is free.

Each party drops the low g bits of its share x_p and keeps q bits. bob adds 2^g - 1 first, so that rounding has no bias:

    t_p = floor((x_p + p (2^g - 1)) / 2^g) mod 2^q,    q <= k - g

x_0 + x_1 = x mod 2^k, so with a = x_0 mod 2^g the two add up to

    t = t_0 + t_1 = floor((x + u) / 2^g) mod 2^q,      u = 2^g - 1 - a

exactly: nothing is approximated and nothing can fail. u is a dither that lies in alice's own share. It is uniform and
independent of x. The parties then open t^ = t + r mod 2^q, under a mask r of q bits. For k = 32 and q = 16 that is half
the bytes.

(SecureML's local truncation keeps the modulus 2^k while it drops bits. That is what fails there, with probability
|x|/2^k.)
"""

from moiety_shared.plan.lookups import Lookup
from moiety_shared.protocols.opening import Kind, Opening
from moiety_shared.ring import Array, Ring


def opened_ring(layer: Lookup) -> Ring:
    """The ring that the layer opens its masked values in, Z_{2^q}."""
    return Ring(layer.opened_bits)


def reduce_share(layer: Lookup, party: int, x: Array) -> Array:
    """Compute [t]_p from [x]_p, of any shape."""
    if party == 1 and layer.shift:
        x = x + x.dtype.type((1 << layer.shift) - 1)
    return opened_ring(layer).reduce(x, layer.shift)


def opening(layer: Lookup, party: int, x: Array, mask: Array) -> Opening:
    """The opening of t^, from [x]_p (rows, *shape). The opened value is (rows, size). `mask` is [r]_p (rows, size)."""
    ring = opened_ring(layer)
    t = reduce_share(layer, party, x).reshape(mask.shape)
    return Opening(ring.wrap(t + mask), Kind.RING, ring)


def dither_of(layer: Lookup, alices_share: Array) -> Array:
    """Compute the dither u of the formula above from [x]_0. For tests, which hold both shares."""
    low = (1 << layer.shift) - 1
    return low - (alices_share & low)
