"""Where a local deployment keeps everything: its folder, its ports, its keys, each role's settings."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from moiety_client.client import AsyncClient, Client
from moiety_local.folder import DeploymentError
from moiety_service.http import clients
from moiety_service.http.ports import LOOPBACK

ROLES = ("crypto_provider", "bob", "alice", "server", "client")
_SETTINGS_PREFIX = {
    "crypto_provider": "PROVIDER",
    "bob": "PARTY",
    "alice": "PARTY",
    "server": "SERVER",
    "client": "CLIENT",
}


@dataclass
class Site:
    """A deployment under `root`, and the `moiety` commands that its owner runs there.

    `ports` and `metrics_ports` are the ports of each role and of its metrics, on loopback. `extra` (role -> settings)
    overrides the defaults. `transport` is "plain" only to measure the cost of TLS.
    """

    root: Path
    ports: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    metrics_ports: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    extra: dict[str, dict[str, str]] = field(default_factory=dict)
    transport: str = "tls"

    def url(self, role: str) -> str:
        """The URL of a role. The sidecar serves this machine's own programs, over plain HTTP."""
        scheme = "https" if self.transport == "tls" and role != "client" else "http"
        return f"{scheme}://{LOOPBACK}:{self.ports[role]}"

    def metrics_url(self, role: str) -> str:
        """The URL of a role's metrics, which only this machine can reach."""
        return f"http://{LOOPBACK}:{self.metrics_ports[role]}"

    @property
    def _keys(self) -> Path:
        return self.root / "keys"

    @property
    def ca(self) -> Path:
        """The CA to trust when calling a role."""
        return self._keys / "ca" / "ca.pem"

    @property
    def access_file(self) -> Path:
        """The access file of a client of this deployment. The first use makes it, for all models and ten years."""
        path = self.root / "access.json"
        if not path.exists():
            self.run("token", "issue", "local", "--days", "3650", "--out", str(path))
        return path

    def settings(self, role: str) -> dict[str, str]:
        """A role's settings as environment variables. Its secrets are in its own folder."""
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

    def write_environment(self) -> Path:
        """Write the owner's settings to a file of mode 0600 that a shell can read. Returns its path."""
        path = self.root / "owner.env"
        lines = [f"export {name}={json.dumps(value)}" for name, value in self.settings("server").items()]
        lines.append(f"export MOIETY_CLIENT_ACCESS_FILE={json.dumps(str(self.access_file))}")
        lines.append(f"export MOIETY_CLIENT_PORT={self.ports['client']}")
        lines.append(f"export MOIETY_CLIENT_STATUS_METRICS={','.join(map(self.metrics_url, ROLES))}")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        return path

    def client(self, *, timeout: float = 30.0) -> Client:
        """A client of the models published so far, with the access file that admits it."""
        return Client.from_access(self.access_file, timeout=timeout)

    def async_client(self, *, timeout: float = 30.0) -> AsyncClient:
        """An asynchronous client of the models published so far."""
        return AsyncClient.from_access(self.access_file, timeout=timeout)

    def http(self, role: str, *, credential_of: str = "", timeout: float = 10.0) -> httpx.Client:
        """An HTTP client of a role, with the credential that the role `credential_of` presents to it, if any."""
        credential = (self._keys / credential_of / "present" / role).read_text() if credential_of else ""
        return clients.client(self.url(role), credential=credential, timeout=timeout, ca=self.ca)

    def publish(self, *arguments: str, quiet: bool = True) -> str:
        """Run `moiety publish` as the owner; returns the owner's public key."""
        return self.run("publish", *arguments, quiet=quiet).split()[-1]

    def run(self, *command: str, quiet: bool = True) -> str:
        """Run a `moiety` command as the owner; returns what it printed. Raises DeploymentError when it fails."""
        done = subprocess.run(
            moiety(*command),
            env=clean_environment() | self.settings("server"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if quiet else None,
            check=False,
            text=True,
        )
        if done.returncode != 0:
            raise DeploymentError(f"moiety {command[0]} failed: {done.stderr or ''}")
        return done.stdout

    def party_state(self, role: str, upload_id: str) -> dict[str, object]:
        """A party's report on an upload: rows ready, bytes received."""
        with self.http(role, credential_of="server") as client:
            state: dict[str, object] = clients.check(client.get(f"/v1/models/{upload_id}")).json()
            return state

    def wait_full(self, upload_id: str, seconds: float = 120.0) -> None:
        """Wait until both parties' pools for an upload are full. Raises DeploymentError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not all(self.party_state(role, upload_id)["pool_full"] for role in ("alice", "bob")):
            if time.monotonic() > deadline:
                raise DeploymentError("the pools do not fill: see the parties' logs")
            time.sleep(0.05)


def moiety(*arguments: str) -> list[str]:
    """The command line of `moiety` with these arguments, run by this process's Python."""
    return [sys.executable, "-m", "moiety_service.cli.main", *arguments]


def clean_environment() -> dict[str, str]:
    """The environment of this process, without the settings of any role."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MOIETY_")}
