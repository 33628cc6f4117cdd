"""A request runs once; what is kept of it is bounded."""

import asyncio

import pytest

from moiety_party import requests
from moiety_party.requests import Requests
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.wire import Binding


def binding(number: int, content: bytes = b"c") -> Binding:
    return Binding(b"p" * 32, b"u" * 16, number.to_bytes(16, "little"), content * 32)


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
        assert len(kept._entries) <= 5 and runs == list(range(20))
        brief = Requests(0)

        async def compute() -> bytes:
            runs.append(-1)
            return b"x"

        await brief.once(binding(1), "me", compute)
        await brief.once(binding(1), "me", compute)
        assert runs[-2:] == [-1, -1]

    asyncio.run(run())
