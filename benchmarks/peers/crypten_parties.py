"""CrypTen, with its third-party provider: `python -m benchmarks.peers.crypten_parties`, in an environment of its own.

Rank 0 owns the model, rank 1 the input, rank 2 is the provider.
"""

import os
import socket
import sys
import time
import types
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.peers.conductor import NetworkTask, Parties, serve, walls

_PROVIDER = 2


def party(rank: int, connection: Connection) -> None:
    """Run one party: it prepares tasks and measures them, as it is told."""
    os.environ |= {"RANK": str(rank)} | connection.recv()
    import torch

    torch.set_num_threads(1)
    _stand_in()
    import crypten
    import crypten.communicator as communicator
    from crypten.config import cfg

    cfg.mpc.provider = "TTP"
    connection.send(("", None))
    if rank == _PROVIDER:
        from crypten.mpc.provider.ttp_provider import TTPServer

        TTPServer()
        return
    crypten.init()
    link = communicator.get()
    prepared: dict[str, Callable[[], Any]] = {}

    def prepare(path: str) -> tuple[list[int], int, int]:
        task = NetworkTask.read(path)
        model = _network(task)
        model.encrypt(src=0)
        model.train(False)
        inputs = crypten.cryptensor(torch.from_numpy(task.inputs), src=1)
        prepared[path] = lambda: model(inputs)
        cfg.communicator.verbose = True
        link.reset_communication_stats()
        outputs = prepared[path]()
        told = link.get_communication_stats()
        cfg.communicator.verbose = False
        return outputs.get_plain_text().argmax(1).tolist(), int(told["bytes"]), int(told["rounds"])

    def measure(path: str, times: int) -> list[tuple[float, float]]:
        spans = []
        for _ in range(times + 1):
            link.barrier()
            started = time.perf_counter()
            prepared[path]()
            spans.append((started, time.perf_counter()))
        return spans[1:]

    with crypten.no_grad():
        while True:
            path, times = connection.recv()
            connection.send(("", measure(path, times) if times else prepare(path)))


def _stand_in() -> None:
    """CrypTen imports a module of torch that is gone, for models that come as ONNX. Here none does."""
    import torch.onnx

    gone = types.ModuleType("torch.onnx.symbolic_registry")
    sys.modules[gone.__name__] = gone
    vars(torch.onnx)["symbolic_registry"] = gone


def _network(task: NetworkTask) -> Any:
    import crypten.nn as layers
    import torch

    left = [torch.nn.Parameter(torch.from_numpy(weight)) for weight in task.weights]
    modules = []
    for kind in task.layers:
        if kind in ("linear", "conv"):
            weight, bias = left.pop(0), left.pop(0)
            outputs, inputs, *sides = weight.shape
            module = layers.Conv2d(inputs, outputs, sides[0]) if sides else layers.Linear(inputs, outputs)
            module._parameters |= {"weight": weight, "bias": bias}
        elif kind == "pool":
            module = layers.MaxPool2d(2, stride=2)
        else:
            module = layers.ReLU() if kind == "relu" else layers.Flatten(axis=1)
        modules.append(module)
    return layers.Sequential(*modules)


class CrypTen:
    """Three processes that speak Gloo over loopback."""

    def __init__(self) -> None:
        self._parties = Parties(party, 3)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environment = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RENDEZVOUS": "env://",
            "DISTRIBUTED_BACKEND": "gloo",
            "GLOO_SOCKET_IFNAME": "lo",
        }
        self._parties.ask(*[environment] * 3)

    def prepare(self, path: str) -> dict[str, Any]:
        """Share the weights and inputs of a task, and run it once.

        The bytes and rounds are those between the two parties, as the second counts what it sends and gets: the first
        counts its requests to the provider as well.
        """
        _, (labels, told, rounds) = self._parties.ask((path, 0), (path, 0))
        return {"labels": labels, "bytes": told, "rounds": rounds}

    def measure(self, path: str, times: int) -> list[float]:
        """Run a prepared task that often, and once before."""
        return walls(self._parties.ask((path, times), (path, times)))


if __name__ == "__main__":
    serve(CrypTen)
