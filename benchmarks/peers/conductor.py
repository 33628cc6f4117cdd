"""What runs inside an engine's own environment, whichever engine it is: parties, and who tells them what to do.

The environment has numpy and the engine, and none of moiety's packages: neither has what is imported here.
"""

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Party = Callable[[int, Connection], None]
"""Runs one party, by its rank: it answers each command on the connection until that ends."""

LAYERS = {
    "mnist": ("linear", "relu", "linear"),
    "lenet": ("conv", "pool", "relu", "conv", "pool", "relu", "flatten", "linear", "relu", "linear"),
}
"""The networks' layers in order. Pooling before the ReLU computes the same from a quarter of the comparisons."""


@dataclass(frozen=True)
class NetworkTask:
    """A network with its weights, (out, in) or (out, in, 5, 5) and (out,) in turn, and a batch of its inputs."""

    layers: tuple[str, ...]
    inputs: Floats
    weights: list[Floats]

    @classmethod
    def read(cls, path: str) -> "NetworkTask":
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            weights = [arrays[f"weight{index}"] for index in range(len(arrays) - 2)]
            return cls(LAYERS[str(arrays["model"])], arrays["inputs"], weights)

    @staticmethod
    def write(path: Path, model: str, inputs: Floats, weights: list[Floats]) -> None:
        """Write a task into a file that any environment with numpy reads."""
        numbered = {f"weight{index}": weight for index, weight in enumerate(weights)}
        np.savez(path, model=np.array(model), inputs=inputs, allow_pickle=False, **numbered)


class Conducted(Protocol):
    """An engine that is ready: its parties run and have found one another."""

    def prepare(self, path: str) -> dict[str, Any]:
        """Share the weights and inputs of a task, and run it once.

        Returns `labels` and what the engine tells of `bytes`, sent by all parties together, and of `rounds`.
        """

    def measure(self, path: str, times: int) -> list[float]:
        """Run a prepared task that often, and once before. Returns the seconds of each of the others."""


class Parties:
    """The processes of one engine's parties. They end with this process."""

    def __init__(self, party: Party, count: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._ends = [spawn.Pipe() for _ in range(count)]
        self._processes = [
            spawn.Process(target=_party, args=(party, rank, end), daemon=True)
            for rank, (_, end) in enumerate(self._ends)
        ]
        for process in self._processes:
            process.start()

    def ask(self, *commands: object) -> list[Any]:
        """Send the first parties a command each. Returns their answers, by rank.

        Raises RuntimeError when a party cannot do it, or has ended.
        """
        for (connection, _), command in zip(self._ends, commands, strict=False):
            connection.send(command)
        answers = []
        for (connection, _), process, _ in zip(self._ends, self._processes, commands, strict=False):
            while not connection.poll(0.5):
                if not process.is_alive():
                    raise RuntimeError(f"a party ended with exit code {process.exitcode}")
            problem, answer = connection.recv()
            if problem:
                raise RuntimeError(problem)
            answers.append(answer)
        return answers


def _party(party: Party, rank: int, connection: Connection) -> None:
    try:
        party(rank, connection)
    except EOFError:
        pass  # nobody asks any more
    except BaseException:
        connection.send((traceback.format_exc(), None))
        raise


def walls(spans: list[list[tuple[float, float]]]) -> list[float]:
    """Seconds of each run, from the first party's start to the last one's end. `spans` has a row for each party."""
    return [max(end for _, end in run) - min(start for start, _ in run) for run in zip(*spans, strict=True)]


def serve(start: Callable[[], Conducted]) -> None:
    """Start an engine and do what each line of the standard input asks, until it ends. Answers in lines of JSON.

    The standard output is for these alone: whatever else a library prints goes where errors go.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        engine = start()
        print(json.dumps("ready"), file=out, flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            times = asked.get("times")
            answer = engine.measure(asked["path"], times) if times else engine.prepare(asked["path"])
            print(json.dumps(answer), file=out, flush=True)
