"""What a client gets of a decision: two shares, on a tiny ring and under all randomness. They say which of two classes
an input is, and nothing else of it."""

import numpy as np
import pytest

from moiety_shared.plan.local import Combine
from moiety_shared.plan.lookups import Decide
from moiety_shared.plan.plan import AnyLayer, Input, Output, Plan
from moiety_shared.protocols import decide
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import alone, lockstep
from moiety_shared.ring import Array, Ring
from tests.protocols.cases import decided
from tests.protocols.enumeration import Axis, Tape, enumerate_axes, histogram

RING = Ring(4)
LAYER = decided(0, 4, 3, 3, 1)


def shares(secret: int) -> tuple[Array, Array]:
    """Both parties' shares of the decision, (rows, 1), under every mask that they depend on."""
    axes = Axis("x", 1, 4), Axis("masks", 1, 2), Axis("value", 1, 4), Axis("beta", 1, 4)
    share, masks, value, beta = enumerate_axes(axes)
    rows, of_alice = len(share), {"masks": masks, "value": value, "beta": beta}
    of_bob = {name: np.zeros_like(of_alice[name]) for name in ("masks", "value")}
    dealer = Dealer(RING, rows, Tape(of_alice), Tape(of_bob))
    decide.deal(dealer, LAYER)
    holders = Holder(RING, 0, rows, Tape(of_alice), {}), Holder(RING, 1, rows, Tape(of_bob), dealer.corrections)
    x = share.astype(RING.dtype), RING.wrap(secret - share.astype(RING.dtype))
    runs = [alone(decide.evaluate(RING, p, LAYER, x[p], decide.prepare(holders[p], LAYER))) for p in (0, 1)]
    return lockstep(*runs, lambda *_: None)


def test_a_client_learns_the_decision_and_nothing_else() -> None:
    seen: dict[int, Array] = {}
    for secret in range(-7, 7):
        alice, bob = (one.astype(np.int64) & 15 for one in shares(secret))
        assert ((alice + bob) % 16 == (secret >= 1)).all(), secret
        views = histogram([(alice, 4), (bob, 4)])
        assert np.array_equal(seen.setdefault(secret >= 1, views), views), f"the shares of {secret} differ from others'"
        for share in (alice, bob):
            assert np.ptp(histogram([(share, 4)])) == 0, "each share alone is uniform"
    assert len(seen) == 2


DECIDE = Decide(name="d", input="input", shape=(1,), shift=0, opened_bits=16, range_bits=8, hinges=(1,))


def plan(*layers: AnyLayer, **output: object) -> Plan:
    given = Input(shape=(1,), frac_bits=0, low=-100, high=100)
    members = {"shape": (1,), "kind": "decision", "task": "binary"} | output
    return Plan(ring_bits=32, input=given, layers=layers, output=Output.model_validate(members))


def test_a_decision_is_a_bit_and_nothing_else() -> None:
    """A token that allows labels allows decisions, so nothing else may pass as one."""
    assert plan(DECIDE, wire="d").output.kind == "decision"
    weighted = Combine(name="w", inputs=("d",), shapes=((1,),), factors=(1000,))
    for wire in ("input", "w"):
        with pytest.raises(ValueError, match="is not a decision"):
            plan(DECIDE, weighted, wire=wire)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"task": "classes"}, "between two classes"),
        ({"task": "values"}, "between two classes"),
        ({"shape": (2,)}, "told apart by one output"),
    ],
)
def test_a_decision_is_between_two_classes(members: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(DECIDE, wire="d", **members)
