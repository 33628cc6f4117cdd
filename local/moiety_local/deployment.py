"""Five processes, started, watched and stopped together. Roles are run by their own commands, never imported."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from moiety_client.client import AsyncClient, Client
from moiety_local.folder import DeploymentError, claimed
from moiety_service.http import clients
from moiety_service.http.ports import LOOPBACK, reserved
from moiety_service.security import keys
from moiety_service.startup import StartRefused

ROLES = ("crypto_provider", "bob", "alice", "server", "client")
_COMMANDS = {
    "crypto_provider": ["provider"],
    "bob": ["party", "bob"],
    "alice": ["party", "alice"],
    "server": ["server"],
    "client": ["sidecar"],
}
_PACKAGES = {
    "crypto_provider": "moiety_crypto_provider",
    "bob": "moiety_party",
    "alice": "moiety_party",
    "server": "moiety_server",
    "client": "moiety_client",
}
_SETTINGS_PREFIX = {
    "crypto_provider": "PROVIDER",
    "bob": "PARTY",
    "alice": "PARTY",
    "server": "SERVER",
    "client": "CLIENT",
}
_START_SECONDS = 60.0
_STOP_SECONDS = 12.0


@dataclass
class Deployment:
    """One local deployment under `root`, which is its own until `stop`. `extra` (role -> settings) overrides the
    defaults; of the roles, `roles` are started, in this order.

    `ports`, and `metrics_ports` for each role's metrics, are reserved from the start: 0 becomes one that is free.
    `environment` is what all processes get besides their settings. `transport` is "plain" only to measure what TLS
    costs. Raises DeploymentError when the folder or a port is not to be had.
    """

    root: Path
    ports: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    metrics_ports: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    extra: dict[str, dict[str, str]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    transport: str = "tls"
    roles: tuple[str, ...] = ROLES
    _held: ExitStack = field(default_factory=ExitStack, init=False, repr=False)  # the folder and the ports

    def __post_init__(self) -> None:
        """Keys are made at the first start under a root."""
        for role in self.roles:
            if importlib.util.find_spec(_PACKAGES[role]) is None:
                raise DeploymentError(f"{role} is not installed here: pip install 'moiety[all]' brings all roles")
        with ExitStack() as held:
            self._claim = held.enter_context(claimed(self.root))
            try:
                for ports in (self.ports, self.metrics_ports):
                    for role, port in ports.items():
                        ports[role] = held.enter_context(reserved(port, "choose others with --base-port"))
                if not self._keys.exists():
                    keys.init(self._keys, {})
            except StartRefused as refused:
                raise DeploymentError(str(refused)) from None
            self._held = held.pop_all()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, role: str) -> str:
        """Where a role is. The sidecar is for this machine's own programs and speaks plain HTTP."""
        scheme = "https" if self.transport == "tls" and role != "client" else "http"
        return f"{scheme}://{LOOPBACK}:{self.ports[role]}"

    def metrics_url(self, role: str) -> str:
        """Where a role's metrics are, for this machine alone."""
        return f"http://{LOOPBACK}:{self.metrics_ports[role]}"

    @property
    def _keys(self) -> Path:
        return self.root / "keys"

    @property
    def ca(self) -> Path:
        """Whom to trust when calling a role."""
        return self._keys / "ca" / "ca.pem"

    @property
    def access_file(self) -> Path:
        """What a client of this deployment needs: made at the first asking, for all models and ten years."""
        path = self.root / "access.json"
        if not path.exists():
            self.run("token", "issue", "local", "--days", "3650", "--out", str(path))
        return path

    def settings(self, role: str) -> dict[str, str]:
        """The role's own settings, by environment variable; secrets are in its own folder."""
        provider, bob = self.url("crypto_provider"), self.url("bob")
        own: dict[str, dict[str, str]] = {
            "crypto_provider": {},
            "alice": {"PROVIDER_URL": provider, "PEER_URL": bob.replace("http", "ws", 1)},
            "bob": {"PROVIDER_URL": provider},
            "server": {"ALICE_URL": self.url("alice"), "BOB_URL": bob, "URL": self.url("server")},
        }
        values = {
            "PORT": str(self.ports[role]),
            "DATA_DIR": str(self.root / role),
            "METRICS_PORT": str(self.metrics_ports[role]),
        }
        if role == "client":
            values["ACCESS_FILE"] = str(self.access_file)
        else:
            values |= {"KEYS_DIR": str(self._keys), "TRANSPORT": self.transport, **own[role]}
        values |= self.extra.get(role, {})
        return {f"MOIETY_{_SETTINGS_PREFIX[role]}_{name}": value for name, value in values.items()}

    def start(self, on_ready: Callable[[str], None] = lambda _: None) -> None:
        """Start all roles and wait until each answers. Raises DeploymentError when one does not."""
        try:
            for role in self.roles:
                self.start_role(role)
            for role in self.roles:
                self.wait(role)
                on_ready(role)
        except BaseException:
            self.stop()
            raise

    def start_role(self, role: str) -> None:
        folder = self.root / role
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (folder / "log").open("ab") as log:
            self.processes[role] = subprocess.Popen(
                _moiety(*_COMMANDS[role]),
                env=_environment() | self.environment | self.settings(role),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on
                pass_fds=(self._claim,),  # the folder is in use while one of them lives, whatever becomes of us
            )
        _give_cores(role, self.processes[role].pid)

    def wait(self, role: str, path: str = "/health/live") -> None:
        """Until the role answers at `path`."""
        deadline = time.monotonic() + _START_SECONDS
        with self.http(role, timeout=2) as client:
            while True:
                if self.processes[role].poll() is not None:
                    raise DeploymentError(f"{role} ended at its start{self._last_words(role)}")
                try:
                    if client.get(path).is_success:
                        return
                except httpx.HTTPError:
                    pass
                if time.monotonic() > deadline:
                    raise DeploymentError(f"{role} does not answer{self._last_words(role)}")
                time.sleep(0.05)

    def check(self) -> None:
        """Raises DeploymentError when a role has ended by itself."""
        for role, process in self.processes.items():
            if process.poll() is not None:
                raise DeploymentError(f"{role} ended by itself{self._last_words(role)}")

    def _last_words(self, role: str) -> str:
        """What a role said last that was meant for people, and where the rest is."""
        log = self.root / role / "log"
        said = [line for line in log.read_text(errors="replace").splitlines() if line and not line.startswith("{")]
        return f"; it said: {said[-1]}; its log is {log}" if said else f"; its log is {log}"

    def stop(self) -> None:
        """SIGTERM to all, and SIGKILL to what is still there after its grace. Folder and ports are let go of."""
        for role in list(self.processes):
            self.processes[role].send_signal(signal.SIGTERM)
        for role in list(self.processes):
            self.stop_role(role)
        self._held.close()

    def stop_role(self, role: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(role)
        process.send_signal(how)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def client(self, *, timeout: float = 30.0) -> Client:
        """A client of the models published so far, with all that it needs to be let in."""
        return Client.from_access(self.access_file, timeout=timeout)

    def async_client(self, *, timeout: float = 30.0) -> AsyncClient:
        """The same, asynchronous."""
        return AsyncClient.from_access(self.access_file, timeout=timeout)

    def http(self, role: str, *, credential_of: str = "", timeout: float = 10.0) -> httpx.Client:
        """A plain HTTP client of a role, under the credential that another role presents to it."""
        credential = (self._keys / credential_of / "present" / role).read_text() if credential_of else ""
        return clients.client(self.url(role), credential=credential, timeout=timeout, ca=self.ca)

    def publish(self, *arguments: str, quiet: bool = True) -> str:
        """Run `moiety publish` as the owner; returns the owner's public key."""
        return self.run("publish", *arguments, quiet=quiet).split()[-1]

    def run(self, *command: str, quiet: bool = True) -> str:
        """Run a `moiety` command as the owner; returns what it printed. Raises DeploymentError when it fails."""
        done = subprocess.run(
            _moiety(*command),
            env=_environment() | self.settings("server"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            check=False,
            text=True,
        )
        if done.returncode != 0:
            raise DeploymentError(f"moiety {command[0]} failed: {done.stderr or ''}")
        return done.stdout

    def party_state(self, role: str, upload_id: str) -> dict[str, object]:
        """What a party says of an upload: rows ready, bytes received."""
        with self.http(role, credential_of="server") as client:
            state: dict[str, object] = clients.check(client.get(f"/v1/models/{upload_id}")).json()
            return state

    def wait_full(self, upload_id: str, seconds: float = 120.0) -> None:
        """Until both parties' pools for an upload are full."""
        deadline = time.monotonic() + seconds
        while not all(self.party_state(role, upload_id)["pool_full"] for role in ("alice", "bob")):
            if time.monotonic() > deadline:
                raise DeploymentError("the pools do not fill; see the parties' logs")
            time.sleep(0.05)

    def write_environment(self) -> Path:
        """The owner's settings as a file for a shell to read, mode 0600."""
        path = self.root / "owner.env"
        lines = [f"export {name}={json.dumps(value)}" for name, value in self.settings("server").items()]
        lines.append(f"export MOIETY_CLIENT_ACCESS_FILE={json.dumps(str(self.access_file))}")
        lines.append(f"export MOIETY_CLIENT_PORT={self.ports['client']}")
        lines.append(f"export MOIETY_CLIENT_STATUS_METRICS={','.join(map(self.metrics_url, ROLES))}")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        return path


def _give_cores(role: str, pid: int) -> None:
    """alice and bob compute at the same time: each gets half of the cores for itself.

    Left to the scheduler they are often woken on one core; measured on two, the first batches after a pause took 23 ms
    instead of 17.
    """
    parties = ("alice", "bob")
    if role in parties and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= len(parties):
            os.sched_setaffinity(pid, cores[parties.index(role) :: len(parties)])


def _moiety(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "moiety_service.cli.main", *arguments]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MOIETY_")}
