"""What the suites share: rows, stop-watches and yardsticks.

The yardsticks run in between, within the same minute: one httpx POST of the same bytes to an echo app, and torch's
float32 forward pass of the same batch on one thread.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import httpx
import numpy as np

from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_service.http import clients
from moiety_service.http.ports import LOOPBACK, reserved


@dataclass(frozen=True)
class Row:
    """One line of the table. `value` is compared with `asked` in the direction that `what` states."""

    what: str
    value: float
    asked: float
    holds: bool

    @classmethod
    def at_most(cls, what: str, value: float, asked: float) -> "Row":
        return cls(what, round(float(value), 4), asked, bool(value <= asked))

    @classmethod
    def at_least(cls, what: str, value: float, asked: float) -> "Row":
        return cls(what, round(float(value), 4), asked, bool(value >= asked))


def in_turn(asked: list[tuple[Deployment, Client]], call: Callable[[Client], object]) -> list[float]:
    """The median seconds of a call to each deployment. The deployments are called in turn."""
    times: list[list[float]] = [[] for _ in asked]
    uploads = [client.model("mnist").upload_id for _, client in asked]
    for _ in range(5):
        for (deployment, _), upload_id in zip(asked, uploads, strict=True):
            deployment.wait_full(upload_id)
        time.sleep(0.2)
        for _ in range(60):
            for (_, client), taken in zip(asked, times, strict=True):
                taken.append(timed(partial(call, client)))
    return [statistics.median(taken[20:]) for taken in times]


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def torch_forward(name: str = "mnist") -> Callable[[mnist.Pixels], np.ndarray]:
    """The owner's float inference: torch in float32 on one thread."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    torch.set_num_threads(1)
    if name == "lenet":
        stages = (nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2))
        model = nn.Sequential(*stages, nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))
        shape: tuple[int, ...] = (-1, 1, 28, 28)
    else:
        model = nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))
        shape = (-1, 784)
    model.load_state_dict(load_file(str(mnist.model_folder() / f"{name}.safetensors")))
    cache: dict[int, torch.Tensor] = {}

    def forward(pixels: mnist.Pixels) -> np.ndarray:
        if id(pixels) not in cache:  # times the forward pass alone, without the normalisation
            flat = torch.from_numpy(pixels.copy()).reshape(shape).float()
            cache[id(pixels)] = (flat / 255 - float(mnist.MEAN)) / float(mnist.STD)
        with torch.inference_mode():
            result: np.ndarray = model(cache[id(pixels)]).numpy()
        return result

    return forward


@contextmanager
def echo_server() -> Iterator[str]:
    with reserved() as port, process("benchmarks.echo", str(port)):
        url = f"http://{LOOPBACK}:{port}"
        with clients.client(url) as client:
            for _ in range(200):
                try:
                    client.get("/health/live")
                    break
                except httpx.HTTPError:
                    time.sleep(0.05)
        yield url


@contextmanager
def process(module: str, *arguments: str) -> Iterator[None]:
    running = subprocess.Popen([sys.executable, "-m", module, *arguments])
    try:
        yield
    finally:
        running.terminate()
        running.wait()
