"""The one place that builds HTTP clients, and the one that reads their failures."""

import contextlib
import socket
from collections.abc import Mapping
from typing import Any

import httpx

from moiety_shared.problems import PROBLEM_JSON, Problem

DEFAULT_TIMEOUT = 10.0


def _headers(credential: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {credential}"} if credential else {}


# Room for a whole batch: the sender hands it over at once instead of waking up for every part the peer has read.
SOCKET_BUFFER = (socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
_OPTIONS = [SOCKET_BUFFER, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


def client(base_url: str, *, credential: str = "", timeout: float = DEFAULT_TIMEOUT) -> httpx.Client:
    # trust_env off: a proxy variable must not reroute shares.
    transport = httpx.HTTPTransport(socket_options=_OPTIONS, trust_env=False)
    return httpx.Client(
        base_url=base_url, headers=_headers(credential), timeout=timeout, transport=transport, trust_env=False
    )


def async_client(base_url: str, *, credential: str = "", timeout: float = DEFAULT_TIMEOUT) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(socket_options=_OPTIONS, trust_env=False)
    return httpx.AsyncClient(
        base_url=base_url, headers=_headers(credential), timeout=timeout, transport=transport, trust_env=False
    )


def check(response: httpx.Response) -> httpx.Response:
    """The response if it succeeded; otherwise raises the Problem in it. The body must have been read."""
    if response.is_success:
        return response
    document: Any = None
    if response.headers.get("content-type", "").startswith(PROBLEM_JSON):
        with contextlib.suppress(ValueError, RecursionError):
            document = response.json()
    raise Problem.from_document(document)
