"""A model whose rows are short, beside one whose rows are ready."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from moiety_party import pools
from moiety_party.leader import shortages
from moiety_party.store import Model
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.preparation import PreparedRows
from tests import plans
from tests.simulation.detector import Detector
from tests.simulation.test_invariants import simulate
from tests.simulation.world import MAX_ROWS, World, check

X = plans.random_inputs(MAX_ROWS)  # so many that no two such requests share a run
WAITING = 5  # requests for the model that is short; alice has two lanes


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110  a queue has no events
        await asyncio.sleep(0.01)


class Clock:
    """What alice reads while she waits for rows. It stands still until a test has the time run out."""

    def __init__(self) -> None:
        self.now = self.step = 0.0

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


class Short:
    """The second upload: one party's rows of it come when they are let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slow: int) -> None:
        self.let, self.clock, prepare = asyncio.Event(), Clock(), pools.prepare_bundle

        async def prepared(model: Model, party: int, *rest: object) -> PreparedRows:
            if party == slow and int(model.upload_id, 16) == 2:
                await self.let.wait()
            return await prepare(model, party, *rest)  # type: ignore[arg-type]

        monkeypatch.setattr(pools, "prepare_bundle", prepared)
        monkeypatch.setattr(shortages, "time", self.clock)

    async def asked(self, w: World) -> list[asyncio.Task[bytes]]:
        """More requests for it than alice has lanes, of which as many as she tries have found no rows."""
        await w.publish()
        (alice,) = w.alices
        assert alice.leader is not None
        self.calls = [w.call(X) for _ in range(WAITING)]
        tasks = [asyncio.create_task(w.ask(alice, call.body)) for call in self.calls]
        queue = alice.leader._runs._queue
        await until(lambda: len(queue._waiting) == WAITING and bool(queue._held))
        return tasks


def beside(
    root: Path,
    detector: Detector,
    monkeypatch: pytest.MonkeyPatch,
    slow: int,
    scenario: Callable[[World, Short], Awaitable[None]],
) -> None:
    async def begun(w: World) -> None:
        await w.predict(X)
        await scenario(w, Short(monkeypatch, slow))

    simulate(root, detector, begun)


slow_party = pytest.mark.parametrize("slow", [0, 1], ids=["alice", "bob"])


@slow_party
def test_requests_that_wait_for_rows_hold_no_lane(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    async def scenario(w: World, short: Short) -> None:
        others = [w.call(X) for _ in range(6)]
        waiting = await short.asked(w)
        for call in others:
            check(X, call.open(await w.ask(w.alices[0], call.body)))
        assert not any(task.done() for task in waiting)
        short.let.set()
        for call, answer in zip(short.calls, await asyncio.gather(*waiting), strict=True):
            check(X, call.open(answer))

    beside(root, detector, monkeypatch, slow, scenario)


@slow_party
def test_requests_whose_rows_do_not_come_are_told_to_come_again(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    async def scenario(w: World, short: Short) -> None:
        waiting = await short.asked(w)
        short.clock.step = 2 * shortages._WAIT_SECONDS
        problems = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(p, Problem) and p.kind is ProblemType.RANDOMNESS_EXHAUSTED for p in problems)
        assert all(isinstance(p, Problem) and p.retry_after for p in problems)
        (alice,) = w.alices
        assert alice.leader is not None
        queue = alice.leader._runs._queue
        await until(lambda: not queue._held)  # nobody waits any more
        short.let.set()

    beside(root, detector, monkeypatch, slow, scenario)


def test_requests_that_wait_for_rows_are_refused_when_alice_stops(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(w: World, short: Short) -> None:
        waiting = await short.asked(w)
        leader = w.alices[0].leader
        assert leader is not None
        await leader.close()
        problems = await asyncio.gather(*waiting, return_exceptions=True)
        assert [p.kind for p in problems if isinstance(p, Problem)] == [ProblemType.STOPPING] * WAITING
        short.let.set()
        await w.restart("alice")

    beside(root, detector, monkeypatch, 1, scenario)
