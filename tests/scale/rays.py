"""A Ray cluster of several nodes on one machine, as `ray start` and `serve run` make it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import yaml

from moiety_client.local.deployment import free_port

SCALE = Path(__file__).parents[2] / "ops" / "scale"
_START_SECONDS = 120.0
_STARTED = b"Ray runtime started"
_PATIENCE = {"RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000"}
_BIN = Path(sys.executable).parent


@dataclass
class Cluster:
    """Of one role. `environment` is that of every node, and of whoever deploys to it."""

    log: Path
    environment: dict[str, str]
    temporary: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="mty")))  # sockets need short paths
    port: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{ray.util.get_node_ip_address()}:{self.port}"

    def add_node(self) -> None:
        """The first is the head."""
        head = ["--head", f"--port={self.port}", f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
        options = head if not self.nodes else [f"--address={self.address}"]
        common = {
            "num-cpus": 4,
            "memory": 1 << 30,
            "object-store-memory": 80 << 20,
            "min-worker-port": 0,
            "max-worker-port": 0,
            # Ports that are named need not be waited for: on busy cores Ray's patience ends before its agents start.
            "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "runtime-env-agent-port": free_port(),
            "metrics-export-port": free_port(),
            "temp-dir": self.temporary,
        }
        if self.nodes:
            del common["temp-dir"]
        named = (f"--{name}={value}" for name, value in common.items())
        node = self._start("ray", "start", "--block", *options, *named)
        self.nodes.append(node)
        deadline = time.monotonic() + _START_SECONDS
        while self.log.read_bytes().count(_STARTED) < len(self.nodes):
            assert node.poll() is None and time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.1)

    def deploy(self, config: dict[str, Any]) -> None:
        """As the operator does, without Ray's dashboard."""
        file = self.log.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(config))
        done = self._start("serve", "run", "--non-blocking", f"--address={self.address}", str(file))
        assert done.wait(_START_SECONDS) == 0, self.log.read_text()[-2000:]

    def stop(self) -> None:
        for node in reversed(self.nodes):
            node.send_signal(signal.SIGTERM)
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(node.pid, signal.SIGKILL)
                node.wait()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(_BIN / command[0]), *command[1:]],
                env=self.environment | {"RAY_USAGE_STATS_ENABLED": "0", **_PATIENCE},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def config(name: str, **http_options: object) -> dict[str, Any]:
    """A file of ops/scale, with what differs on one machine that stands for two."""
    read: dict[str, Any] = yaml.safe_load((SCALE / name).read_text())
    read["http_options"] |= http_options
    read["proxy_location"] = "HeadOnly"  # two proxies cannot have one port
    return read
