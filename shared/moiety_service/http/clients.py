"""The one place that builds HTTP clients, and the one that reads their failures."""

import contextlib
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from moiety_shared.problems import PROBLEM_JSON, Problem

DEFAULT_TIMEOUT = 10.0
# Room for a whole batch: the sender hands it over at once instead of waking up for every part the peer has read.
SOCKET_BUFFER = (socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
_MOST_DIGITS = 18
_OPTIONS = [SOCKET_BUFFER, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]


def tls_context(ca: Path | str | None = None) -> ssl.SSLContext:
    """TLS 1.3 and nothing older; trusts this CA alone (a file, or its PEM), or the system's where there is none."""
    context = ssl.create_default_context(
        cafile=ca if isinstance(ca, Path) else None, cadata=ca if isinstance(ca, str) and ca else None
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def client(
    base_url: str, *, credential: str = "", timeout: float = DEFAULT_TIMEOUT, ca: Path | str | None = None
) -> httpx.Client:
    """`credential` goes to `base_url` as a bearer token; `ca` is whom to trust."""
    # trust_env off: a proxy variable must not reroute shares.
    transport = httpx.HTTPTransport(verify=tls_context(ca), socket_options=_OPTIONS, trust_env=False)
    return httpx.Client(
        base_url=base_url, headers=_headers(credential), timeout=timeout, transport=transport, trust_env=False
    )


def async_client(
    base_url: str, *, credential: str = "", timeout: float = DEFAULT_TIMEOUT, ca: Path | str | None = None
) -> httpx.AsyncClient:
    """An asynchronous client of one service, for whoever presents `credential` to it."""
    transport = httpx.AsyncHTTPTransport(verify=tls_context(ca), socket_options=_OPTIONS, trust_env=False)
    return httpx.AsyncClient(
        base_url=base_url, headers=_headers(credential), timeout=timeout, transport=transport, trust_env=False
    )


def _headers(credential: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {credential}"} if credential else {}


def whole_number(text: str) -> int | None:
    """A header's decimal digits, or None for anything else, and for what 63 bits do not hold.

    `int` reads more: signs, spaces, "1_000" and other scripts' digits; and it raises for more than 4,300 digits.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def count(response: httpx.Response, name: str) -> int:
    """What an answer tells of itself in a header; 0 where it says nothing that is a number."""
    return whole_number(response.headers.get(name, "")) or 0


def check(response: httpx.Response) -> httpx.Response:
    """The response if it succeeded; otherwise raises the Problem in it. The body must have been read."""
    if response.is_success:
        return response
    is_problem = response.headers.get("content-type", "").startswith(PROBLEM_JSON)
    raise Problem.from_document(document(response) if is_problem else None)


def document(response: httpx.Response) -> dict[str, Any]:
    """The JSON object that it holds; an empty one where it holds anything else: whoever answers may be a stranger."""
    with contextlib.suppress(ValueError, RecursionError):
        found = response.json()
        if isinstance(found, dict):
            return found
    return {}
