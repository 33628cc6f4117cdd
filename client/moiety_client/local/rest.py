"""`moiety bench --suite sidecar`: what asking the sidecar over HTTP adds to asking the SDK."""

import io
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from moiety_client.client import Client
from moiety_client.local import mnist
from moiety_client.local.bench import Row, timed
from moiety_client.local.deployment import Deployment
from moiety_client.sidecar.messages import HEADER_LENGTH
from moiety_shared.service import http

_IMAGES = 1000
_ROUNDS, _CALLS, _WARM = 6, 60, 20


def measure(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """The rows of the table, in order."""
    with Deployment(root / "roles") as deployment:
        deployment.publish()
        with deployment.client() as client, http.client(deployment.url("client"), timeout=60) as rest:
            bench = _Sidecar(deployment, client, rest, console)
            yield from bench.labels(pixels[:_IMAGES])
            yield from bench.added(pixels[:1])


class _Sidecar:
    def __init__(self, deployment: Deployment, client: Client, rest: httpx.Client, console: Console) -> None:
        self.deployment, self.client, self.rest, self.console = deployment, client, rest, console
        self.upload_id = client.model("mnist").upload_id

    def labels(self, pixels: mnist.Pixels) -> Iterator[Row]:
        """One image after another through both."""
        asked = track(range(len(pixels)), f"{len(pixels)} images", console=self.console)
        got = np.array([self._infer(pixels[at : at + 1]) for at in asked])
        expected = self.client.predict("mnist", pixels).labels
        same = float((got == expected).mean() * 100)
        yield Row.at_least(f"labels equal to the SDK's, {len(pixels)} images, %: at least", same, 100)

    def added(self, one: mnist.Pixels) -> Iterator[Row]:
        """One warm image, in turn: the SDK, the sidecar with binary tensors, with JSON, and what the page asks."""
        Image.fromarray(one[0]).save(file := io.BytesIO(), "PNG")
        ways: dict[str, Callable[[], object]] = {
            "SDK": lambda: self.client.predict("mnist", one),
            "binary": lambda: self._infer(one),
            "JSON": lambda: self._infer_json(one),
            "page": lambda: http.check(self.rest.post("/v1/show/mnist", content=file.getvalue())),
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

    def _infer(self, pixels: mnist.Pixels) -> int:
        """With the tensors behind the JSON, byte for byte as Triton's client sends them."""
        size = {"binary_data_size": pixels.nbytes}
        tensor = {"name": "input", "shape": pixels.shape, "datatype": "UINT8", "parameters": size}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        answer = self._post(head + pixels.tobytes(), {HEADER_LENGTH: str(len(head))})
        behind = answer.content[int(answer.headers[HEADER_LENGTH]) :]
        return int(np.frombuffer(behind, "<i8", count=1)[0])  # the first output is the label

    def _infer_json(self, pixels: mnist.Pixels) -> int:
        tensor = {"name": "input", "shape": pixels.shape, "datatype": "UINT8", "data": pixels.ravel().tolist()}
        answer = self._post(json.dumps({"inputs": [tensor]}).encode(), {})
        return int(answer.json()["outputs"][0]["data"][0])

    def _post(self, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return http.check(self.rest.post("/v2/models/mnist/infer", content=body, headers=headers))
