"""A WebSocket that carries whole binary messages, at either end, once its handshake is over (RFC 6455).

`frames` packs messages that are one frame each; `websockets` takes all other frames. Bytes go straight to the transport
and from it: the layers between, of `websockets` at one end and of ASGI at the other, take several times as long for a
message as a small round of a run.
"""

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import CLIENT, OPEN, SERVER, Protocol

from moiety_service.http import frames
from moiety_shared.problems import Problem, ProblemType

EXTENSION = "moiety.link"
"""Where an ASGI scope has what makes a `WebSocketLink` of an accepted WebSocket, under our own server."""

_HELD_BYTES = 1 << 20  # of messages that nobody has read yet: with more, an end that may pause reads no further
_CLOSING_SECONDS = 2.0


class WebSocketLink(asyncio.Protocol):
    """One end. Messages are bytes of at most `max_message`; what is larger, or no frame, ends the link unread.

    What arrived before the link ended can still be read. Raises Problem PEER_UNAVAILABLE after that.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        max_message: int,
        *,
        client: bool,
        ping_seconds: float,
        silent_seconds: float,
    ) -> None:
        """`client` says that this end opened the connection: its frames are masked, and it reads on even if nobody
        takes the messages. The link ends when a ping, one in `ping_seconds`, has no answer for `silent_seconds`."""
        self._transport = transport
        self._most = max_message
        self._arrived = bytearray()  # of frames that are not whole yet
        self._frames = Protocol(CLIENT if client else SERVER, state=OPEN, max_size=max_message)
        self._client = client
        self._pings = ping_seconds, silent_seconds
        self._loop = asyncio.get_running_loop()
        self._begun: list[bytes] = []  # of a message in several frames
        self._messages: deque[bytes] = deque()
        self._held = 0  # bytes of these messages
        self._reader: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._ended = False
        self._pinged: float | None = None  # when the ping left that has no answer yet
        self._timer = self._loop.call_later(ping_seconds, self._ping)

    # What the party calls

    async def send(self, message: bytes) -> None:
        if self._ended:
            raise Problem(ProblemType.PEER_UNAVAILABLE)
        self._transport.write(frames.packed(message, masked=self._client))
        if self._writable is not None:
            await asyncio.shield(self._writable)  # whoever sends may be cancelled, and others send after it
            if self._ended:
                raise Problem(ProblemType.PEER_UNAVAILABLE)

    async def recv(self) -> bytes:
        while not self._messages:
            if self._ended:
                raise Problem(ProblemType.PEER_UNAVAILABLE)
            self._reader = self._loop.create_future()
            await self._reader
        message = self._messages.popleft()
        self._held -= len(message)
        if self._paused and self._held < _HELD_BYTES:
            self._paused = False
            self._transport.resume_reading()
        return message

    async def close(self) -> None:
        if not self._ended:
            self._frames.send_close(CloseCode.NORMAL_CLOSURE)
            self._close()

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._arrived += data
        while not self._ended and (extent := frames.extent(self._arrived)) is not None:
            at, end = extent
            if end - at <= self._most and end > len(self._arrived):
                return
            frame = self._arrived[:end]
            del self._arrived[:end]
            message = frames.message(frame, at, masked=not self._client) if end - at <= self._most else None
            if message is None or self._begun:
                self._other(frame)
            else:
                self._keep(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def eof_received(self) -> None:
        self._end()

    def pause_writing(self) -> None:
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # Frames

    def _other(self, raw: bytearray) -> None:
        """Take a frame that is no whole message, or as much of one as there is that is too large."""
        self._frames.receive_data(raw)
        for frame in self._frames.events_received():
            assert isinstance(frame, Frame)  # noqa: S101  the handshake is over
            if frame.opcode is Opcode.TEXT:
                self._frames.fail(CloseCode.UNSUPPORTED_DATA)
                break
            self._take(frame)
        self._write()  # the answer to a ping, or why the link ends
        if self._frames.state is not OPEN:
            self._close()

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG:
            self._pinged = None
        elif frame.opcode in (Opcode.BINARY, Opcode.CONT):
            if self._begun or not frame.fin:
                self._begun.append(bytes(frame.data))
            if frame.fin:
                self._keep(b"".join(self._begun) if self._begun else bytes(frame.data))
                self._begun.clear()

    def _keep(self, message: bytes) -> None:
        self._messages.append(message)
        self._held += len(message)
        if self._held >= _HELD_BYTES and not self._client and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _write(self) -> None:
        for data in self._frames.data_to_send():
            if data:  # an empty one says that no more follows
                self._transport.write(data)

    # Its end

    def _ping(self) -> None:
        every, silent = self._pings
        now = self._loop.time()
        if self._pinged is not None and now - self._pinged > silent:
            self._end()
            self._transport.abort()
            return
        if self._pinged is None:
            self._pinged = now
            self._frames.send_ping(b"")
            self._write()
        self._timer = self._loop.call_later(every, self._ping)

    def _close(self) -> None:
        """Close the link once all is sent: soon, whether or not the peer reads it."""
        self._write()
        self._end()
        self._transport.close()
        self._loop.call_later(_CLOSING_SECONDS, self._transport.abort)

    def _end(self) -> None:
        self._ended = True
        self._timer.cancel()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        self.resume_writing()


class Upgraded(WebSocketsSansIOProtocol):
    """A WebSocket of uvicorn's. Once the app has accepted it, the app may have it as a `WebSocketLink`."""

    _link: WebSocketLink | None = None

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and not self.close_sent:
            self.scope["extensions"][EXTENSION] = self._become_link  # type: ignore[assignment]

    def _become_link(self) -> WebSocketLink:
        """The link to a peer that has said nothing yet: it waits for the answer to its handshake."""
        self.stop_keepalive()
        every, silent = self.ping_interval, self.ping_timeout
        assert every is not None and silent is not None  # noqa: S101  serving.py leaves uvicorn's defaults
        self._link = WebSocketLink(
            self.transport, self.config.ws_max_size, client=False, ping_seconds=every, silent_seconds=silent
        )
        return self._link

    def data_received(self, data: bytes) -> None:
        if self._link is None:
            super().data_received(data)
        else:
            self._link.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._link is not None:
            self._link.connection_lost(exc)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._link is not None:
            self._link.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._link is not None:
            self._link.resume_writing()


def link_of(scope: Any) -> WebSocketLink | None:
    """The link that an accepted WebSocket becomes; None under another server than our own."""
    make = scope.get("extensions", {}).get(EXTENSION)
    return make() if make is not None else None
