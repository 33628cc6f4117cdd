"""One HTTP connection: uvicorn's, with deadlines for a peer that holds it open without using it.

uvicorn itself waits without end for the rest of a header and for its peer to read an answer. It takes headers of any
length.
"""

import asyncio
import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from moiety_service.http.gate import problem_response
from moiety_service.observability.logs import log
from moiety_service.observability.metrics import Metrics
from moiety_shared.problems import Problem, ProblemType

MAX_HEADER_BYTES = 1 << 15
MAX_HEADER_FIELDS = 100
MAX_AHEAD = 8
"""How many requests may wait on a connection for the answer to an earlier one."""
UNREAD_SECONDS = 60.0
"""How long a peer may leave an answer unread."""


class Connection(HttpToolsProtocol):
    """A connection with deadlines. It waits for at most one header and one unread answer at a time."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        max_connections: int,
        header_seconds: float,
        metrics: Metrics,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = logging.getLogger(__name__)  # serving.py disables it: this class logs what happened
        self._max_connections = max_connections
        self._header_seconds = header_seconds
        self._metrics = metrics
        self._header_deadline: asyncio.TimerHandle | None = None
        self._unread_deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0  # bytes that arrived of the header that is not complete yet
        self._field_bytes = 0  # bytes of the fields that the parser has seen
        self._in_header = True
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._refuse(ProblemType.OVERLOADED)
        else:
            self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_arrived()
        self.resume_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.transport.is_closing() or self not in self.connections:  # it became a WebSocket
            return
        self._header_bytes += len(data) if self._in_header else 0
        if self._header_deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._await_header()  # be it an empty line or the rest of an old body, a header must follow
        if self._header_bytes > MAX_HEADER_BYTES:
            self._refuse(ProblemType.HEADERS_TOO_LARGE)

    # The parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_header, self._header_bytes, self._field_bytes = True, 0, 0
        if len(self.pipeline) >= MAX_AHEAD:
            raise ValueError("too many requests ahead")  # the parser stops, and the connection is refused

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def _count(self, size: int) -> None:
        """Count a header's bytes and fields, also of a header that arrives in one piece."""
        self._field_bytes += size
        if self._field_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADER_FIELDS:
            self._too_large = True
            raise ValueError("too much of a header")

    def on_headers_complete(self) -> None:
        self._header_arrived()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        self._header_arrived()
        self.resume_writing()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """Refuse the connection: uvicorn calls this when its parser gives up."""
        self._refuse(ProblemType.HEADERS_TOO_LARGE if self._too_large else ProblemType.MALFORMED)

    # Deadlines

    def _await_header(self) -> None:
        self._header_deadline = self.loop.call_later(self._header_seconds, self._header_late)

    def _header_arrived(self) -> None:
        self._in_header = False
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None

    def _header_late(self) -> None:
        self._header_deadline = None
        if not self.transport.is_closing():
            self._refuse(ProblemType.REQUEST_TIMEOUT)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread_deadline is None:
            self._unread_deadline = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_deadline is not None:
            self._unread_deadline.cancel()
            self._unread_deadline = None

    def on_response_complete(self) -> None:
        if not self.pipeline:  # otherwise `cycle` is a request that waits: its body is still to be read
            self.cycle.body = bytearray()  # frees what the app has not read of it
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif self._in_header and self._header_deadline is None:
            self._await_header()  # the next header began before the last answer was out

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _close(self) -> None:
        """Close once everything written is sent, or after `UNREAD_SECONDS` if the peer does not read it."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def _refuse(self, kind: ProblemType) -> None:
        """Send a problem document outside of any request, and close."""
        self._header_arrived()
        log().info("refused", problem=kind.name)
        self._metrics.refused(kind.name)
        answer = problem_response(Problem(kind), "")
        fields = [*answer.raw_headers, *([] if "connection" in answer.headers else [(b"connection", b"close")])]
        lines = b"".join(b"%s: %s\r\n" % field for field in fields)
        self.transport.write(b"".join((STATUS_LINE[kind.status], lines, b"\r\n", bytes(answer.body))))
        self._close()
