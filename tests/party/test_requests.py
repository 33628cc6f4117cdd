"""A request runs once; what is kept of it is bounded."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing

import pytest
from sqlalchemy import URL

from moiety_party.leader import journal, requests
from moiety_party.leader.journal import Journal
from moiety_party.leader.requests import Requests
from moiety_party.state import CLAIM_SECONDS, State
from moiety_shared.messages.wire import Binding
from moiety_shared.problems import Problem, ProblemType
from tests.clock import Clock


def binding(number: int, content: bytes = b"c") -> Binding:
    return Binding(b"p" * 32, b"u" * 16, number.to_bytes(16, "little"), content * 32, 0)


def test_racing_copies_run_once_and_other_content_is_refused() -> None:
    async def run() -> None:
        kept, runs = Requests(60), 0

        async def compute() -> bytes:
            nonlocal runs
            runs += 1
            await asyncio.sleep(0.01)
            return b"result"

        answers = await asyncio.gather(*(kept.once(binding(1), "me", compute) for _ in range(50)))
        assert set(answers) == {b"result"} and runs == 1
        with pytest.raises(Problem) as caught:
            await kept.once(binding(1, b"d"), "me", compute)
        assert caught.value.kind is ProblemType.REQUEST_CONFLICT and runs == 1

    asyncio.run(run())


def test_a_failed_request_may_be_tried_again() -> None:
    async def run() -> None:
        kept = Requests(60)

        async def fail() -> bytes:
            await asyncio.sleep(0.01)
            raise Problem(ProblemType.PEER_UNAVAILABLE)

        async def succeed() -> bytes:
            return b"result"

        results = await asyncio.gather(*(kept.once(binding(1), "me", fail) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(result, Problem) for result in results)
        assert await kept.once(binding(1), "me", succeed) == b"result"

    asyncio.run(run())


def test_results_expire_by_time_and_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_MAX_KEPT_BYTES", 100)

    async def run() -> None:
        kept, runs = Requests(60), []

        async def answer(number: int) -> bytes:
            async def compute() -> bytes:
                runs.append(number)
                return bytes(30)

            return await kept.once(binding(number), "me", compute)

        for number in range(20):
            await answer(number)
        await answer(19)
        assert runs == list(range(20)) and kept._kept <= 100 + 30
        with pytest.raises(Problem) as caught:
            await answer(0)
        assert caught.value.kind is ProblemType.REQUEST_EXPIRED, "it ran once, and never again"
        assert runs == list(range(20))
        brief = Requests(0)

        async def compute() -> bytes:
            runs.append(-1)
            return b"x"

        await brief.once(binding(1), "me", compute)
        await brief.once(binding(1), "me", compute)
        assert runs[-2:] == [-1, -1] and len(brief._entries) == len(brief._finished) == 1, "what is over is forgotten"

    asyncio.run(run())


# Replicas


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(journal, "_POLL_SECONDS", 0.005)
    return Clock()


@pytest.fixture
def replicas(database: URL, clock: Clock) -> Iterator[list[Requests]]:
    """Four of them, on one database."""
    with ExitStack() as opened:
        states = [opened.enter_context(closing(State(database, "alice", clock))) for _ in range(4)]
        yield [Requests(60, Journal(state, f"replica {n}", 60)) for n, state in enumerate(states)]


def test_racing_copies_run_at_one_replica(replicas: list[Requests]) -> None:
    async def run() -> None:
        runs = 0

        async def compute() -> bytes:
            nonlocal runs
            runs += 1
            await asyncio.sleep(0.05)
            return b"result"

        copies = [replica.once(binding(1), "me", compute) for replica in replicas for _ in range(5)]
        assert set(await asyncio.gather(*copies)) == {b"result"} and runs == 1
        for content, who in ((b"d", "me"), (b"c", "another")):
            for replica in replicas:
                with pytest.raises(Problem) as caught:
                    await replica.once(binding(1, content), who, compute)
                assert caught.value.kind is ProblemType.REQUEST_CONFLICT
        assert runs == 1

    asyncio.run(run())


def test_what_failed_at_one_replica_may_be_tried_at_another(replicas: list[Requests]) -> None:
    async def run() -> None:
        async def fail() -> bytes:
            raise Problem(ProblemType.PEER_UNAVAILABLE)

        async def succeed() -> bytes:
            return b"result"

        with pytest.raises(Problem):
            await replicas[0].once(binding(1), "me", fail)
        assert await replicas[1].once(binding(1), "me", succeed) == b"result"
        assert await replicas[0].once(binding(1), "me", fail) == b"result"

    asyncio.run(run())


def test_a_replica_that_died_does_not_hold_a_request_for_ever(replicas: list[Requests], clock: Clock) -> None:
    async def run() -> None:
        runs: list[str] = []

        def answer(name: str) -> Callable[[], Awaitable[bytes]]:
            async def compute() -> bytes:
                runs.append(name)
                return name.encode()

            return compute

        dead, heir = (replica._journal for replica in replicas[:2])
        assert dead is not None and heir is not None
        claim = binding(1).request_id, "me", binding(1).request_digest
        assert dead._state.claim(*claim, "replica 0") is True
        waiting = [asyncio.create_task(replica.once(binding(1), "me", answer("heir"))) for replica in replicas[1:]]
        clock.now += CLAIM_SECONDS - 1
        dead._state.alive("replica 0")  # not dead yet
        clock.now += CLAIM_SECONDS - 1
        await asyncio.sleep(0.1)
        assert not runs
        clock.now += 2
        assert set(await asyncio.gather(*waiting)) == {b"heir"} and runs == ["heir"]
        dead._state.keep(claim[0], "replica 0", b"too late", 60)
        assert await replicas[3].once(binding(1), "me", answer("again")) == b"heir"
        clock.now += 61
        heir._state.alive("replica 1")
        replicas[3]._entries.clear()
        assert await replicas[3].once(binding(1, b"d"), "me", answer("new")) == b"new", "what is over is forgotten"

    asyncio.run(run())
