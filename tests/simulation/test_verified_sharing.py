"""Requests of several clients that share a verified run: each client checks its own answer, and nothing that one of
them sends fails the check, or another's answer."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from moiety_client.exchange import Sealer
from moiety_shared.crypto.prg import Stream
from moiety_shared.problems import ProblemType
from tests import plans
from tests.simulation.detector import Detector
from tests.simulation.test_sharing import COUNT, Asking, clients, positions, runs, together, useless
from tests.simulation.test_shortages import until
from tests.simulation.test_verified import failed, lying, simulate
from tests.simulation.world import World, unchanged


async def answered(w: World, one: Asking) -> None:
    """The client's own check accepts the answer, and it is right."""
    assert np.array_equal(one.call.open(await one.ask(w)), plans.second_scores(one.x))


def shared(root: Path, detector: Detector, scenario: Callable[[World], Awaitable[None]]) -> None:
    """The scenario, once the parties have a lane and rows. alice gathers requests for a moment."""

    async def begun(w: World) -> None:
        (alice,) = w.alices
        await answered(w, clients(w, 1)[0])
        alice.party.settings = alice.party.settings.model_copy(update={"batch_milliseconds": 100})
        await scenario(w)

    simulate(root, detector, begun)


def test_requests_of_several_clients_share_a_verified_run(root: Path, detector: Detector) -> None:
    """Each has its own rows of it, one to three. A pool of 16 rows gives a run half of them."""

    async def scenario(w: World) -> None:
        asking = clients(w, 5)
        for number, one in enumerate(asking[:2], 2):
            one.x = plans.random_inputs(number, seed=number)
            one.call, one.token = w.call(one.x), None
        before, done = positions(w), len(runs(w))
        await together(*(answered(w, one) for one in asking))
        assert runs(w)[done:] == [len(asking)]
        assert positions(w) == [position + 8 for position in before]

    shared(root, detector, scenario)


def test_no_client_fails_the_check_or_anothers_answer(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by what bob refuses, nor by any ring elements, nor by going away in the middle of the run."""

    async def scenario(w: World) -> None:
        asking = clients(w, COUNT + 2)
        bad = await useless(w, asking, monkeypatch)
        wild, gone, *good = asking[len(bad) :]
        wild.x = Stream(bytes(32)).words("x", wild.x.shape, np.int32)
        wild.call, wild.token = Sealer(w.entry.entry).call(wild.x), None
        leaving = asyncio.create_task(gone.ask(w))

        def change(name: str, message: bytes) -> bytes:
            if name == "OPENING of bob":
                leaving.cancel()
            return message

        w.change, done = change, len(runs(w))
        results = await together(
            *(one.refused(w) for one in bad.values()), wild.ask(w), *(answered(w, one) for one in good)
        )
        w.change = unchanged
        assert results[: len(bad)] == list(bad)
        assert wild.call.open(results[len(bad)]).shape == (1, 3)
        assert leaving.cancelled() and runs(w)[done:] == [COUNT + 2] and failed(w) == [0, 0]

    shared(root, detector, scenario)


def test_a_lie_in_a_shared_run_is_caught_before_anybody_is_answered(root: Path, detector: Detector) -> None:
    """Nor are the requests run again, each alone: the upload has ended. Even if alice does not know that yet."""

    async def scenario(w: World) -> None:
        (alice,), upload = w.alices, w.entry.entry.upload_id
        lie, begun = lying("bob", 1, 0), []

        def change(name: str, message: bytes) -> bytes:
            if name == "START of alice":
                begun.append(name)
            return lie(name, message)

        w.change = change
        for run in (1, 2):
            kinds = await together(*(one.refused(w) for one in clients(w)))
            assert set(kinds) == {ProblemType.CHEATING_DETECTED} and len(begun) == run
            await until(lambda: failed(w) == [1, 1])
            alice.party.state.standings._move(upload, upload, "ended", "good")

    shared(root, detector, scenario)
