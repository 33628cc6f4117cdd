"""Behind a proxy that somebody forgot to give a certificate, a replica serves nothing."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from moiety_service.http.encryption import EncryptedOnly


async def inner(scope: Scope, _: Receive, send: Send) -> None:
    kind = "websocket.accept" if scope["type"] == "websocket" else "http.response.start"
    await send({"type": kind, "status": 200, "headers": []})


def answer(scheme: str) -> Message:
    """The first message that comes back."""
    kind = "websocket" if scheme.startswith("ws") else "http"
    scope: dict[str, Any] = {"type": kind, "scheme": scheme, "path": "/", "method": "GET", "headers": []}
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    asyncio.run(EncryptedOnly(inner)(scope, receive, send))
    return sent[0]


@pytest.mark.parametrize(("scheme", "status"), [("http", 403), ("https", 200)])
def test_requests(scheme: str, status: int) -> None:
    assert answer(scheme)["status"] == status


@pytest.mark.parametrize(("scheme", "kind"), [("ws", "websocket.close"), ("wss", "websocket.accept")])
def test_websockets(scheme: str, kind: str) -> None:
    assert answer(scheme)["type"] == kind
