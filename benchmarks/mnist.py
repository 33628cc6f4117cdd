"""The suite `mnist`: one image and batches of 128, through five real processes over HTTP.

It measures from the client's call to its labels.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

from benchmarks.measurement import Row, echo_server, in_turn, process, timed, torch_forward
from benchmarks.memory import peak_megabytes
from moiety_client import inputs
from moiety_client.client import Client
from moiety_client.exchange import Sealer
from moiety_client.telemetry import Telemetry
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_local.folder import DeploymentError
from moiety_local.site import ROLES
from moiety_service.http import clients
from moiety_service.http.ports import LOOPBACK, reserved
from moiety_service.observability import tracing

_ADDED_MS = 10.0


def measure(root: Path, pixels: mnist.Pixels, seconds: float, console: Console) -> Iterator[Row]:
    with Deployment(root / "near") as near:
        near.publish()
        with near.client() as client:
            bench = _Bench(near, client, pixels, console)
            yield from bench.accuracy()
            yield from bench.single()
            yield from bench.secured(root / "bare")
            yield from bench.observed(root)
            yield from bench.batch()
            yield from bench.sustained(seconds)
            yield from bench.costs()
    yield from _distant(root / "far", pixels, console)


class _Bench:
    def __init__(self, deployment: Deployment, client: Client, pixels: mnist.Pixels, console: Console) -> None:
        self.deployment, self.client, self.pixels, self.console = deployment, client, pixels, console
        self.upload_id = client.model("mnist").upload_id
        self.forward = torch_forward()

    def warm(self) -> None:
        self.deployment.wait_full(self.upload_id)
        time.sleep(0.2)

    def accuracy(self) -> Iterator[Row]:
        """All test images through the processes, compared with float inference."""
        expected = self.forward(self.pixels)
        got = np.concatenate(
            [
                self.client.predict("mnist", self.pixels[at : at + 128]).outputs
                for at in track(range(0, len(self.pixels), 128), "10,000 images", console=self.console)
            ]
        )
        agree = float((got.argmax(axis=1) == expected.argmax(axis=1)).mean() * 100)
        yield Row.at_least("labels equal to float inference, 10,000 images, %: at least", agree, 99.95)
        yield Row.at_most("largest error of a logit: at most", float(np.abs(got - expected).max()), 0.05)

    def single(self) -> Iterator[Row]:
        """One image and one POST of the same bytes, measured in turn."""
        one = self.pixels[:1]
        sealer = Sealer(self.client.model("mnist"))
        body = sealer.call(inputs.encode(sealer.entry, one)).body
        with echo_server() as url, clients.client(url) as echo:
            calls: list[float] = []
            posts: list[float] = []
            for _ in range(5):
                self.warm()
                for _ in range(60):
                    calls.append(timed(lambda: self.client.predict("mnist", one)))
                    posts.append(timed(lambda: echo.post("/echo", content=body)))
        call, post = statistics.median(calls[20:]), statistics.median(posts[20:])
        self._say(f"one image {call * 1e3:.2f} ms, one POST {post * 1e3:.2f} ms")
        yield Row.at_most("one image / one httpx POST of the same bytes: at most", call / post, 5)

    def secured(self, root: Path) -> Iterator[Row]:
        """One image with TLS and a token, and one without either, measured in turn."""
        one = self.pixels[:1]
        with Deployment(root, transport="plain") as bare:
            key = bare.publish("--open")
            with Client(bare.url("server"), owner_key=key) as anybody:
                bare.wait_full(anybody.model("mnist").upload_id)
                safe: list[float] = []
                plain: list[float] = []
                for _ in range(5):
                    self.warm()
                    for _ in range(60):
                        safe.append(timed(lambda: self.client.predict("mnist", one)))
                        plain.append(timed(lambda: anybody.predict("mnist", one)))
        with_both, without = statistics.median(safe[20:]), statistics.median(plain[20:])
        self._say(f"one image with TLS and a token {with_both * 1e3:.2f} ms, without {without * 1e3:.2f} ms")
        yield Row.at_most("one image with TLS and a token / without: at most", with_both / without, 1.3)

    def observed(self, root: Path) -> Iterator[Row]:
        """One image with metrics read, logs written and spans exported, and one with none of these, in turn."""
        one = self.pixels[:1]
        quiet_settings = {role: {"LOG_LEVEL": "error", "METRICS_PORT": "0"} for role in ROLES}
        with (
            reserved() as port,
            Deployment(root / "quiet", extra=quiet_settings) as quiet,
            Deployment(
                root / "seen", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": (endpoint := f"http://{LOOPBACK}:{port}")}
            ) as seen,
            process("benchmarks.observer", str(port), *map(seen.metrics_url, ROLES)),
        ):
            for deployment in (quiet, seen):
                deployment.publish()
            with tracing.exporting("bench", endpoint) as tracer, quiet.client() as unseen:
                if tracer is tracing.NOBODY:
                    raise DeploymentError("this benchmark exports spans: install moiety[tracing]")
                with Client.from_access(seen.access_file, telemetry=Telemetry(tracer)) as client:
                    with_all, without = in_turn(
                        [(seen, client), (quiet, unseen)], lambda asked: asked.predict("mnist", one)
                    )
        self._say(f"one image observed {with_all * 1e3:.2f} ms, unobserved {without * 1e3:.2f} ms")
        yield Row.at_most("one image with metrics, logs and traces / without: at most", with_all / without, 1.1)

    def batch(self) -> Iterator[Row]:
        """128 images and torch's forward pass of them, measured in turn."""
        images = self.pixels[:128]
        calls: list[float] = []
        floats: list[float] = []
        for _ in range(8):
            self.warm()
            self.client.predict("mnist", images)  # the first call after a pause finds cold caches
            for _ in range(5):  # leaves more than half of the pool, so that no refill runs meanwhile
                calls.append(timed(lambda: self.client.predict("mnist", images)))
            floats.extend(timed(lambda: self.forward(images)) for _ in range(20))
        call, plain = statistics.median(calls), statistics.median(floats)
        self._say(f"batch of 128 {call * 1e3:.2f} ms, torch float32 {plain * 1e3:.2f} ms")
        yield Row.at_most("128 images / torch float32 on one thread: at most", call / plain, 11)

    def sustained(self, seconds: float) -> Iterator[Row]:
        """Batches of 128 for `seconds`, while the provider refills the pool."""
        images = self.pixels[:128]
        plain = statistics.median(timed(lambda: self.forward(images)) for _ in range(50))
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            self.client.predict("mnist", images)
            done += 128
        rate = done / (time.perf_counter() - started)
        self._say(f"sustained {rate:,.0f} images/s, torch float32 {128 / plain:,.0f} images/s")
        yield Row.at_least(
            f"{seconds:g} s of batches of 128, images per second / torch float32's: at least",
            rate * plain / 128,
            1 / 40,
        )

    def costs(self) -> Iterator[Row]:
        """Bytes and rounds as the links count them, and memory as the system sees it."""
        answer = self.client.predict("mnist", self.pixels[:128])
        state = self.deployment.party_state("bob", self.upload_id)
        provided = float(str(state["bundle_bytes"])) / int(str(state["bundle_rows"]))
        yield Row.at_most("online bytes, each party, per image: at most", answer.online_bytes / 128, 8000)
        yield Row.at_most("provider bytes per image: at most", provided, 30_000)
        yield Row.at_most("rounds: at most", answer.rounds, 5)
        for role in ("alice", "bob"):
            found = psutil.Process(self.deployment.processes[role].pid)
            megabytes = found.memory_info().rss / 1e6
            yield Row.at_most(f"resident memory of {role}, MB: at most", megabytes, 800)
        for role in ROLES:
            megabytes = peak_megabytes(self.deployment.processes[role].pid)
            yield Row.at_most(f"peak memory of {role}, MB: at most", megabytes, 900)

    def _say(self, text: str) -> None:
        self.console.print(f"[dim]{text}[/]")


def _distant(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """One image, where a delaying TCP proxy adds a round trip of 10 ms to every link."""
    with ExitStack() as running:
        proxies = {role: running.enter_context(reserved()) for role in ("alice", "bob", "crypto_provider", "server")}
        url = {role: f"https://{LOOPBACK}:{port}" for role, port in proxies.items()}
        extra = {
            "alice": {"PROVIDER_URL": url["crypto_provider"], "PEER_URL": url["bob"].replace("http", "ws")},
            "bob": {"PROVIDER_URL": url["crypto_provider"]},
            "server": {"ALICE_URL": url["alice"], "BOB_URL": url["bob"], "URL": url["server"]},
        }
        deployment = Deployment(root, extra=extra)
        pairs = [f"{port}:{deployment.ports[role]}" for role, port in proxies.items()]
        running.enter_context(process("benchmarks.delay", f"{_ADDED_MS:g}", *pairs))
        running.enter_context(deployment)
        deployment.publish()
        with deployment.client() as client:
            deployment.wait_full(client.model("mnist").upload_id)
            calls = [timed(lambda: client.predict("mnist", pixels[:1])) for _ in range(60)]
    call = statistics.median(calls[10:]) * 1e3
    console.print(f"[dim]one image with 10 ms on every link {call:.1f} ms[/]")
    yield Row.at_most("one image with 10 ms on every link / 10 ms: at most", call / _ADDED_MS, 7)
