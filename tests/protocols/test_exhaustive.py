"""On tiny rings, every input under all randomness: the result is exactly the functionality's, and what a party sees is
distributed alike for every secret."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from moiety_shared.plan.lookups import Comparison, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.protocols import truncation
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import alone, lockstep
from moiety_shared.ring import Array, Ring
from tests.protocols.bugs import bare, half_a_mask, no_mask
from tests.protocols.cases import CASES, compared, ranked
from tests.protocols.enumeration import Tape, Views, histogram
from tests.protocols.exhaustion import Case, check, enumerated
from tests.protocols.functionality import functionality, functionality_beyond

_LONG = ("pieces: cubics, 5 bits", "pieces: parabolas, 5 bits", "pool: 2 x 2", "top 2 of 3, words")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in _LONG else []) for name in CASES]
)
def test_exact_and_private(name: str) -> None:
    check(CASES[name])


# Values out of range. A client shares ring elements that nobody checks, so it can bring them about.


def has_beyond(case: Case) -> bool:
    return not isinstance(case.layer, Truncate) and next(case.beyond, None) is not None


COMPARED = [
    name
    for name, case in CASES.items()
    if isinstance(case.layer, Comparison) and not isinstance(case.layer, Normalise)  # whose result is of v^ as well
]
BEYOND = [name for name, case in CASES.items() if has_beyond(case)]


@pytest.mark.parametrize("name", BEYOND)
def test_beyond_the_range_no_mask_decides(name: str) -> None:
    check(CASES[name], beyond=True)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in CASES
        if isinstance(CASES[name].layer, Comparison) and not isinstance(CASES[name].layer, Normalise)
    ],
)
def test_within_the_range_both_definitions_agree(name: str) -> None:
    case = CASES[name]
    for secret in case.secrets:
        t = (np.array(secret).reshape(1, *case.layer.shape)) >> case.layer.shift
        assert np.array_equal(functionality(case.layer, t), functionality_beyond(case.layer, t))


@pytest.mark.parametrize("result", ["words", "share"])
def test_top_k_of_any_three_values_is_exact(result: str) -> None:
    check(compared(3, ranked(3, result, 0, 3, 2, 2, 2 if result == "words" else 1), 0), private=False)


def check_lifted(case: Case, party: int) -> None:
    """What is made of a lifted value takes its dither from the shares: they tell nothing of it, also beside t^."""
    ring, layer = Ring(case.k), case.layer
    assert isinstance(layer, Truncate)
    x0, of_alice, of_bob = enumerated(case)
    dealer = Dealer(ring, len(x0), Tape(of_alice), Tape(of_bob))
    truncation.deal(dealer, layer)
    holders = Holder(ring, 0, len(x0), Tape(of_alice), {}), Holder(ring, 1, len(x0), Tape(of_bob), dealer.corrections)
    prepared = [truncation.prepare(holder, layer) for holder in holders]
    views = Views(str(party))
    for secret in case.secrets:
        opened: list[Array] = []
        x = x0.astype(ring.dtype), ring.wrap(np.array(secret, dtype=ring.dtype) - x0.astype(ring.dtype))
        sessions = [alone(truncation.evaluate(ring, p, layer, x[p].reshape(-1, 1), prepared[p])) for p in (0, 1)]
        shares = lockstep(*sessions, lambda _, value: opened.append(value))  # noqa: B023
        views.add(secret, histogram([(shares[party], case.k), (opened[0], layer.opened_bits)]))
    views.assert_uniform()


@pytest.mark.parametrize("party", [0, 1])
def test_shares_of_a_lifted_value_are_uniform_beside_what_is_opened(party: int) -> None:
    check_lifted(CASES["truncate: 3 of 4 bits"], party)


@pytest.mark.parametrize("party", [0, 1])
@pytest.mark.parametrize("plant", [bare("lift"), no_mask("value"), half_a_mask])
def test_shares_of_a_lifted_value_that_are_not_uniform_are_noticed(
    monkeypatch: pytest.MonkeyPatch, party: int, plant: Callable[[pytest.MonkeyPatch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        check_lifted(CASES["truncate: 3 of 4 bits"], party)


@dataclass(frozen=True)
class At(Case):
    """One secret, whether it is in range or not."""

    secret: int = 0

    @property
    def secrets(self) -> Iterator[tuple[int, ...]]:
        yield (self.secret,)


@pytest.mark.parametrize(("secret", "exact"), [(-3, False), (-2, True), (2, True), (3, False)])
def test_where_truncation_ends(secret: int, exact: bool) -> None:
    """|t| <= 2^(q - 2) is lifted right under every mask; further out some mask gives a wrong result."""
    case = At(*vars(CASES["truncate: the low bits"]).values(), secret=secret)
    if exact:
        check(case)
    else:
        with pytest.raises(AssertionError, match="wrong for"):
            check(case)
