"""A model that is deleted while it is asked for leaves no pool, no lock and no copy, at any replica."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from moiety_client.errors import MoietyError
from moiety_party.provider import Provider
from moiety_party.store import ModelStore
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.simulation.detector import Detector
from tests.simulation.world import Node, World, world

X = plans.random_inputs(3)
Scenario = Callable[[World, "Gate"], Awaitable[None]]


class Gate:
    """Holds up what passes it, once it is shut."""

    def __init__(self) -> None:
        self.passing, self.open = asyncio.Event(), asyncio.Event()
        self.open.set()

    async def __call__(self) -> None:
        if not self.open.is_set():
            self.passing.set()
            await self.open.wait()


def simulate(root: Path, detector: Detector, scenario: Scenario) -> None:
    async def run() -> None:
        async with world(root, detector) as w:
            await scenario(w, Gate())

    asyncio.run(asyncio.wait_for(run(), 60))


async def asks(w: World) -> None:
    with suppress(MoietyError):
        await w.predict(X, 0.5)


def held(node: Node, upload_id: str) -> list[str]:
    """The peers with whom a party has a pool for this upload."""
    return [peer for peer, upload in node.party.pools.by_pair if upload == upload_id]


@pytest.mark.parametrize("slow", ["open_lease", "join_lease"])
@pytest.mark.parametrize("first", ["alice", "bob"])
def test_a_lease_that_is_under_way(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch, slow: str, first: str
) -> None:
    """The provider answers when the model is gone already."""

    async def scenario(w: World, gate: Gate) -> None:
        (alice,), (bob,) = w.alices, w.bobs
        await w.predict(X)
        upload_id = w.entry.entry.upload_id
        original = getattr(Provider, slow)

        async def slowly(self: Provider, *what: object) -> object:
            answer = await original(self, *what)
            await gate()
            return answer

        monkeypatch.setattr(Provider, slow, slowly)
        gate.open.clear()
        for node in (alice, bob):
            await node.party.pools.drop_model(upload_id)
        asked = asyncio.create_task(asks(w))
        await gate.passing.wait()
        for node in (alice, bob) if first == "alice" else (bob, alice):
            await node.party.models.delete(upload_id)
        gate.open.set()
        await asked
        for _ in range(3):
            await asks(w)
        assert not held(alice, upload_id) and not held(bob, upload_id)
        await w.publish()
        await w.predict(X)
        assert alice.leader is not None and len(alice.leader._leases._opening) <= 1, "only while they are used"

    simulate(root, detector, scenario)


def test_a_replica_that_reads_it_from_the_store(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked into the database before the model was deleted, and into the store after."""

    async def scenario(w: World, gate: Gate) -> None:
        (alice,) = w.alices
        upload_id = w.entry.entry.upload_id
        known = alice.party.state.refresh()
        monkeypatch.setattr(alice.party.state, "refresh", lambda: known)
        files = {name: alice.party.store._objects.read(upload_id, name, 1 << 20) for name in _files(alice, upload_id)}
        await alice.party.models.delete(upload_id)
        for name, content in files.items():  # as if they were still being wiped
            alice.party.store._objects.write(upload_id, name, [content])
        with pytest.raises(Problem) as caught:
            await alice.party.replicas.model(upload_id)
        assert caught.value.kind is ProblemType.UNKNOWN_MODEL
        assert upload_id not in alice.party.store and not held(alice, upload_id)

    simulate(root, detector, scenario)


def _files(node: Node, upload_id: str) -> list[str]:
    return node.party.store._objects.files(upload_id)


def test_a_model_that_bob_does_not_have_holds_up_no_other(root: Path, detector: Detector) -> None:
    """Deleted at bob alone, by an owner who was interrupted: alice leases for the others, and not for it."""

    async def scenario(w: World, gate: Gate) -> None:
        (alice,), (bob,) = w.alices, w.bobs
        gone = w.entry.entry.upload_id
        await bob.party.models.delete(gone)
        await w.publish()
        other = w.entry.entry.upload_id
        assert alice.leader is not None
        for _ in range(3):
            await alice.leader._leases.check()
        assert held(alice, other) and held(bob, other), "the first of her models is no reason to forget the second"
        assert not held(alice, gone), "the pool that bob dropped is of no use"
        opened = len(alice.party.pools.by_pair)
        await w.predict(X)
        assert len(alice.party.pools.by_pair) == opened

    simulate(root, detector, scenario)


def test_a_store_that_was_told_of_a_delete_adds_nothing(root: Path, detector: Detector) -> None:
    async def scenario(w: World, gate: Gate) -> None:
        (bob,) = w.bobs
        upload_id, store = w.entry.entry.upload_id, bob.party.store
        store.drop(upload_id)
        assert ModelStore.load(store, upload_id) and upload_id not in store

    simulate(root, detector, scenario)
