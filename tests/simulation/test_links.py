"""What travels between the roles, as somebody sees it who took TLS away: whoever recorded it, or a proxy."""

import asyncio
from pathlib import Path

import pytest

from moiety_client.errors import ServiceUnavailable
from moiety_shared.formats import PEER
from moiety_shared.problems import Problem, ProblemType
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
