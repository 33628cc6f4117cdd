"""The one place that builds HTTP servers."""

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import ssl

import uvicorn
from fastapi import FastAPI
from prometheus_client import disable_created_metrics
from uvicorn.server import ServerState

from moiety_service.http import operations, ports
from moiety_service.http.clients import SOCKET_BUFFER
from moiety_service.http.connection import Connection
from moiety_service.http.websocket import Upgraded
from moiety_service.memory import release_code
from moiety_service.observability.logs import log, where
from moiety_service.observability.metrics import Metrics
from moiety_service.settings import ServiceSettings
from moiety_service.startup import StartRefused

HANDSHAKE_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 75
SPARE_CONNECTIONS = 32
"""So many connections above the maximum are refused with an answer. Further ones are closed without one, before TLS."""

_OPERATORS = 16  # the most connections to the operator's address
CLOSING_SECONDS = 1.0  # the time to close connections after everything is answered
_OWN_FILES = 128  # descriptors reserved for everything but connections
_ACCEPT_PAUSE = 0.1
_GARBAGE = 5000
"""Objects that a collection of garbage waits for. A request leaves about 70: with Python's 700, collections took 6 % of
alice's processor time."""


class Server(uvicorn.Server):
    """uvicorn's server, with deadlines for connections and a maximum number of them.

    Connections in their TLS handshake count too: they cost as much. The operator's address has a maximum of its own.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        settings: ServiceSettings,
        tls: ssl.SSLContext | None,
        metrics: Metrics,
        operators: uvicorn.Config | None,
    ) -> None:
        super().__init__(config)
        self._settings = settings
        self._tls = tls
        self._metrics = metrics
        self._operators = operators
        self._max_connections = min(settings.max_connections, file_limit() - _OWN_FILES)
        self._header_seconds = settings.header_seconds
        self._arriving: set[asyncio.Task[None]] = set()
        metrics.max_connections.set(self._max_connections)
        metrics.connections.set_function(lambda: len(self.server_state.connections))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving. Raises StartRefused when the app cannot begin its work, or an address is unavailable."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise StartRefused("the service could not begin its work: `where` in its log says what failed")
        self.servers = []
        try:
            if self._operators is not None:  # first: once the public address answers, the start has succeeded
                self.servers.append(await self._operate(self._operators))  # type: ignore[arg-type]
            for listener in sockets or []:
                self._listen(listener)
        except StartRefused:
            await self.lifespan.shutdown()
            raise
        self.started = True

    def _listen(self, listener: socket.socket) -> None:
        """Listen. Raises StartRefused when another process has begun to listen since the address was bound."""
        try:
            listener.listen(self.config.backlog)
        except OSError as error:
            host, port = listener.getsockname()[:2]
            raise ports.refused(host, port, _fix(self._settings), error) from None
        listener.setblocking(False)
        self.servers.append(_Listening(asyncio.create_task(self._accept(listener))))  # type: ignore[arg-type]

    async def _operate(self, config: uvicorn.Config) -> "_Operating":
        state, loop = ServerState(), asyncio.get_running_loop()
        listener = ports.bind(config.host, config.port, _fix(self._settings, "METRICS_"))

        def connection() -> Connection:
            return Connection(
                config,
                state,
                {},
                max_connections=_OPERATORS,
                header_seconds=self._header_seconds,
                metrics=self._metrics,
            )

        return _Operating(await loop.create_server(connection, sock=listener, backlog=_OPERATORS), state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop. Until the work under way has finished, new connections are taken and told to come again."""
        assert isinstance(self.config.app, FastAPI)  # noqa: S101  see `make`
        await self.config.app.state.drain.finish()
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptors are left, or the peer has gone already
                log().warning("refused", where=where(error))
                await asyncio.sleep(_ACCEPT_PAUSE)
                continue
            if len(self._arriving) + len(self.server_state.connections) >= self._max_connections + SPARE_CONNECTIONS:
                peer.close()
                self._metrics.dropped_connections.inc()
                continue
            task = asyncio.create_task(self._connect(peer))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _connect(self, peer: socket.socket) -> None:
        seconds = HANDSHAKE_SECONDS if self._tls else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._connection,
                peer,
                ssl=self._tls,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
        except OSError:  # no TLS handshake, or none in time: no answer is possible
            peer.close()

    def _connection(self) -> Connection:
        return Connection(
            self.config,
            self.server_state,
            self.lifespan.state,
            max_connections=self._max_connections,
            header_seconds=self._header_seconds,
            metrics=self._metrics,
        )


class _Listening:
    """A listener in the form that uvicorn closes when it shuts down."""

    def __init__(self, accepting: asyncio.Task[None]) -> None:
        self._accepting = accepting

    def close(self) -> None:
        self._accepting.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(self._accepting, return_exceptions=True)


class _Operating:
    """The operator's address in that form. Shutdown does not wait for Prometheus, which keeps its connection open."""

    def __init__(self, server: asyncio.Server, state: ServerState) -> None:
        self._server, self._state = server, state

    def close(self) -> None:
        self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()

    async def wait_closed(self) -> None: ...


def make(app: FastAPI, settings: ServiceSettings, max_message: int, tls: ssl.SSLContext | None) -> Server:
    """Make the server, which is not bound to its address yet."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks who the caller is by its address
        date_header=True,  # `moiety doctor` compares clocks by it
        ws_max_size=max_message,
        ws=Upgraded,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,  # type: ignore[arg-type]  # uvicorn takes a float as well
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    config.load()
    return Server(config, settings, tls, app.state.metrics, _operators(app, settings))


def _operators(app: FastAPI, settings: ServiceSettings) -> uvicorn.Config | None:
    if not settings.metrics_port:
        return None
    config = uvicorn.Config(
        operations.build(app, settings),
        host=settings.metrics_host,
        port=settings.metrics_port,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="off",
    )
    config.load()
    return config


def serve(
    app: FastAPI, settings: ServiceSettings, *, max_message: int = 1 << 20, tls: ssl.SSLContext | None = None
) -> None:
    """Serve until SIGINT or SIGTERM. Then the requests under way get some seconds to finish, see draining.py.

    `max_message` is the largest WebSocket message in bytes. `tls` is the context to serve HTTPS with. Raises
    StartRefused when the server cannot start, and logs the reason.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # one more series for each counter: when it began
    gc.enable()
    gc.collect()
    gc.freeze()  # imports stay: no collection walks their half a million objects during a request
    gc.set_threshold(_GARBAGE)
    release_code()
    server = make(app, settings, max_message, tls)
    logging.getLogger(Connection.__module__).disabled = True  # drops uvicorn's messages; Connection logs its own
    try:
        listener = ports.bind(settings.host, settings.port, _fix(settings))
        listener.setsockopt(*SOCKET_BUFFER)  # accepted connections inherit it
        server.run(sockets=[listener])
    except StartRefused as refused:
        log().error("start refused", reason=str(refused))
        raise


def _fix(settings: ServiceSettings, whose: str = "") -> str:
    """What to do about an unavailable address: the text names the settings that choose another."""
    name = f"{settings.model_config.get('env_prefix', '')}{whose}"
    return f"choose another with {name}HOST and {name}PORT"


def file_limit() -> int:
    """Raise the number of descriptors that this process may have to what the system allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
