"""The other engines as this program sees them: a process in another environment, which answers lines of JSON."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import psutil

from benchmarks.peers.environments import CRYPTEN, SPU, Environment
from moiety_local.folder import DeploymentError
from moiety_local.site import clean_environment

_SOURCE = Path(__file__).parents[2]
_STOP_SECONDS = 20.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1", "JAX_PLATFORMS": "cpu"}


@dataclass(frozen=True)
class Engine:
    """An engine, and how it is run: a module of this package, by the interpreter of its environment."""

    name: str
    environment: Environment
    module: str
    arguments: tuple[str, ...] = ()


ENGINES = (
    Engine("CrypTen", CRYPTEN, "crypten_parties"),
    Engine("SPU semi2k", SPU, "spu_parties", ("semi2k",)),
    Engine("SPU semi2k, kept masks", SPU, "spu_parties", ("cached",)),
    Engine("SPU ABY3", SPU, "spu_parties", ("aby3",)),
)


@dataclass
class Running:
    """An engine that runs. `ask` raises DeploymentError when it cannot answer."""

    engine: Engine
    process: subprocess.Popen[str]
    log: Path

    def prepare(self, path: Path) -> dict[str, Any]:
        """Share a task and run it once. Returns its `labels`, `bytes` and `rounds`."""
        answer: dict[str, Any] = self._ask({"path": str(path)})
        return answer

    def measure(self, path: Path, times: int) -> list[float]:
        """Seconds of as many runs of a prepared task. One run before them is not told."""
        answer: list[float] = self._ask({"path": str(path), "times": times})
        return answer

    def pids(self) -> list[int]:
        """Its processes: who conducts, and the parties."""
        return [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children(recursive=True))]

    def _ask(self, question: object) -> Any:
        with suppress(BrokenPipeError):  # it has ended, and its log says why
            print(json.dumps(question), file=cast(IO[str], self.process.stdin), flush=True)
        return self.answer()

    def answer(self) -> Any:
        """The next line that it says."""
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            said = "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-10:])
            raise DeploymentError(
                f"{self.engine.name} ended. The last that it said (all of it is in {self.log}): {said}\n"
                "If a package is missing or does not fit, delete the folder of its environment and run this again"
            )
        return json.loads(line)


@contextmanager
def running(engine: Engine, python: Path, log: Path) -> Iterator[Running]:
    """Start an engine and wait until its parties have found one another. It writes what else it says into `log`."""
    command = [str(python), "-W", "ignore", "-m", f"benchmarks.peers.{engine.module}", *engine.arguments]
    with log.open("w") as said:
        process = subprocess.Popen(
            command,
            cwd=_SOURCE,
            env=clean_environment() | _ONE_THREAD | {"PYTHONPATH": str(_SOURCE)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    try:
        started = Running(engine, process, log)
        started.answer()
        yield started
    finally:
        cast(IO[str], process.stdin).close()
        try:
            process.wait(_STOP_SECONDS)  # it ends, with its parties, when nobody asks any more
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        cast(IO[str], process.stdout).close()
