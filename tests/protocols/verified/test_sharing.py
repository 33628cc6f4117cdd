"""Requests that share a verified run: one check covers them all, and each client is told of its own rows alone."""

from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest

from moiety_shared.crypto.prg import new_seed
from moiety_shared.protocols.opening import Session, lockstep
from moiety_shared.protocols.verified import graph
from moiety_shared.protocols.verified.answers import CheckFailed, PartyAnswer
from moiety_shared.protocols.verified.claims import Nonces, Standing
from moiety_shared.ring import Array
from tests.protocols.running import integers
from tests.protocols.verified import lies
from tests.protocols.verified.running import Bundle, Upload, accepted_of
from tests.protocols.verified.test_layers import counting, given

REQUESTS = [2, 1, 3]
PLACES = [slice(end - rows, end) for end, rows in zip(accumulate(REQUESTS), REQUESTS, strict=True)]
Pair = tuple[PartyAnswer, PartyAnswer]


@pytest.fixture(scope="module", params=["values", "a count"])
def up(request: pytest.FixtureRequest) -> Upload:
    plan = counting() if request.param == "a count" else lies.PLAN
    return Upload(plan, {name: integers(shape, 4) for name, shape in plan.weights()})


def shared(up: Upload, bundle: Bundle, shares: tuple[Array, Array]) -> list[Pair]:
    """What both parties tell the client of each request, at the end of one run of all."""
    runs: list[Session[list[PartyAnswer]]] = [
        graph.run(
            up.plan, key, bundle.name, share, bundle.ready[p], up.models[p], Nonces(new_seed()[:16], new_seed()[:16]),
            Standing(), REQUESTS,
        )
        for p, (key, share) in enumerate(zip(up.keys, shares, strict=True))
    ]  # fmt: skip
    return list(zip(*lockstep(*runs), strict=True))


def test_each_client_accepts_its_own_answer(up: Upload) -> None:
    x, bundle = given(up, sum(REQUESTS))
    one = integers(x.shape)
    told = shared(up, bundle, (one, x - one))
    for place, pair in zip(PLACES, told, strict=True):
        own = replace(bundle, masks={name: low[place] for name, low in bundle.masks.items()})
        expected = up.expected(own, x[place])
        assert np.array_equal(accepted_of(bundle, place, x[place], pair).reshape(expected.shape), expected)


def test_nobody_is_told_a_key_of_anothers_row(up: Upload) -> None:
    x, bundle = given(up, sum(REQUESTS))
    told = shared(up, bundle, (x, np.zeros_like(x)))
    keys = [key for pair in told for answer in pair for key in answer.keys.keys]
    assert [len(answer.keys.keys) for answer, _ in told] == REQUESTS and len(set(keys)) == 2 * sum(REQUESTS)
    assert len({answer.opened for answer, _ in told}) == len(REQUESTS)
    for place, pair in zip(PLACES, [*told[1:], told[0]], strict=True):
        with pytest.raises(CheckFailed):
            accepted_of(bundle, place, x[place], pair)


def test_of_a_request_that_bob_refuses_the_check_holds(up: Upload) -> None:
    """He has no share of it. The others' answers are right, and their clients accept them."""
    x, bundle = given(up, sum(REQUESTS))
    one = integers(x.shape)
    other = (x - one).astype(np.int32)
    other[PLACES[1]] = 0
    told = shared(up, bundle, (one, other))
    with pytest.raises(CheckFailed):
        accepted_of(bundle, PLACES[1], x[PLACES[1]], told[1])
    for number in (0, 2):
        place = PLACES[number]
        own = replace(bundle, masks={name: low[place] for name, low in bundle.masks.items()})
        expected = up.expected(own, x[place])
        assert np.array_equal(accepted_of(bundle, place, x[place], told[number]).reshape(expected.shape), expected)
