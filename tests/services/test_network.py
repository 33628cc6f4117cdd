"""The network under a service's HTTP client, against a server of few lines: TLS, long answers, closed connections."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.x509 import IPAddress, SubjectAlternativeName

from moiety_service.http import clients
from tests.services.test_serving import certificate

BODY = bytes(range(251)) * 20_000  # more than the buffer holds, and no power of two
WHOLE = clients.at_most(len(BODY))
RECORD = 1 << 14  # the most bytes in a record of TLS
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BODY)

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def whole(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + BODY)
    await writer.drain()


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + BODY[: len(BODY) // 2])
    await writer.drain()
    writer.close()


async def silent(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + BODY[:10])
    await asyncio.sleep(10)


async def once(writer: asyncio.StreamWriter) -> None:
    await whole(writer)
    writer.close()


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[int]]]:
    """The URL of a server that answers each request so, and the numbers of its connections' requests."""
    served: list[int] = []
    connections: list[asyncio.Task[None] | None] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(0)
        mine = len(served) - 1
        connections.append(asyncio.current_task())
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                served[mine] += 1
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        scheme = "https" if tls else "http"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", served
    finally:
        server.close()
        for task in filter(None, connections):
            task.cancel()
        await asyncio.gather(*filter(None, connections), return_exceptions=True)
        await asyncio.sleep(0.01)  # what was aborted is closed in the loop's next turn


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_long_answer_arrives_whole_and_in_large_pieces(tmp_path: Path, encrypted: bool) -> None:
    tls = certificate(tmp_path, SubjectAlternativeName([IPAddress(ipaddress.ip_address("127.0.0.1"))]))

    async def run() -> None:
        async with serving(whole, tls if encrypted else None) as (url, served):
            ca = tmp_path / "server.pem"
            async with clients.asyncio_client(url, ca=ca) as client:
                for _ in range(3):
                    async with client.stream("GET", "/", extensions=WHOLE) as response:
                        pieces = [piece async for piece in response.aiter_raw()]
                    assert b"".join(pieces) == BODY
                    assert max(map(len, pieces)) > 4 * RECORD
            assert served == [3]  # one connection for all

    asyncio.run(run())


def test_a_slow_reader_holds_up_the_sender() -> None:
    """The connection keeps no more than its buffer, and what the peer cannot send it does not lose."""

    async def run() -> None:
        async with (
            serving(whole) as (url, _),
            clients.asyncio_client(url) as client,
            client.stream("GET", "/", extensions=WHOLE) as response,
        ):
            got = b""
            async for piece in response.aiter_raw():
                assert len(piece) <= 1 << 18
                got += piece
                await asyncio.sleep(0.01)
            assert got == BODY

    asyncio.run(run())


def test_a_server_that_is_not_the_one_that_was_asked_for_is_refused(tmp_path: Path) -> None:
    other = certificate(tmp_path, SubjectAlternativeName([IPAddress(ipaddress.ip_address("127.0.0.2"))]))

    async def run() -> None:
        async with serving(whole, other) as (url, served):
            for ca in (tmp_path / "server.pem", None):  # another name, and nobody's certificate
                async with clients.asyncio_client(url, ca=ca) as client:
                    with pytest.raises(httpx.ConnectError, match="certificate"):
                        await client.get("/", extensions=WHOLE)
            assert served == []

    asyncio.run(run())


def test_failures_are_those_of_httpx() -> None:
    async def run() -> None:
        async with serving(half) as (url, _), clients.asyncio_client(url) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/", extensions=WHOLE)
        async with serving(silent) as (url, _), clients.asyncio_client(url, timeout=0.2) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/", extensions=WHOLE)
        async with clients.asyncio_client(url) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/", extensions=WHOLE)

    asyncio.run(run())


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    async def run() -> None:
        async with serving(once) as (url, served), clients.asyncio_client(url) as client:
            for _ in range(3):
                assert (await client.get("/", extensions=WHOLE)).content == BODY
                await asyncio.sleep(0.05)
            assert served == [1, 1, 1]

    asyncio.run(run())


def test_more_requests_go_at_once_than_httpcore_would_let() -> None:
    """bob fetches bundles of each model beside one another: the last must not wait for the first."""
    many = 12

    async def run() -> None:
        all_here = asyncio.Barrier(many)

        async def together(writer: asyncio.StreamWriter) -> None:
            await all_here.wait()
            await whole(writer)

        async with serving(together) as (url, _), clients.asyncio_client(url, timeout=60) as client:
            answers = await asyncio.gather(*(client.get("/", extensions=WHOLE) for _ in range(many)))
            assert all(answer.content == BODY for answer in answers)

    asyncio.run(run())
