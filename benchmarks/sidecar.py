"""The suite `sidecar`: the time that the sidecar's HTTP interface adds to a call of the SDK."""

import importlib
import io
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from benchmarks.measurement import Row, timed
from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_local.folder import DeploymentError
from moiety_service.http import clients

_MOST_SHOWN = 1 << 20  # bytes
_IMAGES = 1000
_ROUNDS, _CALLS, _WARM = 6, 60, 20


def measure(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """The rows of the table, in order. Raises DeploymentError without Triton's client, which the suite uses."""
    try:
        triton = importlib.import_module("tritonclient.http")
    except ModuleNotFoundError:
        raise DeploymentError("this suite needs Triton's client: pip install 'tritonclient[http]'") from None
    with Deployment(root / "roles") as deployment:
        deployment.publish()
        address = deployment.url("client")
        with (
            deployment.client() as client,
            clients.client(address, timeout=60) as rest,
            triton.InferenceServerClient(address.removeprefix("http://")) as application,
        ):
            bench = _Sidecar(deployment, client, rest, triton, application, console)
            yield from bench.labels(pixels[:_IMAGES])
            yield from bench.added(pixels[:1])


class _Sidecar:
    def __init__(
        self,
        deployment: Deployment,
        client: Client,
        rest: httpx.Client,
        triton: ModuleType,
        application: Any,
        console: Console,
    ) -> None:
        self.deployment, self.client, self.rest, self.console = deployment, client, rest, console
        self.triton, self.application = triton, application
        self.upload_id = client.model("mnist").upload_id

    def labels(self, pixels: mnist.Pixels) -> Iterator[Row]:
        """Send one image after another through the sidecar, and compare the labels with the SDK's."""
        asked = track(range(len(pixels)), f"{len(pixels)} images", console=self.console)
        got = np.array([self._infer(pixels[at : at + 1]) for at in asked])
        expected = self.client.predict("mnist", pixels).labels
        same = float((got == expected).mean() * 100)
        yield Row.at_least(f"labels equal to the SDK's, {len(pixels)} images, %: at least", same, 100)

    def added(self, one: mnist.Pixels) -> Iterator[Row]:
        """One warm image in turn: by the SDK, by the sidecar with binary tensors or JSON, and as the page asks."""
        Image.fromarray(one[0]).save(file := io.BytesIO(), "PNG")
        ways: dict[str, Callable[[], object]] = {
            "SDK": lambda: self.client.predict("mnist", one),
            "binary": lambda: self._infer(one),
            "JSON": lambda: self._infer(one, binary=False),
            "page": lambda: self._page(file.getvalue()),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_ROUNDS):
            self.deployment.wait_full(self.upload_id)
            for _ in range(_CALLS):
                for name, ask in ways.items():
                    times[name].append(timed(ask) * 1e3)
        middle = {name: statistics.median(taken[_WARM:]) for name, taken in times.items()}
        self.console.print("[dim]one image, " + ", ".join(f"{n} {ms:.2f} ms" for n, ms in middle.items()) + "[/]")
        for name in ("binary", "JSON"):
            added = middle[name] - middle["SDK"]
            yield Row.at_most(f"one image, what the sidecar adds to the SDK, {name}, ms: at most", added, 2)
        yield Row.at_most("one image as the page asks, shares and all, ms: at most", middle["page"], 1000)

    def _page(self, file: bytes) -> None:
        """The answer as the page asks for it, with what alice and bob got."""
        how = clients.at_most(_MOST_SHOWN)
        clients.check(self.rest.post("/v1/show/mnist", content=file, extensions=how))

    def _infer(self, pixels: mnist.Pixels, *, binary: bool = True) -> int:
        """The label from the sidecar, asked as applications ask it: with Triton's own client."""
        tensor = self.triton.InferInput("input", pixels.shape, "UINT8").set_data_from_numpy(pixels, binary_data=binary)
        label = self.triton.InferRequestedOutput("label", binary_data=binary)
        return int(self.application.infer("mnist", [tensor], outputs=[label]).as_numpy("label")[0])
