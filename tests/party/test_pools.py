"""Pools of models whose one row is larger than a pool should be."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from moiety_party.metrics import PartyMetrics
from moiety_party.pools import Pools
from moiety_party.provider import LeaseGrant
from moiety_party.store import Model
from moiety_service import memory
from moiety_shared.crypto.prg import new_seed
from tests import plans
from tests.protocols.running import Run


@pytest.mark.parametrize(("more", "times"), [(0, 0), (1, 2)])
def test_what_the_last_row_left_free_is_let_go_of_before_the_next(
    monkeypatch: pytest.MonkeyPatch, more: int, times: int
) -> None:
    """Where a row has more bytes than a pool, by `more`."""
    run, released = Run(plans.branches(), plans.weights()), list[None]()
    monkeypatch.setattr(memory, "release_freed", lambda: released.append(None))
    settings = SimpleNamespace(party=0, role="alice", pool_bytes=run.plan.bundle_row_bytes - more)
    model, grant = (
        Model(cast(Any, None), run.plan, run.models[0]),
        LeaseGrant("ab", "00" * 16, 1, "", new_seed(), new_seed()),
    )
    metrics = PartyMetrics("alice", CollectorRegistry())

    async def prepare() -> None:
        with ThreadPoolExecutor(1) as offline:
            pools = Pools(cast(Any, settings), cast(Any, None), cast(Any, None), offline, metrics, NoOpTracer())
            for number in range(2):
                assert await pools._prepare(model, grant, None, number)

    asyncio.run(prepare())
    assert len(released) == times
