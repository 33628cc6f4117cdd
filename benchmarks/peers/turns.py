"""Measures the same networks through moiety and other engines, in turn, in one run.

moiety's times are whole calls of a client, from pixels to labels, over HTTP, with TLS, a token and sealed shares. The
others' are runs of the network alone, on weights and inputs that are shared already.
"""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measurement import timed, torch_forward
from benchmarks.peers import processor
from benchmarks.peers.conductor import Floats, NetworkTask
from benchmarks.peers.engines import ENGINES, Running, running
from benchmarks.peers.environments import CRYPTEN, SPU, python_of, versions
from benchmarks.peers.results import OURS, CaseResult, EngineResult, PeerResults
from moiety_client.client import Client
from moiety_local import mnist
from moiety_local.deployment import Deployment


@dataclass(frozen=True)
class Case:
    """A network that ships with moiety, a batch, and how often a turn runs it: through moiety, through each other."""

    network: str
    shown: str
    batch: int
    ours: int
    others: int


CASES = (
    Case("mnist", "784-500-10", 1, 40, 10),
    Case("mnist", "784-500-10", 128, 5, 4),
    Case("lenet", "LeNet", 1, 20, 4),
    Case("lenet", "LeNet", 32, 5, 1),
)


def measure(root: Path, cache: Path, pixels: mnist.Pixels, turns: int, say: Callable[[str], None]) -> PeerResults:
    """Measure all cases. `root` is for moiety's data, `cache` for the other engines' environments.

    Raises DeploymentError when an engine cannot be installed, does not start, or ends.
    """
    pythons = {environment.name: python_of(environment, cache, say) for environment in (CRYPTEN, SPU)}
    load, date = os.getloadavg()[0], datetime.now(UTC).strftime("%-d %B %Y")
    folder = root / "run"
    folder.mkdir()
    with ExitStack() as started:
        deployment = started.enter_context(Deployment(root / "roles"))
        for network in dict.fromkeys(case.network for case in CASES):
            deployment.publish(network)
        client = started.enter_context(deployment.client(timeout=120))
        others = {}
        for number, engine in enumerate(ENGINES):
            say(f"starting {engine.name}")
            python = pythons[engine.environment.name]
            others[engine.name] = started.enter_context(running(engine, python, folder / f"{number}.log"))
        measured = [_Measured(case, deployment, client, others, folder, pixels) for case in CASES]
        for turn in range(turns):
            for one in measured:
                say(f"turn {turn + 1} of {turns}: {one.turn()}")
    return PeerResults(
        date=date,
        processor=processor.described(),
        load=load,
        versions={
            OURS: _this_version(),
            **versions(pythons[CRYPTEN.name], "crypten", "torch"),
            **versions(pythons[SPU.name], "spu", "jax"),
        },
        cases=[CaseResult(network=one.case.shown, batch=one.case.batch, engines=one.results()) for one in measured],
    )


class _Measured:
    """One case, shared with every engine and run once by each."""

    def __init__(
        self,
        case: Case,
        deployment: Deployment,
        client: Client,
        others: dict[str, Running],
        folder: Path,
        pixels: mnist.Pixels,
    ) -> None:
        self.case, self._deployment, self._client, self._others = case, deployment, client, others
        self._images = pixels[: case.batch]
        self._path = (folder / f"{case.network}-{case.batch}.npz").absolute()
        NetworkTask.write(self._path, case.network, _inputs(case.network, self._images), _weights(case.network))
        expected = torch_forward(case.network)(self._images).argmax(axis=1)
        self._upload = client.model(case.network).upload_id
        deployment.wait_full(self._upload)
        answer = client.predict(case.network, self._images)
        right = int((np.asarray(answer.labels) == expected).sum())
        self._told = {OURS: (right, 2 * answer.online_bytes, answer.rounds)}
        for name, other in others.items():
            told = other.prepare(self._path)
            right = int((np.asarray(told["labels"]) == expected).sum())
            self._told[name] = (right, told["bytes"], told["rounds"])
        self._taken: dict[str, list[float]] = {name: [] for name in self._told}
        self._processors: dict[str, list[float]] = {name: [] for name in self._told}

    def turn(self) -> str:
        """Run the case through all engines. Returns what to say of it."""
        self._deployment.wait_full(self._upload)
        time.sleep(0.2)
        pids = [os.getpid(), *(process.pid for process in self._deployment.processes.values())]
        with self._processor(OURS, pids, self.case.ours):
            taken = {OURS: [timed(self._call) for _ in range(self.case.ours + 1)][1:]}  # the first finds cold caches
            self._deployment.wait_full(self._upload)  # what was used up is dealt and prepared anew
        for name, other in self._others.items():
            with self._processor(name, other.pids(), self.case.others):
                taken[name] = other.measure(self._path, self.case.others)
        for name, seconds in taken.items():
            self._taken[name] += seconds
        medians = ", ".join(f"{name} {statistics.median(seconds) * 1e3:,.1f} ms" for name, seconds in taken.items())
        return f"{self.case.shown}, {self.case.batch}: {medians}"

    @contextmanager
    def _processor(self, name: str, pids: list[int], runs: int) -> Iterator[None]:
        """Count the processor seconds of processes in the block, in which there is one run more than are told."""
        before = _processor_seconds(pids)
        yield
        self._processors[name].append((_processor_seconds(pids) - before) / (runs + 1))

    def results(self) -> dict[str, EngineResult]:
        """What all turns gave, by engine."""
        return {
            name: EngineResult.of(self._taken[name], statistics.median(self._processors[name]), *told)
            for name, told in self._told.items()
        }

    def _call(self) -> None:
        self._client.predict(self.case.network, self._images)


def _processor_seconds(pids: list[int]) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def _inputs(network: str, images: mnist.Pixels) -> Floats:
    """The images as the network takes them, (n, 784) or (n, 1, 28, 28)."""
    flat = (images.astype(np.float32) / np.float32(255) - mnist.MEAN) / mnist.STD
    return flat[:, None] if network == "lenet" else flat.reshape(len(flat), -1)


def _weights(network: str) -> list[Floats]:
    """Each layer's weight and bias, in the layers' order."""
    from safetensors.numpy import load_file

    found = load_file(str(mnist.model_folder() / f"{network}.safetensors"))
    return [found[name] for name in sorted(found, key=lambda name: (int(name.split(".")[0]), name.endswith("bias")))]


def _this_version() -> str:
    """The version, and the commit where the source tells."""
    told = version("moiety")
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return f"{told}+g{done.stdout.strip()}" if done.returncode == 0 else told
