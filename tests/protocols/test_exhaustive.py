"""On tiny rings, every input under all randomness: the result is exactly the functionality's, and what a party sees is
distributed alike for every secret."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from moiety_shared.plan.lookups import Comparison, Truncate
from moiety_shared.plan.normalise import Normalise
from tests.protocols.cases import CASES, compared, ranked
from tests.protocols.exhaustion import Case, check
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
