"""An answer's head leaves with the first piece of its body, and every byte is the one that uvicorn sends."""

import asyncio
import logging
from typing import Any, cast

import pytest
from starlette.types import Message
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from moiety_service.http.answers import send_together

LENGTH, TYPE = (b"content-length", b"6"), (b"content-type", b"text/plain")


class Wire:
    """A transport that keeps each piece that is written."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def close(self) -> None:
        self.pieces.append(b"closed")


def cycle(wire: Wire, method: str) -> RequestResponseCycle:
    transport, logger = cast(asyncio.Transport, wire), logging.getLogger("test")
    return RequestResponseCycle(
        scope=cast(Any, {"type": "http", "method": method}),
        transport=transport,
        flow=FlowControl(transport),
        logger=logger,
        access_logger=logger,
        access_log=False,
        default_headers=[(b"date", b"now")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )


def sent(method: str, start: Message, pieces: list[Message], together: bool) -> list[bytes]:
    async def send() -> list[bytes]:
        wire = Wire()
        to = cycle(wire, method)
        if together:
            await send_together(to.send, start, pieces[0])
        else:
            await to.send(start)  # type: ignore[arg-type]
            await to.send(pieces[0])  # type: ignore[arg-type]
        for piece in pieces[1:]:
            await to.send(piece)  # type: ignore[arg-type]
        assert to.response_complete
        return [piece for piece in wire.pieces if piece]

    return asyncio.run(send())


def body(content: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


@pytest.mark.parametrize(
    ("method", "status", "headers", "pieces", "writes"),
    [
        ("POST", 200, [TYPE, LENGTH], [body(b"answer")], 1),
        ("POST", 400, [LENGTH, (b"connection", b"close")], [body(b"answer")], 2),  # the second is the end
        ("GET", 200, [LENGTH], [body(b"ans", more=True), body(b"wer")], 2),
        ("GET", 200, [LENGTH], [body(b"", more=True), body(b"answer")], 2),
        ("GET", 200, [TYPE], [body(b"ans", more=True), body(b"wer")], 3),  # in chunks
        ("HEAD", 200, [LENGTH], [body(b"answer")], 1),
        ("DELETE", 204, [], [body(b"")], 1),
    ],
)
def test_every_byte_is_uvicorns_and_the_head_waits_for_the_body(
    method: str, status: int, headers: list[tuple[bytes, bytes]], pieces: list[Message], writes: int
) -> None:
    start: Message = {"type": "http.response.start", "status": status, "headers": headers}
    apart, together = (sent(method, start, pieces, way) for way in (False, True))
    assert b"".join(together) == b"".join(apart)
    assert len(together) == writes


def test_a_body_that_is_longer_than_announced_is_refused_as_ever() -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": [LENGTH]}
    with pytest.raises(RuntimeError, match="longer"):
        sent("GET", start, [body(b"answers")], together=True)


def test_another_servers_answers_go_as_they_are() -> None:
    seen: list[Message] = []

    async def send(message: Message) -> None:
        seen.append(message)

    start: Message = {"type": "http.response.start", "status": 200, "headers": [LENGTH]}
    asyncio.run(send_together(send, start, body(b"answer")))
    assert seen == [start, body(b"answer")]
