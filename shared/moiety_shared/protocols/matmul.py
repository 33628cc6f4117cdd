"""The matrix product of two masked wires, as attention has it: of every query with every key, in every head.

x (..., n, d) and z (..., m, d) are open under masks r and t, and y = x z^T for each place of the axes before.

    Bundle (per row):   the dealer fixes C = r t^T, of the output's size.
    Online:             y = (x^ - r)(z^ - t)^T = x^ z^^T - x^ t^T - r z^^T + C, so
                        [y]_p = x^ (p z^ - [t]_p)^T - [r]_p z^^T + [C]_p.

Product by product this is Mul (protocols.product), but one correction holds the d products that add up to an output. So
the dealer sends n m words, and not n m d. A party computes two products online, and none before.
"""

from moiety_shared.plan.layers import MatMul
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.product import Opened, PreparedProduct
from moiety_shared.ring import Array, Ring


def deal(dealer: Dealer, layer: MatMul, r: Array, t: Array) -> None:
    """Fix C = r t^T. `r` and `t` are the masks of the left and the right wire."""
    dealer.fix("product", dealer.ring.matmul(r, t))


def prepare(holder: Holder, layer: MatMul) -> PreparedProduct:
    """Return [C]_p."""
    return PreparedProduct(holder.fixed("product", layer.output_shape))


def evaluate(ring: Ring, party: int, x: Opened, z: Opened, prepared: PreparedProduct) -> Array:
    """Turn x^ and z^ into [x z^T]_p, without an opening."""
    y = ring.matmul(x.value, z.value - z.mask if party == 1 else -z.mask)
    y -= ring.matmul(x.mask, z.value)
    y += prepared.offset
    return ring.wrap(y)
