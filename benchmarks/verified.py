"""The suite `verified`: MNIST and LeNet, whose parties check each other, beside the same models without checks."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from benchmarks import load
from benchmarks.measurement import Row, timed, torch_forward
from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment

_BATCH = 128
_TURNS = {1: 60, _BATCH: 20}  # calls of each model, by the images in one
_COMPARED = 512  # images whose labels are compared
_LENET = 32
_BURST, _BURSTS = 256, 5  # requests of many clients, which fit into half of a pool with those that warm up
_POOLS = {"MOIETY_PARTY_POOL_ROWS": "1024", "MOIETY_PARTY_POOL_BYTES": str(1 << 28)}
"""Large enough for each call, and filled in less than a minute."""
# SHARK's semi-honest dealer, measured on two AVX2 cores, where our ordinary batch of 128 took 24.8 ms.
_SHARK_SECONDS, _SHARK_BYTES, _OUR_SECONDS = 0.600, 334e6, 0.0248


@dataclass(frozen=True)
class _Asked:
    """A published model and its name, with the calls to it."""

    name: str
    client: Client

    def call(self, pixels: mnist.Pixels) -> object:
        return self.client.predict(self.name, pixels)


def measure(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """The rows of the table, in order."""
    with Deployment(root / "roles", environment=_POOLS) as deployment:
        fetched = [_published(deployment, name, model) for name, model in (("plain", ()), ("sure", ("--verified",)))]
        dealt = [rows_bytes / rows for rows, rows_bytes in (fetched[0], fetched[1] - fetched[0])]
        with deployment.client(timeout=120) as client:
            one = client.predict("sure", pixels[:1])
            yield Row.at_most("provider bytes an image: at most", dealt[1], 65_000)
            yield Row.at_most("online bytes an image and party: at most", one.online_bytes, 14_000)
            yield Row.at_most("rounds: at most", one.rounds, 10)
            yield Row.at_most("without checks, provider bytes an image: at most", dealt[0], 17_100)
            yield _equal(client, "sure", "mnist", pixels[:_COMPARED])
            pair = [_Asked(name, client) for name in ("plain", "sure")]
            plain, sure = _in_turn(deployment, pair, pixels[:1], console)
            yield Row.at_most("one image, verified / ordinary: at most", sure / plain, 3)
            plain, sure = _in_turn(deployment, pair, pixels[:_BATCH], console)
            yield Row.at_most("128 images, verified / ordinary: at most", sure / plain, 8)
            yield from _many(deployment, client, pixels, console)
            shark = _SHARK_SECONDS / _OUR_SECONDS * plain
            yield Row.at_least("128 images, SHARK by our ordinary batch / verified: at least", shark / sure, 5)
            yield Row.at_least(
                "128 images, SHARK's dealt bytes / ours: at least", _SHARK_BYTES / (_BATCH * dealt[1]), 20
            )
            _published(deployment, "lenet", ("lenet", "--verified"))
            yield _equal(client, "lenet", "lenet", pixels[:_LENET])
            _published(deployment, "labels", ("lenet", "--verified", "--reveal", "labels"))
            yield _equal(client, "labels", "lenet", pixels[:_LENET])


def _many(deployment: Deployment, client: Client, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """Clients of one image each, at the same time, and one alone. Their requests were sealed beforehand."""
    entry, expected, loads = client.model("sure"), mnist.float_outputs(pixels[: load.CLIENTS]), dict[int, load.Load]()
    holders = [load.issue(deployment, number) for number in range(load.CLIENTS)]
    for count in (load.CLIENTS, 1):
        loads[count] = load.Load()
        for _ in range(_BURSTS):
            deployment.wait_full(entry.upload_id, 300)
            load.burst(deployment, entry, holders[:count], pixels, expected, loads[count], _BURST)
    for count, one in loads.items():
        middle = one.percentile(50) * 1e3
        console.print(f"[dim]{count} clients, verified: {one.rate:.0f} requests/s, median {middle:.1f} ms[/]")
    many, alone = loads[load.CLIENTS], loads[1]
    wrong = sum(one.wrong + one.of_another + one.failed for one in loads.values())
    what = f"{load.CLIENTS} clients of one image, verified"
    yield Row.at_least(f"{what}, requests a second: at least", many.rate, 1)
    yield Row.at_least(f"{what} / one client: at least", many.rate / alone.rate, 3)
    yield Row.at_most(f"{what}, wrong answers, or none: at most", wrong, 0)


def _published(deployment: Deployment, name: str, model: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Publish a model, and wait until its pool is full. Returns how many rows bob has fetched of all models, and their
    bytes."""
    named = model if model and not model[0].startswith("--") else ("mnist", *model)
    deployment.publish(*named, "--name", name)
    with deployment.client() as client:
        upload = client.model(name).upload_id
    deployment.wait_full(upload, 300)
    state = deployment.party_state("bob", upload)
    return np.array([float(str(state["bundle_rows"])), float(str(state["bundle_bytes"]))])


def _equal(client: Client, name: str, network: str, pixels: mnist.Pixels) -> Row:
    """How many labels are those of torch in float32. An answer that does not hold together raises CheatingDetected."""
    exact = torch_forward(network)(pixels).argmax(axis=1)
    found = np.concatenate([client.predict(name, part).labels for part in np.array_split(pixels, len(pixels) // 16)])
    what = f"{name}, verified: labels equal to float, {len(pixels)} images, %: at least"
    return Row.at_least(what, float((found == exact).mean() * 100), 99.5)


def _in_turn(
    deployment: Deployment, asked: list[_Asked], pixels: mnist.Pixels, console: Console
) -> tuple[float, float]:
    """The median seconds of a call to each of two models, called in turn."""
    calls: list[Callable[[], object]] = [partial(one.call, pixels) for one in asked]
    taken: list[list[float]] = [[], []]
    for turn in range(_TURNS[len(pixels)]):
        for one in asked:
            if not turn % (256 // len(pixels)):
                deployment.wait_full(one.client.model(one.name).upload_id, 300)
        for call, times in zip(calls, taken, strict=True):
            times.append(timed(call))
    plain, sure = (statistics.median(times[len(times) // 3 :]) for times in taken)
    console.print(f"[dim]{len(pixels)} images: {plain * 1e3:.1f} ms, verified {sure * 1e3:.1f} ms[/]")
    return plain, sure
