"""A WebSocket that carries whole messages: against the `websockets` library at the other end, and against frames that
come in pieces, are wrong or are too large."""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
import websockets
from fastapi import WebSocket
from websockets.asyncio.client import ClientConnection

from moiety_service.http.app import create_app
from moiety_service.http.websocket import WebSocketLink, link_of
from moiety_service.settings import ServiceSettings
from moiety_shared.problems import Problem, ProblemType
from tests.asgi import listening

MOST = 1 << 20  # the largest message; it is also what uvicorn takes unless it is told
SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, MOST]
BINARY, CLOSE, PING, PONG = 0x82, 0x88, 0x89, 0x8A


class Wire:
    """A transport that keeps what is written and what is asked of it."""

    def __init__(self) -> None:
        self.written = b""
        self.reading, self.closed, self.aborted = True, False, False

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


def link(wire: Wire, *, client: bool = True, ping_seconds: float = 60.0, silent_seconds: float = 60.0) -> WebSocketLink:
    """One end over this wire; as the client's, so that frames to it need no mask."""
    transport = cast(asyncio.Transport, wire)
    return WebSocketLink(transport, MOST, client=client, ping_seconds=ping_seconds, silent_seconds=silent_seconds)


def frame(first: int, content: bytes, mask: bytes = b"") -> bytes:
    size, masked = len(content), 0x80 if mask else 0
    if size < 126:
        head = bytes((first, masked | size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    return head + mask + (bytes(byte ^ mask[at % 4] for at, byte in enumerate(content)) if mask else content)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(timed())


async def gone(end: WebSocketLink) -> bool:
    """Whether nothing more comes."""
    with pytest.raises(Problem) as caught:
        await end.recv()
    return caught.value.kind is ProblemType.PEER_UNAVAILABLE


# Against the library


def echoing(test: Callable[[int], Awaitable[None]]) -> list[Problem]:
    """Run a test against our own server, which sends back each message of its links. Returns how those ended that the
    server did not close."""
    app, ends = create_app("test"), list[Problem]()

    @app.websocket("/link")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        end = link_of(socket.scope)
        assert end is not None
        try:
            while (message := await end.recv()) != b"close":
                await end.send(message)
            await end.close()
        except Problem as problem:
            ends.append(problem)

    with listening(app, ServiceSettings(), None) as at:
        run(lambda: test(at))
    return ends


def test_messages_of_all_sizes_pass_our_server_whole_and_in_pieces() -> None:
    async def test(at: int) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{at}/link", compression=None, max_size=None) as peer:
            for size in SIZES:
                await peer.send(bytes(size))
                assert await peer.recv() == bytes(size)
            await peer.send([b"in", b"", b" three", b" pieces"])
            await peer.send(b"and the next")
            assert [await peer.recv(), await peer.recv()] == [b"in three pieces", b"and the next"]
            await (await peer.ping(b"name"))
            await peer.send(b"close")
            with pytest.raises(websockets.ConnectionClosedOK):
                await peer.recv()

    echoing(test)


@pytest.mark.parametrize(
    ("bad", "code"), [(lambda peer: peer.send("text"), 1003), (lambda peer: peer.send(bytes(MOST + 1)), 1009)]
)
def test_our_server_ends_a_link_for_what_it_does_not_take(
    bad: Callable[[ClientConnection], Awaitable[None]], code: int
) -> None:
    async def test(at: int) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{at}/link", compression=None) as peer:
            await bad(peer)
            with pytest.raises(websockets.ConnectionClosed):
                await peer.recv()
            assert peer.close_code == code

    echoing(test)


def test_a_peer_that_is_gone_ends_its_link() -> None:
    async def test(at: int) -> None:
        async with websockets.connect(f"ws://127.0.0.1:{at}/link", compression=None) as peer:
            await peer.send(b"x")
            assert await peer.recv() == b"x"
            peer.transport.abort()

    assert [end.kind for end in echoing(test)] == [ProblemType.PEER_UNAVAILABLE]


def test_messages_of_all_sizes_pass_from_our_end_to_a_server_of_the_library() -> None:
    async def echo(peer: Any) -> None:
        async for message in peer:
            await peer.send(message if len(message) < 200 else [message[:100], message[100:]])

    async def test() -> None:
        async with websockets.serve(echo, "127.0.0.1", 0, max_size=None) as server:
            at = server.sockets[0].getsockname()[1]
            socket = await websockets.connect(f"ws://127.0.0.1:{at}", compression=None, ping_interval=None)
            end = WebSocketLink(socket.transport, MOST, client=True, ping_seconds=0.01, silent_seconds=10)
            socket.transport.set_protocol(end)
            for size in SIZES:
                await end.send(bytes(size))
                assert await end.recv() == bytes(size)
            await end.close()
            assert await gone(end)

    run(test)


# Frame by frame


def test_frames_come_in_any_pieces() -> None:
    mask = b"\x01\x80\x00\xff"
    messages = [b"", b"a", bytes(range(200)), bytes(70_000)]
    stream = b"".join(frame(BINARY, message, mask) for message in messages)

    async def test() -> None:
        for step in (1, 2, 3, 7, 1000, len(stream)):
            end = link(Wire(), client=False)
            for at in range(0, len(stream), step):
                end.data_received(stream[at : at + step])
            assert [await end.recv() for _ in messages] == messages, step

    run(test)


@pytest.mark.parametrize(
    "wrong",
    [
        frame(0x81, b"text"),
        frame(0x80, b"nothing to go on with"),
        frame(0x02, b"begun") + frame(BINARY, b"another"),
        frame(0xC2, b"a reserved bit"),
        frame(0x83, b"an unknown kind"),
        frame(0x09, b"a ping in pieces"),
        frame(PING, bytes(126)),
        frame(BINARY, b"masked", b"mask"),
        frame(BINARY, bytes(MOST + 1))[:10],
        frame(0x02, bytes(MOST)) + frame(0x80, b"x"),
    ],
    ids=range(10),
)
def test_what_is_no_message_ends_the_link_and_what_came_before_can_be_read(wrong: bytes) -> None:
    async def test() -> None:
        wire = Wire()
        end = link(wire)
        end.data_received(frame(BINARY, b"before") + wrong + frame(BINARY, b"after"))
        assert await end.recv() == b"before"
        assert await gone(end) and wire.closed and wire.written[0] == CLOSE
        with pytest.raises(Problem):
            await end.send(b"x")

    run(test)


def test_a_frame_without_a_mask_is_refused_by_a_server() -> None:
    async def test() -> None:
        end = link(Wire(), client=False)
        end.data_received(frame(BINARY, b"plain"))
        assert await gone(end)

    run(test)


def test_pings_are_answered_and_one_without_an_answer_ends_the_link() -> None:
    async def test() -> None:
        wire = Wire()
        end = link(wire, client=False, ping_seconds=0.01, silent_seconds=0.05)
        end.data_received(frame(PING, b"there?", b"mask"))
        assert wire.written == frame(PONG, b"there?")
        for _ in range(20):  # it is answered for four times as long as it may be silent
            await asyncio.sleep(0.01)
            end.data_received(frame(PONG, b"", b"mask"))
        assert not wire.aborted and frame(PING, b"") in wire.written
        assert await gone(end) and wire.aborted

    run(test)


def test_a_server_reads_no_further_while_nobody_takes_what_came() -> None:
    async def test() -> None:
        wire = Wire()
        end = link(wire, client=False)
        end.data_received(frame(BINARY, bytes(MOST), b"mask"))
        assert not wire.reading
        await end.recv()
        assert wire.reading

    run(test)


def test_who_sends_waits_while_the_transport_is_full_and_hears_of_its_end() -> None:
    async def test() -> None:
        end = link(Wire())
        end.pause_writing()
        sending = asyncio.create_task(end.send(b"x"))
        cancelled = asyncio.create_task(end.send(b"y"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        assert not sending.done()
        end.resume_writing()
        await sending
        end.pause_writing()
        sending = asyncio.create_task(end.send(b"z"))
        await asyncio.sleep(0)
        end.connection_lost(None)
        with pytest.raises(Problem):
            await sending

    run(test)


def test_another_server_gives_no_link() -> None:
    assert link_of({"type": "websocket", "extensions": {}}) is None
    assert link_of({"type": "websocket"}) is None
