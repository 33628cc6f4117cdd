"""The one place that builds HTTP servers."""

import asyncio
import contextlib
import gc
import logging
import resource
import socket
import ssl
from functools import partial

import uvicorn
from fastapi import FastAPI

from moiety_shared.service.connection import Connection
from moiety_shared.service.http import SOCKET_BUFFER
from moiety_shared.service.settings import ServiceSettings

HANDSHAKE_SECONDS = 5.0
KEEP_ALIVE_SECONDS = 75
_OWN_FILES = 128  # descriptors that connections leave to everything else


class Server(uvicorn.Server):
    """uvicorn's server with connections that have deadlines, TLS handshakes among them."""

    def __init__(self, config: uvicorn.Config, settings: ServiceSettings, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._tls = tls
        self._connection = partial(
            Connection,
            config,
            self.server_state,
            max_connections=min(settings.max_connections, file_limit() - _OWN_FILES),
            header_seconds=settings.header_seconds,
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(uvicorn.config.STARTUP_FAILURE)
        loop = asyncio.get_running_loop()
        seconds = HANDSHAKE_SECONDS if self._tls else None
        self.servers = [
            await loop.create_server(
                lambda: self._connection(self.lifespan.state),
                sock=listener,
                backlog=self.config.backlog,
                ssl=self._tls,
                ssl_handshake_timeout=seconds,
                ssl_shutdown_timeout=seconds,
            )
            for listener in sockets or []
        ]
        self.started = True


def make(app: FastAPI, settings: ServiceSettings, max_message: int, tls: ssl.SSLContext | None) -> Server:
    """The server, not bound to its address yet."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        ws_max_size=max_message,
        ws="websockets-sansio",  # half the round trip of the default here
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    config.load()
    return Server(config, settings, tls)


def serve(
    app: FastAPI, settings: ServiceSettings, *, max_message: int = 1 << 20, tls: ssl.SSLContext | None = None
) -> None:
    """Run until SIGINT or SIGTERM; requests under way get ten seconds to finish.

    `max_message` is the largest WebSocket message in bytes; `tls` the context to serve HTTPS with.
    """
    gc.collect()
    gc.freeze()  # what is imported stays: no collection walks half a million objects during a request
    server = make(app, settings, max_message, tls)
    listener = server.config.bind_socket()
    listener.setsockopt(*SOCKET_BUFFER)  # accepted connections inherit it
    logging.getLogger(Connection.__module__).disabled = True  # what uvicorn would say of a connection: see `refused`
    server.run(sockets=[listener])


def file_limit() -> int:
    """Descriptors this process may have, raised to what the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
