"""The server against peers that hold on to what they do not use: real sockets, short deadlines."""

import asyncio
import contextlib
import datetime
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI, Request, WebSocket
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from moiety_service.http import clients, connection, gate, serving
from moiety_service.http.app import create_app
from moiety_service.settings import ServiceSettings
from moiety_shared.problems import Problem, ProblemType
from tests.asgi import InProcess, listening

GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n"
UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
LIMIT = 1 << 20


class Numbers(BaseModel):
    numbers: list[float]


def app() -> FastAPI:
    made = create_app("test", body_limit=lambda _: LIMIT)

    @made.post("/echo")
    async def echo(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    @made.post("/numbers")
    async def numbers(body: Numbers) -> int:
        return len(body.numbers)

    @made.get("/large")
    async def large() -> Response:
        return Response(bytes(1 << 24))

    @made.get("/slow")
    async def slow() -> str:
        await asyncio.sleep(1)
        return "done"

    @made.websocket("/link")
    async def link(socket_: WebSocket) -> None:
        await socket_.close()

    return made


@contextmanager
def running(tls: ssl.SSLContext | None = None, **settings: float) -> Iterator[int]:
    """The port of a server in a thread."""
    chosen = ServiceSettings.model_validate({"header_seconds": 0.4} | settings)
    with listening(app(), chosen, tls) as at:
        yield at


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running() as at:
        yield at


def ask(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send the parts, then read until the server closes. Fails after ten seconds of silence."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                peer.sendall(part)
                threading.Event().wait(pause)
        return until_closed(peer)


def until_closed(peer: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionError):
        while part := peer.recv(1 << 16):
            received += part
    return received


def kind(answer: bytes) -> ProblemType:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    assert b"connection: close" in head
    return Problem.from_document(json.loads(body)).kind


# Headers


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [GET],
        [bytes([octet]) for octet in GET + b"x: y\r\n" * 50],
        [b"\r\n"] * 999,
        [GET + b"\r\n", *[b"\r\n"] * 999],
        [GET + b"\r\n" + GET],
        [b"POST /echo HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", *[b"x"] * 999],
    ],
    ids=[
        "nothing",
        "half",
        "drops",
        "empty lines",
        "empty lines after",
        "half a second one",
        "an endless refused body",
    ],
)
def test_a_header_that_does_not_come_is_not_waited_for(port: int, parts: list[bytes]) -> None:
    """`ask` fails when the server does not close. What a peer that goes on sending reads of the answer is up to TCP."""
    answer = ask(port, *parts, pause=0.01 if len(parts) > 2 else 0)
    assert b" 408 " in answer or len(parts) > 2


def test_a_request_that_comes_before_the_last_answer_is_out_keeps_its_body(port: int) -> None:
    head = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{}\r\n"
    sent = [head.format(size, "connection: close\r\n" * (size == 7)).encode() + bytes(size) for size in (5, 6, 7)]
    answers = ask(port, b"".join(sent)).split(b"HTTP/1.1 200 ")
    assert [answer[-1:] for answer in answers[1:]] == [b"5", b"6", b"7"]


def test_two_requests_on_one_connection_and_a_pause_between_them(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(2):
            assert client.get("/health/live").is_success
            threading.Event().wait(0.8)  # longer than a header may take: an idle connection is another thing
        assert client.post("/echo", content=bytes(LIMIT)).text == str(LIMIT)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"garbage\r\n\r\n", ProblemType.MALFORMED),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99), ProblemType.MALFORMED),
        (GET + b"x: " + b"a" * 40_000, ProblemType.HEADERS_TOO_LARGE),
        (b"GET /" + b"a" * 40_000, ProblemType.HEADERS_TOO_LARGE),
        (GET + b"a: b\r\n" * 200 + b"\r\n", ProblemType.HEADERS_TOO_LARGE),
        (GET + b"x: " + b"a" * 33_000 + b"\r\n\r\n", ProblemType.HEADERS_TOO_LARGE),  # complete, in one read
        (GET + (b"x: " + b"a" * 8_000 + b"\r\n") * 5 + b"\r\n", ProblemType.HEADERS_TOO_LARGE),
        (b"GET /" + b"a" * 33_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", ProblemType.HEADERS_TOO_LARGE),
        (GET + UPGRADE + b"x: " + b"a" * 33_000 + b"\r\n\r\n", ProblemType.HEADERS_TOO_LARGE),
        (GET + b"\r\n" + GET + b"x: " + b"a" * 33_000 + b"\r\n\r\n", None),  # the first is answered
        (b"POST /echo HTTP/1.1\r\ncontent-length: -1\r\n\r\n", ProblemType.MALFORMED),
        (b"POST /echo HTTP/1.1\r\ncontent-length: 1e3\r\n\r\n", ProblemType.MALFORMED),
        (b"POST /echo HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", ProblemType.MALFORMED),
        (b"CONNECT host:80 HTTP/1.1\r\n\r\n", ProblemType.MALFORMED),
        (b"GET http://[ HTTP/1.1\r\n\r\n", ProblemType.MALFORMED),
    ],
)
def test_what_is_not_http_gets_a_problem_and_the_connection_is_closed(
    port: int, raw: bytes, expected: ProblemType | None
) -> None:
    answer = ask(port, raw)
    if expected is None:
        assert answer.count(b" 200 OK") <= 1 and b" 431 " in answer
    else:
        assert kind(answer) is expected


def test_requests_are_not_piled_up_on_one_connection(port: int) -> None:
    slow = b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n"
    assert b" 400 " in ask(port, slow * 50)
    assert ask(port, (GET + b"\r\n") * 5, GET + b"connection: close\r\n\r\n").count(b" 200 OK") == 6


# Bodies


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BODY_SECONDS", 0.4)
    monkeypatch.setattr(gate, "BODY_RATE", 1 << 20)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("path", [b"/echo", b"/numbers"])
def test_a_body_that_does_not_come_is_not_waited_for(port: int, path: bytes) -> None:
    head = b"POST " + path + b" HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    assert kind(ask(port, head)) is ProblemType.REQUEST_TIMEOUT
    assert kind(ask(port, head, *[b"["] * 200, pause=0.01)) is ProblemType.REQUEST_TIMEOUT


def test_odd_headers_of_bodies() -> None:
    asked = InProcess(app())
    for headers, expected in [
        ({"content-length": "x"}, ProblemType.MALFORMED),
        ({"content-length": "-1"}, ProblemType.MALFORMED),
        ({"content-length": "\u0661".encode()}, ProblemType.MALFORMED),
        ({"content-length": "9" * 30}, ProblemType.MALFORMED),
        ({"content-length": "0" * 5000 + "9"}, ProblemType.MALFORMED),
        ([("content-length", "1"), ("content-length", "1")], ProblemType.MALFORMED),
        ({"content-length": str(LIMIT + 1)}, ProblemType.TOO_LARGE),
        ({"content-length": "1", "content-encoding": "GZIP"}, ProblemType.ENCODING_REFUSED),
        ([("content-encoding", "identity"), ("content-encoding", "gzip")], ProblemType.ENCODING_REFUSED),
        ({"transfer-encoding": "identity"}, ProblemType.LENGTH_REQUIRED),
        ({"content-length": "3"}, ProblemType.MALFORMED),  # and more than that is sent
    ]:
        answer = asked.post("/echo", content=b"x" * 9, headers=headers)
        assert Problem.from_document(answer.json()).kind is expected, headers


def test_memory_for_bodies_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HELD_BYTES", 0)  # then two of the largest fit
    head = f"POST /echo HTTP/1.1\r\ncontent-length: {LIMIT}\r\n\r\n".encode()
    with running(header_seconds=5) as at, contextlib.ExitStack() as peers:
        for _ in range(2):
            peer = peers.enter_context(socket.create_connection(("127.0.0.1", at), timeout=10))
            peer.sendall(head + bytes(LIMIT - 1))
        threading.Event().wait(0.3)
        with httpx.Client(base_url=f"http://127.0.0.1:{at}") as client:
            refused = client.post("/echo", content=bytes(LIMIT))
            assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
            small = client.post("/echo", content=bytes(gate.SMALL_BODY))
            assert small.text == str(gate.SMALL_BODY), "a part is kept for small ones"
            peers.close()
            threading.Event().wait(0.3)
            assert client.post("/echo", content=bytes(LIMIT)).is_success, "what was held is let go of"


def test_small_bodies_have_a_bound_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "HELD_BYTES", 0)
    monkeypatch.setattr(gate, "SMALL_HELD_BYTES", 3 * gate.SMALL_BODY)
    small = f"POST /echo HTTP/1.1\r\ncontent-length: {gate.SMALL_BODY}\r\n\r\n".encode()
    large = f"POST /echo HTTP/1.1\r\ncontent-length: {LIMIT}\r\n\r\n".encode()
    with running(header_seconds=5) as at, contextlib.ExitStack() as peers:
        for head, size, count in ((large, LIMIT, 2), (small, gate.SMALL_BODY, 3)):
            for _ in range(count):
                peer = peers.enter_context(socket.create_connection(("127.0.0.1", at), timeout=10))
                peer.sendall(head + bytes(size - 1))
            threading.Event().wait(0.5)
        with httpx.Client(base_url=f"http://127.0.0.1:{at}") as client:
            assert client.post("/echo", content=bytes(gate.SMALL_BODY)).status_code == 503


# Numbers


def test_more_connections_than_allowed_are_refused() -> None:
    with running(max_connections=3, header_seconds=5) as at, contextlib.ExitStack() as peers:
        for _ in range(3):
            peers.enter_context(socket.create_connection(("127.0.0.1", at)))
        threading.Event().wait(0.2)
        answer = ask(at)
        assert kind(answer) is ProblemType.OVERLOADED and b"retry-after: 1" in answer
        peers.close()
        threading.Event().wait(0.2)
        assert httpx.get(f"http://127.0.0.1:{at}/health/live").is_success


def test_far_more_connections_than_allowed_are_closed_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SPARE_CONNECTIONS", 2)
    with running(certificate(tmp_path), max_connections=2) as at, contextlib.ExitStack() as peers:
        for _ in range(4):  # none of them shakes hands
            peers.enter_context(socket.create_connection(("127.0.0.1", at)))
        threading.Event().wait(0.2)
        with socket.create_connection(("127.0.0.1", at), timeout=2) as further:
            assert until_closed(further) == b""


def test_more_requests_than_allowed_are_refused_but_health_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_REQUESTS", 3)

    async def run(at: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{at}", timeout=10) as client:
            paths = ["/slow"] * 8 + ["/health/live"] * 4
            return list(await asyncio.gather(*(client.get(path) for path in paths)))

    with running(header_seconds=5) as at:
        answers = asyncio.run(run(at))
        assert [a.status_code for a in answers].count(503) == 5
        assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 503)
        assert all(a.is_success for a in answers[8:])
        assert httpx.get(f"http://127.0.0.1:{at}/slow").is_success


def test_requests_whose_body_is_still_arriving_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "MAX_REQUESTS", 1)
    with running(header_seconds=5) as at, contextlib.ExitStack() as peers:
        for _ in range(4):
            peer = peers.enter_context(socket.create_connection(("127.0.0.1", at)))
            peer.sendall(b"POST /echo HTTP/1.1\r\ncontent-length: 9\r\n\r\n")
        threading.Event().wait(0.2)
        assert httpx.post(f"http://127.0.0.1:{at}/echo", content=b"body").text == "4"


# Answers


def test_an_answer_that_is_not_read_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.4)
    with running(header_seconds=5) as at:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with peer:
            peer.settimeout(10)
            peer.connect(("127.0.0.1", at))
            peer.sendall(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n")
            threading.Event().wait(2)
            assert len(until_closed(peer)) < 1 << 24


# TLS and WebSockets


def certificate(folder: Path, *extensions: x509.ExtensionType) -> ssl.SSLContext:
    """The context of a server whose own certificate, with its key, is server.pem in `folder`."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    signed = builder.sign(key, hashes.SHA256())
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(path)
    return context


def test_a_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HANDSHAKE_SECONDS", 0.4)
    with running(certificate(tmp_path)) as at:
        for start in (b"", b"\x16\x03\x01\x02", GET + b"\r\n"):
            ask(at, start)  # returns when the server has closed
        blind = ssl.create_default_context()
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        with httpx.Client(base_url=f"https://127.0.0.1:{at}", verify=blind) as client:
            assert client.get("/health/live").is_success
            assert client.post("/echo", content=bytes(LIMIT)).text == str(LIMIT)
        with (
            socket.create_connection(("127.0.0.1", at), timeout=10) as raw,
            blind.wrap_socket(raw) as peer,
        ):
            peer.sendall(GET)
            assert kind(until_closed(peer)) is ProblemType.REQUEST_TIMEOUT


def test_websockets_that_nobody_wants_are_closed_at_once(port: int) -> None:
    for path in (b"/link", b"/nowhere", b"/echo"):
        request = b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n" + UPGRADE
        assert b" 403 " in ask(port, request + b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
        assert b" 400 " in ask(port, request + b"\r\n"), "no key"


# JSON


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 500_000,
        b'{"numbers": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
        b'{"numbers": [' + b"9" * 5000 + b"]}",
        b'{"numbers": [NaN]}',
        b'{"numbers": [1e999]}',
        b'{"numbers": [Infinity, -Infinity]}',
        b'{"numbers": "\xff"}',
        b'{"numbers": "\\ud800"}',
        b"null",
        b"",
    ],
    ids=range(11),
)
def test_hostile_json_is_a_problem(text: bytes) -> None:
    class Strict(BaseModel):
        model_config = {"allow_inf_nan": False}
        numbers: list[float]

    made = create_app("test")

    @made.post("/strict")
    async def strict(body: Strict) -> int:
        return len(body.numbers)

    answer = InProcess(made).post("/strict", content=text, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert Problem.from_document(answer.json()).kind in (ProblemType.MALFORMED, ProblemType.INVALID_INPUT)


def test_what_a_caller_wrote_is_not_repeated() -> None:
    made = create_app("test")

    class Closed(BaseModel):
        model_config = {"extra": "forbid"}
        number: int

    @made.post("/closed")
    async def closed(body: Closed) -> int:
        return body.number

    many = {f"marker{i}": 1 for i in range(5000)} | {"number": "marker"}
    answer = InProcess(made).post("/closed", json=many)
    assert answer.status_code == 422 and "marker" not in answer.text and len(answer.content) < 2000


def test_readiness_is_asked_for_once_a_second() -> None:
    asked = 0

    async def ready() -> None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        raise Problem(ProblemType.RANDOMNESS_EXHAUSTED)

    made = create_app("test", ready=ready)

    async def run() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=made), base_url="http://test") as client:
            answers = await asyncio.gather(*(client.get("/health/ready") for _ in range(50)))
            return [answer.status_code for answer in answers]

    assert asyncio.run(run()) == [503] * 50
    assert asked == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"[1]", b'{"type": 1}', b"\xff"])
def test_a_problem_document_that_is_none_is_a_problem_all_the_same(text: bytes) -> None:
    answer = httpx.Response(500, headers={"content-type": "application/problem+json"}, content=text)
    with pytest.raises(Problem) as caught:
        clients.check(answer)
    assert caught.value.kind is ProblemType.INTERNAL
