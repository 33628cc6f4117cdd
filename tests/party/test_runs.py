"""Who serves the queue of requests, and that nobody is forgotten."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from moiety_party.leader import runs
from moiety_party.leader.queue import Queue, Waiting
from moiety_party.leader.runs import Runs
from tests.party.test_queue import waiting

SETTINGS = SimpleNamespace(lanes=1, max_waiting=8, batch_milliseconds=0.0)


class Lending:
    """Lanes that lead nowhere."""

    @asynccontextmanager
    async def lend(self, **_: object) -> AsyncIterator[None]:
        yield None


def test_a_request_that_comes_while_the_last_task_ends_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second request comes right after the only task has found that nothing waits, and before its callbacks."""
    monkeypatch.setattr(runs, "shared_rows", lambda *_: 64)

    async def scenario() -> None:
        nobody: Any = SimpleNamespace(holds=lambda *_: False)
        party: Any = SimpleNamespace(
            settings=SETTINGS, metrics=SimpleNamespace(waiting=SimpleNamespace(set=lambda _: 0))
        )
        made = Runs(party, cast(Any, Lending()), nobody, nobody)
        late: list[asyncio.Task[bytes]] = []

        async def run(_: object, batch: Sequence[Waiting]) -> None:
            for one in batch:
                one.succeed(b"answer")

        def come() -> None:
            if not late:
                task = asyncio.create_task(made.answer(waiting(1, "late")))
                late.append(task)

        class Watched(Queue):
            @property
            def head(self) -> Waiting | None:
                found = super().head
                if found is None:
                    come()
                return found

        monkeypatch.setattr(made, "run", run)
        made._queue.__class__ = Watched
        assert await made.answer(waiting(1, "early")) == b"answer"
        await asyncio.sleep(0)
        assert await asyncio.wait_for(late[0], 5) == b"answer"
        await made.close()

    asyncio.run(scenario())
