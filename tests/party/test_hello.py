"""How a lane begins, and how it does not: versions, silence, nonsense, and randomness that came twice."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from moiety_party import hello
from moiety_party.hello import answer, call
from moiety_party.lane import Lane
from moiety_party.leader.leases import stock_at_bob
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.formats import PEER
from moiety_shared.messages.wire import Frame, FrameKind
from moiety_shared.problems import Problem, ProblemType


class End:
    """One end of a link in memory."""

    def __init__(self, incoming: asyncio.Queue[bytes | None], outgoing: asyncio.Queue[bytes | None]) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.sent: list[bytes] = []
        self.closed = False

    async def send(self, message: bytes | bytearray) -> None:
        self.sent.append(bytes(message))
        await self.outgoing.put(self.sent[-1])

    async def recv(self) -> bytes:
        message = await self.incoming.get()
        if message is None:
            raise Problem(ProblemType.PEER_UNAVAILABLE)
        return message

    async def close(self) -> None:
        self.closed = True
        await self.outgoing.put(None)


def ends() -> tuple[End, End]:
    to_alice, to_bob = asyncio.Queue[bytes | None](), asyncio.Queue[bytes | None]()
    return End(to_alice, to_bob), End(to_bob, to_alice)


async def begun(alice: End, bob: End) -> tuple[Lane, Lane]:
    both = await asyncio.gather(call(alice, "a"), answer(bob, "b"))
    return both[0], both[1]


def said(message: bytes) -> dict[str, Any]:
    frame = Frame.unpack(message)
    assert frame.kind is FrameKind.HELLO
    words: dict[str, Any] = json.loads(bytes(frame.payload))
    return words


def hello_of(**words: object) -> bytes:
    return Frame(FrameKind.HELLO, json.dumps(words).encode()).pack()


async def refused(end: End, heard: bytes | None, do: Callable[[End, str], Awaitable[Lane]]) -> BaseException:
    """What comes of a HELLO, or of the link's end in its place."""
    end.incoming.put_nowait(heard)
    try:
        await do(end, "me")
    except (Problem, TimeoutError) as error:
        return error
    raise AssertionError("a lane came of it")


def test_a_lane_begins_with_two_frames_and_then_all_is_sealed() -> None:
    async def run() -> None:
        alice, bob = ends()
        ours, theirs = await begun(alice, bob)
        assert (ours.peer, theirs.peer) == ("b", "a")
        await ours.send(FrameKind.OPENING, b"a share of something")
        assert bytes(await theirs.expect(FrameKind.OPENING)) == b"a share of something"
        await theirs.send_json(FrameKind.STOCK, {"made": 4711})
        assert await ours.expect_json(FrameKind.STOCK) == {"made": 4711}
        assert [len(end.sent) for end in (alice, bob)] == [2, 2]
        assert b"share" not in alice.sent[1] and b"4711" not in bob.sent[1]
        assert len(base64.urlsafe_b64decode(said(alice.sent[0])["key"])) == 1184 + 32

    asyncio.run(run())


def test_keys_are_fresh_for_each_lane() -> None:
    async def run() -> set[bytes]:
        lanes = [await begun(*ends()) for _ in range(3)]
        return {bytes(lane._channel._out._key) for both in lanes for lane in both}

    assert len(asyncio.run(run())) == 6


def test_keys_are_wiped_when_the_lane_ends() -> None:
    async def run() -> bytearray:
        alice, bob = ends()
        lane, _ = await begun(alice, bob)
        key = lane._channel._out._key
        await lane.close()
        assert alice.closed
        return key

    assert not any(asyncio.run(run()))


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_an_end_whose_randomness_came_twice_has_other_keys(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    if who == "alice":
        monkeypatch.setattr(PrivateKey, "generate", classmethod(lambda cls: cls(bytes(range(96)))))
    else:
        monkeypatch.setattr(hello.secrets, "token_bytes", bytes)
    test_keys_are_fresh_for_each_lane()


@pytest.mark.parametrize(("version", "told"), [(PEER - 1, PEER - 1), (PEER + 1, PEER + 1), ("x" * 99, "unknown")])
def test_both_are_told_both_versions(version: object, told: object) -> None:
    async def run() -> None:
        alice, _ = ends()
        problem = await refused(alice, hello_of(version=version, boot="b"), call)
        assert isinstance(problem, Problem) and problem.kind is ProblemType.PEER_VERSION and problem.retry_after
        assert problem.detail == f"alice speaks version {PEER} of the peer protocol, bob {told}"
        assert alice.closed
        _, bob = ends()
        problem = await refused(bob, hello_of(version=version, boot="a"), answer)
        assert isinstance(problem, Problem) and problem.kind is ProblemType.PEER_VERSION
        assert problem.detail == f"alice speaks version {told} of the peer protocol, bob {PEER}"
        assert said(bob.sent[0])["version"] == PEER, "alice learns it too, also one of release 0.1"

    asyncio.run(run())


def test_a_bob_who_ends_the_link_at_hello_may_be_of_another_version() -> None:
    """Release 0.1 says nothing."""

    async def run() -> None:
        alice, _ = ends()
        problem = await refused(alice, None, call)
        assert isinstance(problem, Problem) and problem.kind is ProblemType.PEER_UNAVAILABLE
        assert "release 0.1" in problem.detail and alice.closed

    asyncio.run(run())


@pytest.mark.parametrize(
    "heard",
    [
        b"",
        b"nonsense",
        Frame(FrameKind.PING, b"{}").pack(),
        Frame(FrameKind.HELLO, b"[]").pack(),
        hello_of(),
        hello_of(version=PEER, boot="x"),
        hello_of(version=PEER, boot="x", key="", sealed=""),
        hello_of(version=PEER, boot="x", key=7, sealed=7),
        hello_of(version=PEER, boot="x", key="A" * 1624, sealed="A" * 1624),
        hello_of(version=PEER, boot="x", key=base64.urlsafe_b64encode(bytes(1216)).decode(), sealed="\u2603"),
    ],
    ids=str,
)
def test_nonsense_begins_no_lane(heard: bytes) -> None:
    async def run() -> None:
        for end, do in ((ends()[0], call), (ends()[1], answer)):
            problem = await refused(end, heard, do)
            assert isinstance(problem, Problem) and problem.detail
            assert problem.kind in (ProblemType.PEER_UNAVAILABLE, ProblemType.PEER_VERSION)
            assert end.closed or do is answer, "bob's is closed by whoever serves it"

    asyncio.run(run())


@pytest.mark.parametrize("given_up", ["by itself", "by who asked"])
def test_a_link_that_never_says_hello_is_closed(monkeypatch: pytest.MonkeyPatch, given_up: str) -> None:
    if given_up == "by itself":
        monkeypatch.setattr(hello, "HELLO_SECONDS", 0.01)

    async def run() -> bool:
        alice, _ = ends()
        calling = asyncio.create_task(call(alice, "a"))
        if given_up == "by itself":
            with pytest.raises(Problem, match="did not say HELLO"):
                await calling
        else:
            await asyncio.sleep(0)
            assert alice.sent
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
            assert calling.cancelled()
        return alice.closed

    assert asyncio.run(run())


@pytest.mark.parametrize(
    "said", [[], 7, {"lease": "l"}, {"position": "7", "made": 8, "gaps": []}, {"position": 7, "made": 8, "gaps": ["x"]}]
)
def test_stock_that_makes_no_sense_is_no_stock(said: object) -> None:
    model = SimpleNamespace(upload_id="u")
    whole = {"lease": "l", "position": 7, "made": 8, "gaps": [1]}
    assert stock_at_bob({"u": whole}, model) == whole and stock_at_bob({}, model) == {}  # type: ignore[arg-type]
    with pytest.raises(Problem) as caught:
        stock_at_bob({"u": said}, model)  # type: ignore[arg-type]
    assert caught.value.kind is ProblemType.PEER_UNAVAILABLE
