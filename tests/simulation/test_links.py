"""What travels between the roles, as somebody sees it who took TLS away: whoever recorded it, or a proxy."""

import asyncio
import base64
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from moiety_client.errors import ServiceUnavailable
from moiety_party.pool import Pool
from moiety_party.pools import Pools
from moiety_party.provider import LeaseGrant
from moiety_party.store import Model
from moiety_shared.formats import PEER
from moiety_shared.plan.layers import Layer
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.preparation import Preparation
from tests import plans
from tests.simulation.detector import Detector
from tests.simulation.world import World, world

X = plans.random_inputs(3)
_WINDOW = 16


class Recorder:
    """Keeps all that travels, by name; lanes' frames also as they were before they were sealed."""

    def __init__(self) -> None:
        self.messages: dict[str, list[bytes]] = {}

    def __call__(self, name: str, message: bytes) -> bytes:
        self.messages.setdefault(name, []).append(message)
        return message

    def windows(self, *names: str) -> set[bytes]:
        """All pieces of `_WINDOW` bytes of these messages."""
        return {
            m[at : at + _WINDOW] for name in names for m in self.messages[name] for at in range(len(m) - _WINDOW + 1)
        }


def test_no_frame_between_the_parties_can_be_read_inside_of_tls(root: Path, detector: Detector) -> None:
    recorder = Recorder()

    async def run() -> None:
        async with world(root, detector) as w:
            w.change = recorder
            await w.restart("alice")
            for _ in range(3):
                await w.predict(X)

    asyncio.run(asyncio.wait_for(run(), 60))
    frames = [name.removeprefix("sealed ") for name in recorder.messages if name.startswith("sealed ")]
    assert {"START of alice", "OPENING of alice", "OPENING of bob", "RESULT of bob", "LEASE of alice"} <= set(frames)
    travelled = recorder.windows("HELLO of alice", "HELLO of bob", *(f"sealed {name}" for name in frames))
    for name in frames:
        assert not travelled & recorder.windows(name), f"{name} was readable"


def test_no_seed_or_correction_from_the_provider_can_be_read_inside_of_tls(
    root: Path, detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, seeds, corrections = Recorder(), list[bytes](), list[bytes]()
    opened, prepared = Pools.open, Preparation.add

    async def open_pool(self: Pools, peer: str, model: Model, grant: LeaseGrant) -> Pool:
        seeds.extend((grant.seed, grant.check))
        return await opened(self, peer, model, grant)

    def add(self: Preparation, layer: Layer, raw: bytes | bytearray) -> None:
        corrections.append(bytes(raw))
        prepared(self, layer, raw)

    monkeypatch.setattr(Pools, "open", open_pool)
    monkeypatch.setattr(Preparation, "add", add)

    async def run() -> None:
        async with world(root, detector) as w:
            w.change = recorder
            await w.restart("alice")
            await w.predict(X)

    asyncio.run(asyncio.wait_for(run(), 60))
    assert {"leases answer", "join answer", "bundle answer"} <= set(recorder.messages)
    travelled = [name for name in recorder.messages if f"sealed {name}" not in recorder.messages]
    recorded = recorder.windows(*travelled)
    assert len(seeds) >= 4 and max(map(len, corrections)) > 100
    for secret in (*seeds, *map(base64.b64encode, seeds), *(raw.hex().encode() for raw in seeds), *corrections):
        pieces = {secret[at : at + _WINDOW] for at in range(0, len(secret) - _WINDOW + 1, _WINDOW)}
        assert not recorded & pieces


def keys_of_leases(w: World) -> int:
    """How many the provider still has."""
    with sqlite3.connect(w.folder("provider") / "ledger.sqlite") as db:
        (count,) = db.execute("SELECT count(*) FROM leases WHERE key IS NOT NULL").fetchone()
    return int(count)


def test_a_lease_ends_with_its_pool(root: Path, detector: Detector) -> None:
    """Whatever ends that: a restart, a model that is deleted, bob's forgetting. After a crash only its age does."""

    async def scenario(w: World) -> None:
        async def until(reached: Callable[[], bool]) -> None:
            while True:
                if reached():
                    return
                await asyncio.sleep(0.05)

        async def left(count: int) -> None:
            await until(lambda: keys_of_leases(w) == count)

        first = w.entry.entry.upload_id
        await w.predict(X)
        await left(1)
        for role in ("alice", "bob"):
            await w.restart(role)
            await w.predict(X)
            await left(1)
        await w.publish()
        await w.predict(X)
        await left(2)
        await w.alices[0].party.models.delete(w.entry.entry.upload_id)
        await left(1)
        await w.restart("bob", crash=True)
        await left(1)
        await w.restart("alice", crash=True)
        await left(2)
        # Nobody ends a lease that she has not heard of.
        await until(lambda: bool(w.alices[0].party.pools.of_model(first)))
        await w.stop("alice")
        await left(1)

    async def run() -> None:
        async with world(root, detector) as w:
            await scenario(w)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_operators_and_clients_are_told_that_the_parties_versions_differ(root: Path, detector: Detector) -> None:
    async def scenario(w: World) -> None:
        newer = f'"version": {PEER + 1}'.encode()
        w.change = lambda name, raw: raw.replace(b'"version": %d' % PEER, newer) if name == "HELLO of bob" else raw
        await w.restart("alice")
        (alice,) = w.alices
        assert alice.leader is not None
        told = f"alice speaks version {PEER} of the peer protocol, bob {PEER + 1}"
        with pytest.raises(Problem) as unready:
            await alice.leader.ready()
        assert (unready.value.kind, unready.value.detail) == (ProblemType.PEER_VERSION, told)
        with pytest.raises(ServiceUnavailable) as refused:
            await w.predict(X, 1)
        assert refused.value.problem.kind is ProblemType.PEER_VERSION and told in str(refused.value)

    async def run() -> None:
        async with world(root, detector) as w:
            await scenario(w)

    asyncio.run(asyncio.wait_for(run(), 60))
