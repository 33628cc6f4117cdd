"""The measured tables of docs/benchmarks.md and docs/deployment.md: `python -m tests.scale.measure one|nginx|ray`.

Core-seconds are what the operating system counted for each role's processes, randomness that is dealt anew included;
they depend much less on what else the machine does than rows a second do.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil

from moiety_local.deployment import Deployment
from moiety_server.zoo import samples
from tests import databases
from tests.scale.replicated import SMALL, Replicated
from tests.scale.test_nginx import BehindNginx
from tests.scale.test_ray import OnRay

_MODELS = {"mnist": 2400, "lenet": 480}  # rows
_CALLS = (1, 32)
_CLIENTS = 4
_ROLES = ("alice", "bob", "crypto_provider")
_KINDS = ("one", "nginx", "ray")


@contextmanager
def deployment(kind: str, root: Path) -> Iterator[Deployment]:
    if kind == "one":
        with Deployment(root, extra={"alice": SMALL, "bob": SMALL}) as made:
            yield made
        return
    with databases.running() as postgres:
        made: Replicated = (BehindNginx if kind == "nginx" else OnRay)(root, postgres=postgres)
        with made:
            yield made


def processes(made: Deployment, role: str) -> list[psutil.Process]:
    """All that a role runs, of what Ray runs for it the proxy too."""
    if isinstance(made, OnRay):
        roots = [psutil.Process(node.pid) for node in made.clusters[role].nodes]
    else:
        roots = [psutil.Process(p.pid) for name, p in made.processes.items() if name == role or name[:-2] == role]
    return [process for root in roots for process in (root, *root.children(recursive=True))]


def seconds(made: Deployment, role: str) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes(made, role))


def load(made: Deployment, model: str, rows: int, call: int, images: np.ndarray) -> float:
    """That many rows by `_CLIENTS` clients. Returns rows a second."""

    def client(turns: int) -> None:
        with made.client(timeout=120) as one:
            for _ in range(turns):
                one.predict(model, images[:call])

    started = time.perf_counter()
    with ThreadPoolExecutor(_CLIENTS) as clients:
        list(clients.map(client, [rows // call // _CLIENTS] * _CLIENTS))
    return rows // call // _CLIENTS * _CLIENTS * call / (time.perf_counter() - started)


def settle(made: Deployment) -> None:
    """Until nothing is prepared any more."""
    while True:
        before = sum(seconds(made, role) for role in _ROLES)
        time.sleep(2)
        if sum(seconds(made, role) for role in _ROLES) - before < 0.4:
            return


def latency(call: Callable[[], object]) -> float:
    """Milliseconds, the median."""
    took = []
    for _ in range(40):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


def main(kind: str) -> None:
    images = samples.images()[0].numpy()
    with tempfile.TemporaryDirectory() as root, deployment(kind, Path(root)) as made:
        print("| model | call | one client, ms | rows/s |", *(f"{role}, core-s a million |" for role in _ROLES), "MB |")
        for model, rows in _MODELS.items():
            made.publish(*([] if model == "mnist" else [model]))
            with made.client(timeout=120) as client:
                for call in _CALLS:
                    client.predict(model, images[:call])
                    settle(made)
                    alone = latency(partial(client.predict, model, images[:call]))
                    settle(made)
                    before = {role: seconds(made, role) for role in _ROLES}
                    much = rows if call > 1 else rows // 6
                    speed = load(made, model, much, call, images)
                    settle(made)
                    million = {role: (seconds(made, role) - before[role]) / much * 1e6 for role in _ROLES}
                    memory = [sum(p.memory_info().rss for p in processes(made, role)) >> 20 for role in _ROLES]
                    figures = [f"{alone:.1f}", f"{speed:.0f}", *(f"{million[role]:.0f}" for role in _ROLES)]
                    print(
                        f"| {model} | {call} |",
                        " | ".join(figures),
                        f"| {memory} | load {os.getloadavg()[0]} |",
                        flush=True,
                    )


if __name__ == "__main__":
    if sys.argv[1:] not in [[kind] for kind in _KINDS]:
        sys.exit(f"usage: python -m tests.scale.measure {'|'.join(_KINDS)}")
    main(sys.argv[1])
