"""Fresh shares: alice's, and the dither in its low bits, are uniform whatever both shares were."""

from itertools import product

import numpy as np
import pytest

from moiety_shared.plan.layers import Reshare
from moiety_shared.protocols import reshare
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.ring import Ring
from tests.protocols.bugs import Patch, bare
from tests.protocols.enumeration import Axis, Leak, Tape, Views, enumerate_axes, histogram


def check_reshared(k: int) -> None:
    ring, layer = Ring(k), Reshare(name="f", input="x", shape=(1,))
    (zero,) = enumerate_axes([Axis("zero", 1, k)])
    dealer = Dealer(ring, len(zero), Tape({"zero": zero}), Tape())
    reshare.deal(dealer, layer)
    holders = Holder(ring, 0, len(zero), Tape({"zero": zero}), {}), Holder(ring, 1, 0, Tape(), dealer.corrections)
    prepared = [reshare.prepare(holder, layer) for holder in holders]
    view = Views("alice")
    for shares in product(range(1 << k), repeat=2):
        one, other = (
            reshare.evaluate(ring, np.full(zero.shape, x, dtype=ring.dtype), of)
            for x, of in zip(shares, prepared, strict=True)
        )
        assert (ring.wrap(one + other) == sum(shares) % (1 << k)).all(), f"wrong for {shares}"
        view.add(shares, histogram([(one, k)]))
    view.assert_uniform()


def test_fresh_shares_are_uniform_whatever_the_clients_were() -> None:
    check_reshared(4)


def test_shares_that_stay_the_clients_are_noticed(monkeypatch: Patch) -> None:
    bare("zero")(monkeypatch)
    with pytest.raises(Leak):
        check_reshared(4)
