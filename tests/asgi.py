"""An app without a socket, asked synchronously; and one behind a real socket, in a thread."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import httpx
from fastapi import FastAPI

from moiety_service.http import serving
from moiety_service.settings import ServiceSettings


class InProcess:
    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """What the app does at its end."""

        async def end() -> None:
            async with self._app.router.lifespan_context(self._app):
                pass

        asyncio.run(end())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.request("POST", path, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


@contextmanager
def listening(app: FastAPI, settings: ServiceSettings, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """The port at which the app answers, lifespan and all."""
    made = serving.make(app, settings, 1 << 20, tls)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        made.should_exit = True
        thread.join()
