"""SPU: `python -m benchmarks.peers.spu_parties semi2k|cached|aby3`, in an environment of its own.

`semi2k` is two parties and a trusted first one that deals, `cached` the same with masks of the weights kept from run
to run, `aby3` three parties. This process is who owns the model and the inputs: it compiles, shares and reconstructs.
"""

import os
import re
import socket
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.conductor import Floats, NetworkTask, Parties, serve, walls

_PROTOCOLS = {"semi2k": ("SEMI2K", 2), "cached": ("SEMI2K", 2), "aby3": ("ABY3", 3)}
_TOLD = re.compile(r"Link details: total send bytes (\d+), recv bytes \d+, send actions (\d+)")


def configuration(protocol: str, *, profile: bool = False) -> Any:
    """A runtime's configuration: the ring of 64 bits, all else as it comes."""
    from spu import libspu

    made = libspu.RuntimeConfig(protocol=getattr(libspu.ProtocolKind, protocol), field=libspu.FieldType.FM64)
    made.enable_pphlo_profile = profile
    return made


def party(rank: int, connection: Connection) -> None:
    """Run one party: it keeps shares and programs, and runs these, as it is told."""
    log, protocol, ports = connection.recv()
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(descriptor, 1)  # the runtime tells there what it sent
    os.dup2(descriptor, 2)
    os.chdir(Path(log).parent)  # it keeps masks in files where it is
    import spu
    from spu import libspu

    described = libspu.link.Desc()
    for index, port in enumerate(ports):
        described.add_party(f"party{index}", f"127.0.0.1:{port}")
    link = libspu.link.create_brpc(described, rank)
    runtimes = [spu.Runtime(link, configuration(protocol, profile=profile)) for profile in (False, True)]
    connection.send(("", None))
    programs: dict[str, Any] = {}
    while True:
        path, times, program, shares = connection.recv()
        if program:
            programs[path] = libspu.Executable()
            programs[path].ParseFromString(program)
            for runtime in runtimes:
                for name, share in shares:
                    runtime.set_var(name, share)
        spans = []
        for _ in range(times):
            link.barrier()
            started = time.perf_counter()
            runtimes[0].run(programs[path])
            spans.append((started, time.perf_counter()))
        if program:
            link.barrier()
            runtimes[1].run(programs[path])
            connection.send(("", runtimes[0].get_var(f"{path}/outputs")))
        else:
            connection.send(("", spans[1:]))


def forward(layers: tuple[str, ...], cached: bool, inputs: Any, *weights: Any) -> Any:
    """A network in JAX. Matrices come as (in, out)."""
    import jax
    from jax import lax
    from spu.experimental import make_cached_var

    left = [make_cached_var(weight) if cached and weight.ndim > 1 else weight for weight in weights]
    x = inputs
    for kind in layers:
        if kind == "linear":
            x = x @ left.pop(0) + left.pop(0)
        elif kind == "conv":
            names = ("NCHW", "OIHW", "NCHW")
            x = lax.conv_general_dilated(x, left.pop(0), (1, 1), "VALID", dimension_numbers=names)
            x = x + left.pop(0)[None, :, None, None]
        elif kind == "pool":
            x = lax.reduce_window(x, -np.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        else:
            x = jax.nn.relu(x) if kind == "relu" else x.reshape(len(x), -1)
    return x


class SPU:
    """Two or three processes that speak brpc over loopback."""

    def __init__(self, kind: str, folder: Path) -> None:
        import spu

        self._protocol, count = _PROTOCOLS[kind]
        self._cached = kind == "cached"
        self._logs = [folder / str(rank) for rank in range(count)]
        self._io = spu.Io(count, configuration(self._protocol))
        with ExitStack() as held:
            free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in self._logs]
            ports = [one.getsockname()[1] for one in free]
        self._parties = Parties(party, count)
        self._parties.ask(*((str(log), self._protocol, ports) for log in self._logs))

    def prepare(self, path: str) -> dict[str, Any]:
        """Share the weights and inputs of a task, and run it once, with all that is sent counted."""
        from spu import libspu
        from spu.utils import frontend

        task = NetworkTask.read(path)
        arrays: list[Floats] = [task.inputs, *(w.T if w.ndim == 2 else w for w in task.weights)]
        names = [f"{path}/{index}" for index in range(len(arrays))]
        secret = libspu.Visibility.VIS_SECRET
        network = partial(forward, task.layers, self._cached)
        program, _ = frontend.compile(
            frontend.Kind.JAX, network, arrays, {}, names, [secret] * len(arrays), lambda _: [f"{path}/outputs"]
        )
        shares = [self._io.make_shares(np.ascontiguousarray(array), secret) for array in arrays]
        before = [log.stat().st_size for log in self._logs]
        answers = self._parties.ask(
            *(
                (path, 2, program.SerializeToString(), [(n, s[rank]) for n, s in zip(names, shares, strict=True)])
                for rank in range(len(self._logs))
            )
        )
        outputs = self._io.reconstruct(answers)
        told = [_TOLD.findall(log.read_text()[at:]) for log, at in zip(self._logs, before, strict=True)]
        return {
            "labels": outputs.argmax(axis=1).tolist(),
            "bytes": sum(int(found[-1][0]) for found in told),
            "rounds": max(int(found[-1][1]) for found in told),
        }

    def measure(self, path: str, times: int) -> list[float]:
        """Run a prepared task that often, and once before."""
        return walls(self._parties.ask(*[(path, times + 1, b"", ())] * len(self._logs)))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as logs:
        serve(lambda: SPU(sys.argv[1], Path(logs)))
