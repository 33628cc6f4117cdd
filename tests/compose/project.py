"""One docker-compose project of its own, and what is asked of its containers."""

import base64
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
PARTIES = ("alice", "bob")
SERVICES = ("crypto_provider", "bob", "alice", "server", "client")
ONE_SHOTS = ("keys", "access", "owner")
_DIGITS = ROOT / "client" / "moiety_client" / "sidecar" / "web" / "digits"


@dataclass
class Project:
    """`docker-compose` under a name and a port that nobody else uses, with the files `ops/OVERLAY/compose.yml`."""

    name: str = field(default_factory=lambda: f"moietytest{secrets.token_hex(4)}")
    port: int = field(default_factory=free_port)
    overlays: tuple[str, ...] = ()

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _run(self, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
        command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        if self.overlays:
            files = ("docker-compose.yml", *(f"ops/{name}/compose.yml" for name in self.overlays))
            command += [part for file in files for part in ("--file", file)]
        environment = os.environ | {"COMPOSE_PROJECT_NAME": self.name, "MOIETY_PORT": str(self.port)}
        return subprocess.run(
            [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds
        )

    def compose(self, *arguments: str, check: bool = True, seconds: float = 900) -> str:
        """What it printed. The timeout is a safety net."""
        done = self._run(*arguments, seconds=seconds)
        assert done.returncode == 0 or not check, f"{arguments}: {done.stderr[-3000:]}"
        return done.stdout

    def once(self, service: str, program: str, *options: str) -> subprocess.CompletedProcess[str]:
        """A Python program in a container of its own, just as that service has it."""
        run = ("run", "--rm", "--no-deps", "-T", *options, "--entrypoint", "/venv/bin/python", service, "-c", program)
        return self._run(*run, seconds=300)

    def container(self, service: str) -> str:
        """Its id, running or not."""
        labels = (f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}")
        filters = [part for label in labels for part in ("--filter", f"label={label}")]
        return docker("ps", "-aq", *filters, "--filter", "label=com.docker.compose.oneoff=False").split()[0]

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    @contextmanager
    def taken_down(self) -> Iterator[Self]:
        """When the block ends. What its containers said is printed if it fails."""
        try:
            yield self
        except BaseException:
            print(self.compose("ps", check=False), self.compose("logs", "--tail=40", check=False))
            raise
        finally:
            self.compose("down", "--volumes", "--timeout", "15", check=False)

    def python(self, service: str, program: str) -> Any:
        """What a program prints as JSON, run inside of the running container."""
        return json.loads(docker("exec", self.container(service), "/venv/bin/python", "-c", program))

    def wait_healthy(self, service: str) -> None:
        wait_for(lambda: self.inspect(service)["State"].get("Health", {}).get("Status") == "healthy", service)


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)[:200]}: {done.stderr[-2000:]}"
    return done.stdout


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def ask(project: Project, digit: int) -> httpx.Response:
    """One private prediction, by the sidecar's REST interface."""
    picture = base64.b64encode((_DIGITS / f"{digit}.png").read_bytes()).decode()
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [picture]}
    body = {"inputs": [tensor], "outputs": [{"name": "label"}]}
    return httpx.post(f"{project.page}/v2/models/mnist/infer", json=body, timeout=60)


def label(answer: httpx.Response) -> int:
    assert answer.is_success, answer.text
    return int(answer.json()["outputs"][0]["data"][0])


def still_serves(project: Project) -> None:
    """Sooner or later, and without a wrong answer."""

    def served() -> bool:
        try:
            answer = ask(project, 3)
        except httpx.TransportError:
            return False
        if answer.status_code == 503:
            return False
        return label(answer) == 3

    wait_for(served, "no prediction is answered")
