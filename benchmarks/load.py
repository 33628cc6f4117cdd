"""The suite `load`: many clients of one image each, at the same time.

Most rows come from requests that were sealed beforehand, sent by this one process over connections that it keeps. So
they measure the parties, and not what clients compute. Each client has a token, a key and a connection of its own. A
burst needs at most half of the randomness in stock, so that no pool is refilled beside it.
"""

import asyncio
import json
import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console

from benchmarks.measurement import Row
from moiety_client import inputs
from moiety_client.errors import ResultRejected
from moiety_client.exchange import Call, Sealer, TokenHolder
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_service.http import clients
from moiety_service.security.identity import Identity
from moiety_shared.crypto import tokens
from moiety_shared.crypto.possession import private_pem, thumbprint
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.catalogue import Entry

CLIENTS, FEW = 64, 16
_BURST = 960  # requests: half of the default pool has 1,024 rows
_WARM = 128  # requests before a burst: connections, handshakes and caches
_BURSTS = 5
_PROCESSES = 4  # of SDK clients
_TOLERANCE = 0.05  # of fixed point against floats


@dataclass
class Load:
    """What was measured of one number of clients."""

    rates: list[float] = field(default_factory=list)  # answers a second, by burst
    seconds: list[float] = field(default_factory=list)  # by request
    wrong: int = 0
    of_another: int = 0  # answers that their client could not open
    failed: int = 0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.seconds, percent))


def measure(root: Path, pixels: mnist.Pixels, seconds: float, console: Console) -> Iterator[Row]:
    """The rows of the table, in order."""
    expected = mnist.float_outputs(pixels[:CLIENTS])
    with Deployment(root / "roles") as deployment:
        deployment.publish()
        with deployment.client() as client:
            entry = client.model("mnist")
        holders = [issue(deployment, number) for number in range(CLIENTS)]
        loads = {}
        for count in (CLIENTS, FEW, 1):
            loads[count] = Load()
            for _ in range(_BURSTS):
                deployment.wait_full(entry.upload_id)
                burst(deployment, entry, holders[:count], pixels, expected, loads[count])
        sdk = sdk_rate(deployment, root, holders, seconds)
    for count, load in loads.items():
        middle, late = load.percentile(50) * 1e3, load.percentile(95) * 1e3
        console.print(f"[dim]{count} clients: {load.rate:,.0f} requests/s, median {middle:.2f} ms, 95 % {late:.2f}[/]")
    console.print(f"[dim]{CLIENTS} clients of the SDK in {_PROCESSES} processes: {sdk:,.0f} requests/s[/]")
    many, few, alone = loads[CLIENTS], loads[FEW], loads[1]
    yield Row.at_least(f"{CLIENTS} clients of one image, requests a second: at least", many.rate, 1)
    yield Row.at_least(f"{CLIENTS} clients / one client, requests a second: at least", many.rate / alone.rate, 3)
    yield Row.at_least(f"{CLIENTS} clients of the SDK, requests a second: at least", sdk, 1)
    yield Row.at_most(f"{FEW} clients, 95 % / median of latency: at most", few.percentile(95) / few.percentile(50), 3)
    yield Row.at_most("one client alone, median latency, ms: at most", alone.percentile(50) * 1e3, 100)
    yield Row.at_most("wrong answers: at most", sum(load.wrong for load in loads.values()), 0)
    yield Row.at_most("answers to another client: at most", sum(load.of_another for load in loads.values()), 0)
    yield Row.at_most("requests without an answer: at most", sum(load.failed for load in loads.values()), 0)


def issue(deployment: Deployment, number: int) -> TokenHolder:
    """A client with a token of its own, signed with the owner's key that lies in the deployment's folder."""
    owner = Identity.load(deployment.root / "keys" / "server", "server").signing_key
    key = Ed25519PrivateKey.generate()
    grant = Grant(
        token_id=secrets.token_hex(16),
        subject=f"client {number}",
        expires=int(time.time()) + 86_400,
        key=thumbprint(key.public_key().public_bytes_raw()),
    )
    return TokenHolder(tokens.issue(grant, owner), key)


def burst(
    deployment: Deployment,
    entry: Entry,
    holders: Sequence[TokenHolder],
    pixels: mnist.Pixels,
    expected: np.ndarray,
    load: Load,
    requests: int = _BURST,
) -> None:
    """Send one burst, each client one request after another, and check every answer once the burst is over. A client
    that is alone sends a fourth of them."""
    turns = max(requests // len(holders) // (4 if len(holders) == 1 else 1), 1)
    warm = max(_WARM // len(holders), 1)
    calls: list[list[Call]] = []
    for number, holder in enumerate(holders):
        sealer, one = Sealer(entry, holder), inputs.encode(entry, pixels[number : number + 1])
        calls.append([sealer.call(one) for _ in range(warm + turns)])
    pairs = zip(holders, calls, strict=True)
    senders = [Sender(deployment, holder, [call.body for call in own]) for holder, own in pairs]
    taken = asyncio.run(_send_all(senders, warm, deployment.ca))
    load.rates.append(len(holders) * turns / taken)
    for number, (sender, own) in enumerate(zip(senders, calls, strict=True)):
        load.seconds.extend(sender.seconds[warm:])
        for call, (status, body) in zip(own, sender.answers, strict=True):
            if status != 200:
                load.failed += 1
                continue
            try:
                off = np.abs(call.open(body) - expected[number]).max()
            except ResultRejected:
                load.of_another += 1
            else:
                load.wrong += bool(off > _TOLERANCE)


async def _send_all(senders: Sequence["Sender"], warm: int, ca: Path) -> float:
    """Open the connections, send what is for warming up, and then the burst. Returns the burst's seconds."""
    tls = clients.tls_context(ca)
    loop = asyncio.get_running_loop()
    for sender in senders:
        await loop.create_connection(lambda sender=sender: sender, sender.host, sender.port, ssl=tls)  # type: ignore[misc]
    await asyncio.gather(*(sender.send(warm) for sender in senders))
    started = time.perf_counter()
    await asyncio.gather(*(sender.send(len(sender.bodies)) for sender in senders))
    taken = time.perf_counter() - started
    for sender in senders:
        sender.close()
    return taken


class Sender(asyncio.Protocol):
    """One client's connection. It sends sealed requests one after another, and keeps the answers as they came."""

    def __init__(self, deployment: Deployment, holder: TokenHolder, bodies: Sequence[bytes]) -> None:
        parts = urlsplit(deployment.url("alice"))
        self.host, self.port = str(parts.hostname), int(parts.port or 443)
        self.bodies = bodies
        self.answers: list[tuple[int, bytes]] = []
        self.seconds: list[float] = []
        self._head = (
            f"POST /v1/predictions HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {holder.token}\r\n"
            "content-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n"
        )
        self._buffer = bytearray()
        self._began = 0.0
        self._until = 0
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("alice closed the connection"))

    def close(self) -> None:
        self._transport.close()

    async def send(self, until: int) -> None:
        """Send the bodies up to this one, each when the answer to the one before is here."""
        self._until, self._done = until, asyncio.get_running_loop().create_future()
        self._next()
        await self._done

    def _next(self) -> None:
        assert self._done is not None  # noqa: S101  `send` made it
        if len(self.answers) >= self._until:
            self._done.set_result(None)
            return
        body = self.bodies[len(self.answers)]
        self._began = time.perf_counter()
        self._transport.write(self._head.format(len(body)).encode() + body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return
        self.seconds.append(time.perf_counter() - self._began)
        self.answers.append((int(head[9:12]), bytes(self._buffer[end + 4 : end + 4 + length])))
        del self._buffer[: end + 4 + length]
        self._next()


def sdk_rate(deployment: Deployment, root: Path, holders: Sequence[TokenHolder], seconds: float) -> float:
    """Answers a second of the clients of the SDK, in processes of their own, while they all ask."""
    known = AccessFile.model_validate_json(deployment.access_file.read_bytes())
    folder = root / "clients"
    folder.mkdir(mode=0o700)
    for number, holder in enumerate(holders):
        assert holder.key is not None  # noqa: S101  `issue` made it
        own = known.model_copy(update={"token": holder.token, "key": private_pem(holder.key)})
        (folder / f"{number}.json").write_text(own.model_dump_json())
        (folder / f"{number}.json").chmod(0o600)
    share = len(holders) // _PROCESSES
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.askers", str(folder), str(at), str(at + share), f"{seconds:g}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for at in range(0, len(holders), share)
    ]
    for process in running:  # each says that it is ready, and waits to be told
        assert process.stdout is not None  # noqa: S101  a pipe
        process.stdout.readline()
    said = []
    for process in running:
        assert process.stdin is not None  # noqa: S101  a pipe
        process.stdin.close()
    for process in running:
        assert process.stdout is not None  # noqa: S101  a pipe
        said.append(json.loads(process.stdout.read()))
        process.wait()
    return sum(float(one["answers"]) / float(one["seconds"]) for one in said)
