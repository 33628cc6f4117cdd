"""Where everything of a local deployment is: its folder, its ports, its keys, each role's settings."""

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
    """A deployment under `root`, and what its owner does there by `moiety` commands.

    `ports`, and `metrics_ports` for each role's metrics, are those of this machine alone. `extra` (role -> settings)
    overrides the defaults. `transport` is "plain" only to measure what TLS costs.
    """

    root: Path
    ports: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    metrics_ports: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROLES, 0))
    extra: dict[str, dict[str, str]] = field(default_factory=dict)
    transport: str = "tls"

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

    def client(self, *, timeout: float = 30.0) -> Client:
        """A client of the models published so far, with all that it needs to be let in."""
        return Client.from_access(self.access_file, timeout=timeout)

    def async_client(self, *, timeout: float = 30.0) -> AsyncClient:
        """An asynchronous client of the models published so far."""
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


def moiety(*arguments: str) -> list[str]:
    """`moiety` with these arguments, of the Python that runs this."""
    return [sys.executable, "-m", "moiety_service.cli.main", *arguments]


def clean_environment() -> dict[str, str]:
    """This process's, without settings of any role."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MOIETY_")}
