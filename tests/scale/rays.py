"""A Ray cluster of several nodes on one machine, as `ray start` and `serve run` make it."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import ray
import yaml

from tests.ports import free_port

SCALE = Path(__file__).parents[2] / "ops" / "scale"
_SECONDS = 180.0
_TRIES = 3  # of a node: Ray gives its agents 15 seconds to start, which on busy cores they may not have
_BIN = Path(sys.executable).parent
_STARTED = "Ray runtime started"
_REPLICA = "ServeReplica"
_SPARING = {
    "num-cpus": "4",
    "memory": str(1 << 30),
    "object-store-memory": str(80 << 20),
    "include-log-monitor": "false",
}
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # The one proxy would send everything to the replica beside it.
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
}


@dataclass
class Cluster:
    """Of one role. `environment` is that of every node, and of whoever deploys to it."""

    log: Path
    environment: Mapping[str, str]
    port: int = field(default_factory=free_port)
    address: str = field(init=False)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False)
    # Ray's sockets need short paths.
    temporary: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="moiety-ray-")), init=False)

    def __post_init__(self) -> None:
        """Its processes encrypt what they say to each other, and let nobody in who has not the token."""
        here, folder = ray.util.get_node_ip_address(), self.temporary / "tls"
        subprocess.run([SCALE / "ray-tls.sh", folder, here], check=True, capture_output=True)
        (folder / "token").write_text(secrets.token_hex(32))
        self.address = f"{here}:{self.port}"
        self.environment = {
            **self.environment,
            "RAY_USE_TLS": "1",
            "RAY_TLS_CA_CERT": str(folder / "ca.pem"),
            "RAY_TLS_SERVER_CERT": str(folder / f"{here}.pem"),
            "RAY_TLS_SERVER_KEY": str(folder / f"{here}.key"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "OPENSSL_CONF": str(SCALE / "openssl.cnf"),
        }

    def add_node(self, own: Mapping[str, str]) -> None:
        """The first is the head. `own` are variables of this node alone."""
        kind = [f"--address={self.address}"]
        if not self.nodes:
            kind = ["--head", f"--port={self.port}", f"--temp-dir={self.temporary}", "--include-dashboard=false"]
            kind += ["--no-monitor", f"--ray-client-server-port={free_port()}"]
        ports = {f"{name}-port": "0" for name in ("node-manager", "object-manager", "min-worker", "max-worker")}
        agents = ("dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "metrics-export")
        for _ in range(_TRIES):
            ports |= {f"{name}-port": str(free_port()) for name in agents}
            options = (f"--{name}={value}" for name, value in (_SPARING | ports).items())
            before = self.log.stat().st_size if self.log.exists() else 0
            node = self._start("ray", "start", "--block", *kind, *options, own=own)
            self.nodes.append(node)
            deadline = time.monotonic() + _SECONDS
            while node.poll() is None and _STARTED not in self.log.read_text()[before:]:
                assert time.monotonic() < deadline, self.log.read_text()[-3000:]
                time.sleep(0.1)
            if node.poll() is None:
                return
            self.nodes.remove(node)
        raise AssertionError(self.log.read_text()[-3000:])

    def deploy(self, config: Mapping[str, Any]) -> None:
        """As the operator does, without Ray's dashboard."""
        file = self.log.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(dict(config)))
        done = self._start("serve", "run", "--non-blocking", f"--address={self.address}", str(file))
        assert done.wait(_SECONDS) == 0, self.log.read_text()[-3000:]

    def wait(self, answers: Callable[[], bool], replicas: int) -> None:
        """Until all replicas are there and the proxy answers."""
        deadline = time.monotonic() + _SECONDS
        while len(self.replicas()) < replicas or not answers():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.2)

    def replicas(self) -> list[psutil.Process]:
        """The processes of Serve's replicas, on all nodes."""
        found = []
        for node in self.nodes:
            for process in psutil.Process(node.pid).children(recursive=True):
                try:
                    if _REPLICA in " ".join(process.cmdline()):
                        found.append(process)
                except psutil.Error:
                    continue
        return found

    def logged(self, event: str, member: str) -> set[str]:
        """What the replicas' own logs say of a kind of event."""
        lines = self.logs().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{") and f'"event": "{event}"' in line]
        return {str(one[member]) for one in events}

    def logs(self) -> str:
        """All that the workers of all nodes wrote."""
        files = self.temporary.glob("session_*/logs/worker-*.err")
        return "\n".join(file.read_text(errors="replace") for file in files)

    def stop(self) -> None:
        """What this cluster has started, and nothing else of Ray's."""
        running = [psutil.Process(node.pid) for node in self.nodes if node.poll() is None]
        tree = [process for node in running for process in (node, *node.children(recursive=True))]
        for node in running:
            node.terminate()
        _, left = psutil.wait_procs(tree, 10)
        for process in left:
            process.kill()
        for node in self.nodes:
            node.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _start(self, *command: str, own: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(_BIN / command[0]), *command[1:]],
                env={**os.environ, **self.environment, **(own or {}), **_QUIET},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def config(file: str, **http_options: object) -> dict[str, Any]:
    """A file of ops/scale, with what differs where one machine stands for several."""
    read: dict[str, Any] = yaml.safe_load((SCALE / file).read_text())
    read["http_options"] |= http_options
    read["proxy_location"] = "HeadOnly"  # two proxies cannot have one port
    return read
