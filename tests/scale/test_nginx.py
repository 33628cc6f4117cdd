"""Plain replicas behind nginx, by the file of ops/scale: real processes, two of each party, one PostgreSQL."""

import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from moiety_client.errors import CheatingDetected
from moiety_local.deployment import COMMANDS
from moiety_local.site import clean_environment, moiety
from moiety_service.http.ports import reserved
from tests.databases import Postgres
from tests.scale.replicated import REPLICAS, Replicated, predict_all

CONFIGURATION = Path(__file__).parents[2] / "ops" / "scale" / "nginx.conf"
_PORTS = {"alice": 7701, "bob": 7702}


@dataclass
class BehindNginx(Replicated):
    """Replicas are `alice-1`, `alice-2` and so on."""

    replica_ports: dict[str, int] = field(default_factory=dict, init=False)

    def start_role(self, role: str) -> None:
        if role not in _PORTS:
            super().start_role(role)
            return
        for number in range(1, REPLICAS + 1):
            name, folder = f"{role}-{number}", self.folder(role, number)
            folder.mkdir(mode=0o700)
            port = self.replica_ports[name] = self._held.enter_context(reserved())
            own = {"MOIETY_PARTY_PORT": str(port), "MOIETY_PARTY_DATA_DIR": str(folder)}
            self._run(name, moiety(*COMMANDS[role]), clean_environment() | self.settings(role) | own)
        if role == "alice":  # the last of them
            file = self.root / "nginx.conf"
            file.write_text(self.configuration())
            self._run("nginx", ["nginx", "-e", "stderr", "-g", "daemon off;", "-c", str(file)], clean_environment())

    def configuration(self) -> str:
        """The file, with this machine's ports in place of the containers' names."""
        text = CONFIGURATION.read_text()
        for name, port in self.replica_ports.items():
            role = name.partition("-")[0]
            text = text.replace(f"server {name}:{_PORTS[role]}", f"server 127.0.0.1:{port}")
        for role, port in _PORTS.items():
            text = text.replace(f"listen {port}", f"listen 127.0.0.1:{self.ports[role]}")
        assert not re.search(r"-\d:", text), "a replica that this test does not know"
        return text.replace("/run/nginx.pid", str(self.root / "nginx.pid"))

    def wait(self, role: str, path: str = "/health/live") -> None:
        if role not in _PORTS:
            super().wait(role, path)
            return
        front, process = self.ports[role], self.processes.get(role)
        for number in range(1, REPLICAS + 1):
            name = f"{role}-{number}"
            self.ports[role], self.processes[role] = self.replica_ports[name], self.processes[name]
            super().wait(role, path)
        self.ports[role] = front
        del self.processes[role]
        assert process is None

    def bundles(self, number: int, upload_id: str) -> int:
        """Rows that a replica of bob has fetched from the provider."""
        front = self.ports["bob"]
        self.ports["bob"] = self.replica_ports[f"bob-{number}"]
        try:
            return int(str(self.party_state("bob", upload_id)["bundle_rows"]))
        finally:
            self.ports["bob"] = front

    def _run(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        with (self.root / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


@pytest.fixture
def nginx() -> None:
    if not shutil.which("nginx"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no nginx here: run make nginx")


@pytest.mark.long
@pytest.mark.usefixtures("nginx")
def test_two_replicas_of_each_party_and_one_of_each_is_killed(
    tmp_path: Path, postgres: Postgres, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    with BehindNginx(tmp_path, postgres=postgres) as running:
        running.publish()
        with running.client() as client:
            upload_id = client.model("mnist").upload_id

        used: list[int] = []

        def kill_bob() -> None:
            used.extend(running.bundles(number, upload_id) for number in (1, 2))
            running.stop_role("bob-1", signal.SIGKILL)

        def kill_alice() -> None:
            used.extend(running.served(number) for number in (1, 2))
            running.stop_role("alice-2", signal.SIGKILL)

        predict_all(running, digits[0], {60: kill_bob, 120: kill_alice})
        assert len(used) == 4 and all(used), "all four replicas served"


@pytest.mark.long
@pytest.mark.usefixtures("nginx")
def test_a_verified_model_at_two_replicas_of_each_party(
    tmp_path: Path, postgres: Postgres, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    """Its runs take turns, and every client is answered. Then one of alice's replicas is killed in the middle of them:
    past its coins that ends the model until it has another key, and before them the other goes on."""
    with BehindNginx(tmp_path, postgres=postgres) as running:
        running.publish("mnist", "--name", "mnist", "--verified")
        predict_all(running, digits[0], {})
        assert all(running.served(number) for number in (1, 2)), "both of alice's replicas served"
        try:
            predict_all(running, digits[0], {60: lambda: running.stop_role("alice-2", signal.SIGKILL)})
        except CheatingDetected:
            running.run("rekey", "mnist")
        predict_all(running, digits[0], {})
