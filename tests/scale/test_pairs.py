"""Several processes of each party behind one address, in one process: pairs, their leases, and what is left when one
ends. The world is that of tests/simulation, whose detector sees any mask that is used twice."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from moiety_crypto_provider.issuer import Issuer, Lease
from moiety_party import pools
from tests import plans
from tests.simulation.conftest import detector as detector
from tests.simulation.conftest import root as root
from tests.simulation.detector import Detector
from tests.simulation.world import World, world

X = plans.random_inputs(3)
_CLIENTS, _CALLS = 8, 6


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many leases were opened, by upload."""
    opened = Counter[str]()
    original = Issuer.open_lease

    def counted(self: Issuer, upload_id: str, rows: int) -> tuple[Lease, bytes]:
        opened[upload_id] += 1
        return original(self, upload_id, rows)

    monkeypatch.setattr(Issuer, "open_lease", counted)
    return opened


async def two_of_each(w: World) -> None:
    await w.predict(X)
    w.clone("bob")
    w.clone("alice")


async def clients(w: World) -> None:
    """Every call is answered, and right: `predict` checks each."""

    async def one() -> None:
        for _ in range(_CALLS):
            await w.predict(X, seconds=30)

    await asyncio.gather(*(one() for _ in range(_CLIENTS)))


def test_every_pair_has_one_lease(root: Path, detector: Detector, leases: Counter[str]) -> None:
    async def run() -> None:
        async with world(root, detector) as w:
            await two_of_each(w)
            await clients(w)
            w.check_once()
            runs = [sum(node.leader.completed.values()) for node in w.alices if node.leader]
            assert len(runs) == 2 and all(runs), "both of alice's processes serve"
            assert all(node.party.pools.by_pair for node in w.bobs), "both of bob's processes are used"

    asyncio.run(asyncio.wait_for(run(), 120))
    detector.check()
    assert max(leases.values()) <= 4, "pairs do not take the leases from one another"


def test_an_owner_need_not_wait_for_a_bob_whom_no_alice_uses(root: Path, detector: Detector) -> None:
    async def run() -> None:
        async with world(root, detector) as w:
            upload_id = w.entry.entry.upload_id
            await w.predict(X)
            (alice,), (used,), unused = w.alices, list(w.bobs), w.clone("bob")
            assert alice.party.pools.is_prepared(upload_id) and used.party.pools.is_prepared(upload_id)
            assert unused.party.pools.is_prepared(upload_id) and not unused.party.pools.by_pair
            for node in (alice, used):
                kept = dict(node.party.pools.by_pair)
                node.party.pools.by_pair.clear()
                assert not node.party.pools.is_prepared(upload_id)
                node.party.pools.by_pair.update(kept)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("role", ["alice", "bob"])
def test_one_of_two_ends_in_the_middle_of_runs(root: Path, detector: Detector, role: str) -> None:
    async def run() -> None:
        async with world(root, detector) as w:
            await two_of_each(w)
            nodes = w.alices if role == "alice" else w.bobs
            calls = asyncio.create_task(clients(w))
            await asyncio.sleep(0)
            w.at_frame = (w.frames + 40, nodes[0].crash)
            await nodes[0].ended.wait()
            await calls
            w.check_once()

    asyncio.run(asyncio.wait_for(run(), 120))
    detector.check()


def test_the_pools_of_a_peer_that_ended_are_let_go(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "_UNLINKED_SECONDS", 0.05)

    async def run() -> None:
        async with world(root, detector) as w:
            await two_of_each(w)
            await clients(w)
            gone, left = w.alices[0], w.alices[1]
            gone.crash()
            w.alices.remove(gone)
            for _ in range(1000):
                await asyncio.sleep(0.01)
                kept = [bob for bob in w.bobs if bob.party.pools.with_peer(gone.party.boot)]
                if not kept:
                    break
            assert not kept
            assert any(bob.party.pools.with_peer(left.party.boot) for bob in w.bobs)

    asyncio.run(asyncio.wait_for(run(), 120))
