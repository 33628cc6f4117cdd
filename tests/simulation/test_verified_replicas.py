"""A verified model at two replicas of each party: one run at a time is past its coins at all of them together, whoever
meets another's check waits, and a check that fails or has no verdict at one of them ends the upload at all."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from moiety_party import standings, verified
from moiety_party.leader import turns
from moiety_party.verified import DurableStanding
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.databases import Postgres
from tests.simulation.detector import Detector
from tests.simulation.test_shortages import until
from tests.simulation.test_verified import X, answered, failed, lying, refused, rekeyed, simulate
from tests.simulation.world import World, unchanged


async def two_of_each(w: World) -> None:
    """Two replicas of each party, all of which have run once."""
    w.start_party("bob")
    w.start_party("alice")
    for _ in range(4):
        await answered(w)


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs of a party were past their coins, each time that one more was."""
    now, seen = Counter[str](), list[int]()
    toss, resolve = DurableStanding.toss, DurableStanding.resolve

    def tossed(standing: DurableStanding) -> None:
        toss(standing)
        now[database(standing)] += 1
        seen.append(now[database(standing)])

    def resolved(standing: DurableStanding) -> None:
        now[database(standing)] -= 1
        resolve(standing)

    def database(standing: DurableStanding) -> str:
        return standing._standings._db._name

    monkeypatch.setattr(DurableStanding, "toss", tossed)
    monkeypatch.setattr(DurableStanding, "resolve", resolved)
    return seen


def test_one_run_at_a_time_is_past_its_coins(
    root: Path, detector: Detector, postgres: Postgres, past: list[int]
) -> None:
    """Clients of both alices, at the same time, are all answered."""

    async def scenario(w: World) -> None:
        await two_of_each(w)

        async def client(number: int) -> None:
            for turn in range(2):
                await answered(w, plans.random_inputs(1 + number % 3, number * 10 + turn))

        await asyncio.gather(*map(client, range(6)))
        assert set(past) == {1} and not any(failed(w))
        ran = [len(node.leader.runs) for node in w.alices if node.leader]
        assert len(ran) == 2 and min(ran) > 2, "both serve"

    simulate(root, detector, scenario, postgres)


@pytest.mark.long
def test_a_lie_at_one_replica_ends_the_upload_at_all(root: Path, detector: Detector, postgres: Postgres) -> None:
    async def scenario(w: World) -> None:
        await two_of_each(w)
        w.change = lying("bob", 1, 0)
        await asyncio.gather(*(refused(w) for _ in range(6)))
        w.change = unchanged
        await until(lambda: sum(failed(w)) == 2)  # at one pair
        for _ in range(4):
            assert "earlier check" in await refused(w)
        await rekeyed(w)
        for _ in range(4):
            await answered(w)

    simulate(root, detector, scenario, postgres)


async def told(w: World) -> ProblemType:
    """What a request is refused with."""
    with pytest.raises(Problem) as caught:
        await w.ask(w.an_alice(), w.call(X).body)
    return caught.value.kind


@pytest.mark.parametrize("role", [pytest.param("alice", marks=pytest.mark.long), "bob"])
def test_a_replica_that_ends_past_its_coins_ends_the_upload(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, postgres: Postgres, role: str
) -> None:
    """The others cannot tell it from a slow one before its run's time is over. Until then they answer nothing, and show
    no coins. What they find is what the one that ended left in the database."""
    monkeypatch.setattr(verified, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.1)

    async def scenario(w: World) -> None:
        await two_of_each(w)
        upload, states = w.entry.entry.upload_id, [n.party.state for n in (w.alices if role == "alice" else w.bobs)]
        assert states[0].standings.toss(upload, upload, "dead", 600)
        assert [await told(w) for _ in range(2)] == [ProblemType.OVERLOADED] * 2
        for state in states:
            monkeypatch.setattr(state.standings, "_clock", lambda: time.time() + 601)
        assert [await told(w) for _ in range(2)] == [ProblemType.CHEATING_DETECTED] * 2
        assert states[1].standings.of(upload, "")[1] == "ended" and not any(failed(w))
        await rekeyed(w)
        await answered(w)

    simulate(root, detector, scenario, postgres)


@pytest.mark.long
def test_a_replica_that_ends_before_its_coins_costs_the_others_a_moment(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, postgres: Postgres
) -> None:
    monkeypatch.setattr(standings, "TURN_SECONDS", 0.5)

    async def scenario(w: World) -> None:
        await two_of_each(w)
        assert w.alices[0].party.state.standings.take(w.entry.entry.upload_id, "dead")
        await asyncio.gather(*(answered(w) for _ in range(2)))

    simulate(root, detector, scenario, postgres)


@pytest.mark.long
def test_a_slow_run_keeps_its_turn(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, postgres: Postgres, past: list[int]
) -> None:
    """It takes longer than a turn lasts, which it renews; another alice waits for it."""
    monkeypatch.setattr(standings, "TURN_SECONDS", 0.6)
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.6)
    settled = verified.Checks.settled

    async def slow(checks: verified.Checks, *run: Any) -> None:
        await settled(checks, *run)
        await asyncio.sleep(0.7)

    async def scenario(w: World) -> None:
        await two_of_each(w)
        monkeypatch.setattr(verified.Checks, "settled", slow)
        began = time.monotonic()
        await asyncio.gather(*(answered(w) for _ in range(2)))
        assert time.monotonic() > began + 2.8, "one after the other, and each party waits"
        assert set(past) == {1}

    simulate(root, detector, scenario, postgres)
