"""The suite `hostile`: one client predicts digits while others try to disturb it.

First the holder of another token sends requests that nobody can use, as fast as it can. Then a thousand hostile
connections are held open or tried again. The suite attacks only the processes that its own deployment started on this
machine. The attacks are bounded in number and time.
"""

import asyncio
import contextlib
import secrets
import ssl
import statistics
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console

from benchmarks.measurement import Row
from benchmarks.memory import forget_peak, peak_megabytes
from moiety_client import inputs
from moiety_client.client import Client
from moiety_client.errors import MoietyError, ServiceUnavailable
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_local.site import ROLES
from moiety_service.http.serving import file_limit
from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.wire import Binding, Request, envelope_bytes, new_id, request_bytes
from moiety_shared.problems import ProblemType

CONNECTIONS, SECONDS = 1000, 20.0  # at alice; there are more at the other roles
_MEGABYTES = 900
_BATCH = 8
JUNK_SECONDS = 10.0  # of predictions without the junk, and again as many with it
_JUNK_CONNECTIONS, _JUNK_ROWS = 2, 64
_PAUSE = 0.25  # seconds between two requests of one connection, and between two bytes of a slow one
_TARGETS = ("alice",) * 10 + ("bob", "crypto_provider", "server")  # the roles to which the connections go, in turn

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Report:
    """What happened while the connections were open. `refused` counts good requests told to come back later."""

    right: int = 0
    wrong: int = 0
    refused: int = 0
    lost: int = 0
    died: int = 0
    enemies: int = 0
    opened: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    megabytes: dict[str, float] = field(default_factory=dict)
    grown: dict[str, float] = field(default_factory=dict)  # the part of `megabytes` that the attack added

    @property
    def good(self) -> int:
        return self.right + self.wrong + self.refused + self.lost


@dataclass
class Junk:
    """One client's seconds for one image, without the junk and beside it, and the statuses that answered the junk."""

    quiet: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)

    @property
    def ratio(self) -> float:
        return statistics.median(self.beside) / statistics.median(self.quiet)


def measure(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """The rows of the table, in order."""
    with Deployment(root / "roles") as deployment:
        deployment.publish()
        junk = send_junk(deployment, pixels, seconds=JUNK_SECONDS)
        report = attack(deployment, pixels, connections=CONNECTIONS * 13 // 10, seconds=SECONDS)
    quiet, beside = (statistics.median(taken) * 1e3 for taken in (junk.quiet, junk.beside))
    console.print(
        f"[dim]one image {quiet:.1f} ms, {beside:.1f} beside junk of another's token, answered {dict(junk.answers)}[/]"
    )
    yield Row.at_most("one image beside another token's junk / without: at most", junk.ratio, 3)
    console.print(
        f"[dim]{report.good} good requests: {report.right} answered, {report.refused} refused for now, "
        f"{report.lost} lost; {report.opened} hostile connections were answered {dict(report.statuses)}[/]"
    )
    yield Row.at_least("connections held or tried again all the time: at least", report.enemies, CONNECTIONS)
    yield Row.at_most("wrong answers: at most", report.wrong, 0)
    yield Row.at_most("processes that died: at most", report.died, 0)
    served = 100 * (report.right + report.refused) / max(report.good, 1)
    yield Row.at_least("good requests answered or refused with 429/503, %: at least", served, 100)
    yield Row.at_least("good requests answered: at least", report.right, 1)
    for role, megabytes in report.megabytes.items():
        yield Row.at_most(f"peak memory of {role}, MB: at most", megabytes, _MEGABYTES)


def attack(deployment: Deployment, pixels: mnist.Pixels, *, connections: int, seconds: float) -> Report:
    """Hold `connections` hostile connections for `seconds`, while one client predicts."""
    file_limit()
    report = Report()
    with deployment.client(timeout=20) as client:
        entry = client.model("mnist")
        deployment.wait_full(entry.upload_id)
        until = time.monotonic() + seconds
        token = AccessFile.model_validate_json(deployment.access_file.read_bytes()).token
        hostile = _Hostile({role: deployment.url(role) for role in _TARGETS}, entry, token, until, report)
        before = {role: forget_peak(deployment.processes[role].pid) for role in ROLES}
        thread = threading.Thread(target=lambda: asyncio.run(hostile.run(connections)))
        thread.start()
        _predict(client, pixels, until, report)
        thread.join()
    for role in ROLES:
        process = deployment.processes[role]
        report.died += process.poll() is not None
        report.megabytes[role] = peak_megabytes(process.pid) if process.poll() is None else 0.0
        report.grown[role] = report.megabytes[role] - before[role]
    return report


def send_junk(deployment: Deployment, pixels: mnist.Pixels, *, seconds: float) -> Junk:
    """One client asks for one image after another: for `seconds` alone, and for as long again beside junk.

    The junk comes from the holder of another token, which has no quota. Nobody can open its envelopes for bob. Raises
    MoietyError when one of the client's own requests gets no answer.
    """
    access = deployment.root / "junk.json"
    deployment.run("token", "issue", "junk", "--days", "1", "--out", str(access))
    junk, over = Junk(), threading.Event()
    with deployment.client(timeout=60) as client, Client.from_access(access) as holder:
        entry = holder.model("mnist")
        sealed = holder.sealer(entry).call(inputs.encode(entry, pixels[:_JUNK_ROWS])).body
        body = sealed[:-1] + bytes([sealed[-1] ^ 1])  # a failed request is forgotten, so it may be sent again
        headers = {"authorization": f"Bearer {AccessFile.model_validate_json(access.read_bytes()).token}"}

        def send() -> None:
            with deployment.http("alice", timeout=60) as link:
                while not over.is_set():
                    junk.answers[link.post("/v1/predictions", content=body, headers=headers).status_code] += 1

        def ask(taken: list[float]) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                started = time.perf_counter()
                client.predict("mnist", pixels[:1])
                taken.append(time.perf_counter() - started)

        deployment.wait_full(entry.upload_id)
        ask(junk.quiet)
        with ThreadPoolExecutor(_JUNK_CONNECTIONS) as senders:
            sending = [senders.submit(send) for _ in range(_JUNK_CONNECTIONS)]
            try:
                ask(junk.beside)
            finally:
                over.set()
        for each in sending:
            each.result()
    return junk


def _predict(client: Client, pixels: mnist.Pixels, until: float, report: Report) -> None:
    expected = mnist.float_outputs(pixels[:512]).argmax(axis=1)
    at = 0
    while time.monotonic() < until:
        batch = slice(at, at + _BATCH)
        at = (at + _BATCH) % (len(expected) - _BATCH)
        try:
            labels = client.predict("mnist", pixels[batch]).labels
        except ServiceUnavailable as error:
            told = error.problem.kind is not ProblemType.PARTY_UNAVAILABLE  # the client says so if alice is silent
            report.refused += told
            report.lost += not told
        except MoietyError:
            report.lost += 1
        else:
            right = np.array_equal(labels, expected[batch])
            report.right += right
            report.wrong += not right


class _Hostile:
    """The attackers. Each method attacks through one connection until that ends."""

    def __init__(self, urls: dict[str, str], entry: Entry, token: str, until: float, report: Report) -> None:
        self._urls, self._entry, self._token, self._until, self._report = urls, entry, token, until, report
        self._tls = _unchecked()
        self._body = request_bytes(entry.plan, entry.max_rows)

    async def run(self, connections: int) -> None:
        kinds: tuple[Callable[[Streams], Awaitable[None]], ...] = (
            *(self._silent, self._slow_header, self._slow_body, self._nearly_whole_body) * 3,
            self._too_large,
            self._garbage,
            self._garbage_prediction,
            self._deep_json,
        )
        self._report.enemies = connections
        async with asyncio.TaskGroup() as group:
            for number in range(connections):
                kind, target = kinds[number % len(kinds)], _TARGETS[number % len(_TARGETS)]
                group.create_task(self._repeat(self._urls[target], kind))

    async def _repeat(self, url: str, kind: Callable[[Streams], Awaitable[None]]) -> None:
        parts = urlsplit(url)
        # These two kinds do not even begin a TLS handshake.
        raw = kind in (self._silent, self._garbage) or parts.scheme == "http"
        while time.monotonic() < self._until:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._until - time.monotonic()):
                    streams = await asyncio.open_connection(parts.hostname, parts.port, ssl=None if raw else self._tls)
                    self._report.opened += 1
                    try:
                        await kind(streams)
                    finally:
                        streams[1].transport.abort()
            await asyncio.sleep(_PAUSE)

    async def _answer(self, streams: Streams) -> None:
        """Wait for an answer, or for the end of the connection."""
        line = await streams[0].readline()
        if line.startswith(b"HTTP/"):
            self._report.statuses[line.split()[1].decode()] += 1
            await streams[0].read(1 << 16)

    async def _send(self, streams: Streams, *parts: bytes) -> None:
        streams[1].write(b"".join(parts))
        await streams[1].drain()

    async def _silent(self, streams: Streams) -> None:
        await self._answer(streams)

    async def _slow_header(self, streams: Streams) -> None:
        await self._send(streams, b"POST /v1/predictions HTTP/1.1\r\n")
        await asyncio.gather(self._answer(streams), self._drip(streams, b"x-header: value\r\n"))

    async def _slow_body(self, streams: Streams) -> None:
        await self._send(streams, _head("/v1/predictions", self._body))
        await asyncio.gather(self._answer(streams), self._drip(streams, b"x"))

    async def _drip(self, streams: Streams, line: bytes) -> None:
        while not streams[0].at_eof():
            for octet in line:
                await self._send(streams, bytes([octet]))
                await asyncio.sleep(_PAUSE)

    async def _nearly_whole_body(self, streams: Streams) -> None:
        """Take as much of a service's memory as a request may, and then send no more."""
        await self._send(streams, _head("/v1/predictions", self._body), bytes(self._body - 1))
        await self._answer(streams)

    async def _too_large(self, streams: Streams) -> None:
        await self._send(streams, _head("/v1/predictions", 1 << 40), bytes(1 << 16))
        await self._answer(streams)

    async def _garbage(self, streams: Streams) -> None:
        await self._send(streams, secrets.token_bytes(1 << 12))
        await self._answer(streams)

    async def _garbage_prediction(self, streams: Streams) -> None:
        """A request with a valid token, in which every length and name is right, but the envelopes are random bytes."""
        plan, upload = self._entry.plan, bytes.fromhex(self._entry.upload_id)
        binding = Binding(plan.digest, upload, new_id(), secrets.token_bytes(32), int(time.time()))
        keys = [bytes.fromhex(PublicKey.from_text(party.sealing_key).key_id) for party in self._entry.parties]
        first, second = (
            key + secrets.token_bytes(envelope_bytes(plan, party, 1) - len(key)) for party, key in enumerate(keys)
        )
        body = Request(binding, 1, (first, second)).pack()
        await self._send(streams, _head("/v1/predictions", len(body), f"authorization: Bearer {self._token}"), body)
        await self._answer(streams)

    async def _deep_json(self, streams: Streams) -> None:
        body = b"[" * (1 << 19)
        await self._send(streams, _head("/v1/leases", len(body)), body)
        await self._answer(streams)


def _head(path: str, length: int, *more: str) -> bytes:
    fields = ("host: x", "content-type: application/json", f"content-length: {length}", *more)
    lines = (f"POST {path} HTTP/1.1", *fields, "", "")
    return "\r\n".join(lines).encode()


def _unchecked() -> ssl.SSLContext:
    """A TLS context without any check: an attacker does not care whom it talks to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
