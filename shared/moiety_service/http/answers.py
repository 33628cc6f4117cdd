"""What our own server can do besides ASGI. It sends an answer's head together with the first piece of its body: in one
record of TLS, one system call and one packet. uvicorn sends them apart. And it can tell whether a body is here."""

from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class _Head:
    """Stands in for the transport while uvicorn writes a head."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


async def send_together(send: Send, start: Message, body: Message) -> None:
    """Send an answer's start and the first message of its body. Under another server than our own they go as ever."""
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        await send(start)
        await send(body)
        return
    transport, head = cycle.transport, _Head()
    cycle.transport = head  # type: ignore[assignment]
    try:
        await send(start)
    finally:
        cycle.transport = transport
    if cycle.chunked_encoding is False and cycle.scope["method"] != "HEAD":  # the body goes out as it is
        cycle.expected_content_length += len(head.written)
        body = {**body, "body": head.written + body.get("body", b"")}
    elif head.written:
        transport.write(head.written)
    await send(body)


def has_arrived(receive: Receive) -> bool:
    """Whether the next message is here already, with all that is left of a request's body. Under another server than
    our own nobody knows."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, RequestResponseCycle) and not cycle.more_body
