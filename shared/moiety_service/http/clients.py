"""The one place that builds HTTP clients, and the one that reads the failures they get."""

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpcore
import httpx

from moiety_service.http.network import LoopNetwork
from moiety_shared.problems import PROBLEM_JSON, Problem

DEFAULT_TIMEOUT = 10.0
# Room for a whole batch: the sender hands it over at once, and need not wake up for every part that the peer reads.
SOCKET_BUFFER = (socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
_MOST_DIGITS = 18
_CONNECTIONS, _IDLE_CONNECTIONS, _IDLE_SECONDS = 100, 20, 5.0  # httpx's own; httpcore would open 10 at once
_MOST = "most"  # the extension of a request that says how many bytes of its answer are read
_MOST_PROBLEM = 1 << 16
"""A problem document is shorter, and may come in place of any answer."""
_OPTIONS = [SOCKET_BUFFER, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


def tls_context(ca: Path | str | None = None) -> ssl.SSLContext:
    """A context for TLS 1.3 and nothing older. It trusts `ca` alone (a file, or PEM text), or else the system's CAs."""
    context = ssl.create_default_context(
        cafile=ca if isinstance(ca, Path) else None, cadata=ca if isinstance(ca, str) and ca else None
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def client(
    base_url: str, *, credential: str = "", timeout: float = DEFAULT_TIMEOUT, ca: Path | str | None = None
) -> httpx.Client:
    """A client of one service. It sends `credential` to `base_url` as a bearer token, and trusts `ca`."""
    transport = httpx.HTTPTransport(verify=tls_context(ca), socket_options=_OPTIONS, trust_env=False)
    return httpx.Client(
        transport=transport, event_hooks={"response": [_limit]}, **_options(base_url, credential, timeout)
    )


def async_client(
    base_url: str, *, credential: str = "", timeout: float = DEFAULT_TIMEOUT, ca: Path | str | None = None
) -> httpx.AsyncClient:
    """An asynchronous client of one service. It sends `credential` to `base_url` as a bearer token, and trusts `ca`."""
    transport = httpx.AsyncHTTPTransport(verify=tls_context(ca), socket_options=_OPTIONS, trust_env=False)
    return _asynchronous(transport, base_url, credential, timeout)


def asyncio_client(
    base_url: str, *, credential: str = "", timeout: float = DEFAULT_TIMEOUT, ca: Path | str | None = None
) -> httpx.AsyncClient:
    """What `async_client` makes, for asyncio's event loops only: a long answer takes it half of the time."""
    return _asynchronous(_Transport(ca), base_url, credential, timeout)


def _asynchronous(
    transport: httpx.AsyncHTTPTransport, base_url: str, credential: str, timeout: float
) -> httpx.AsyncClient:
    async def limit(response: httpx.Response) -> None:
        _limit(response)

    options = _options(base_url, credential, timeout)
    return httpx.AsyncClient(transport=transport, event_hooks={"response": [limit]}, **options)


class _Transport(httpx.AsyncHTTPTransport):
    """httpx's own has no parameter for the network."""

    def __init__(self, ca: Path | str | None) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls_context(ca),
            max_connections=_CONNECTIONS,
            max_keepalive_connections=_IDLE_CONNECTIONS,
            keepalive_expiry=_IDLE_SECONDS,
            network_backend=LoopNetwork(),
            socket_options=_OPTIONS,
        )


def _options(base_url: str, credential: str, timeout: float) -> dict[str, Any]:
    # What is sealed does not compress, and a few packed bytes may unpack to any number.
    headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {credential}"} if credential else {})
    # trust_env off: a proxy variable must not reroute shares.
    return {"base_url": base_url, "headers": headers, "timeout": timeout, "trust_env": False}


def at_most(count: int) -> dict[str, int]:
    """The extensions of a request of whose answer so many bytes are read, or those of a problem: that many are read of
    every other answer. Reading more raises AnswerTooLong."""
    return {_MOST: max(count, _MOST_PROBLEM)}


class AnswerTooLong(httpx.ReadError):
    """An answer has more bytes than it may have, or is packed. No more of it was read."""


def _limit(response: httpx.Response) -> None:
    most = response.request.extensions.get(_MOST, _MOST_PROBLEM)
    is_packed = response.headers.get("content-encoding", "identity") != "identity"
    response.stream = _AtMost(response.stream, 0 if is_packed else most)


class _AtMost(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body of at most so many bytes."""

    def __init__(self, body: Any, most: int) -> None:
        self._body, self._left = body, most

    def _counted(self, part: bytes) -> bytes:
        self._left -= len(part)
        if self._left < 0:
            raise AnswerTooLong("the answer is longer than it may be, or packed")
        return part

    def __iter__(self) -> Iterator[bytes]:
        return map(self._counted, self._body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            yield self._counted(part)

    def close(self) -> None:
        self._body.close()

    async def aclose(self) -> None:
        await self._body.aclose()


def whole_number(text: str) -> int | None:
    """The number that a header's decimal digits state. None for any other text, or if 63 bits do not hold it.

    `int` accepts more: signs, spaces, "1_000" and other scripts' digits. It also raises for more than 4,300 digits.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def count(response: httpx.Response, name: str) -> int:
    """The number in that header of a response; 0 where the header is missing or is no number."""
    return whole_number(response.headers.get(name, "")) or 0


def check(response: httpx.Response) -> httpx.Response:
    """The response if it succeeded; otherwise raises the Problem in it. The body must have been read."""
    if response.is_success:
        return response
    is_problem = response.headers.get("content-type", "").startswith(PROBLEM_JSON)
    raise Problem.from_document(document(response) if is_problem else None)


def document(response: httpx.Response) -> dict[str, Any]:
    """The JSON object in a response. It is empty for any other content, since a stranger may have answered."""
    with contextlib.suppress(ValueError, RecursionError):
        found = response.json()
        if isinstance(found, dict):
            return found
    return {}
