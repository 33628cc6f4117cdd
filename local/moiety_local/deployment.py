"""A deployment on this machine. Each role is a process, which its own command starts; no role is imported."""

import importlib.util
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx

from moiety_local.folder import DeploymentError, claimed
from moiety_local.site import ROLES, Site, clean_environment, moiety
from moiety_service.http.ports import reserved
from moiety_service.security import keys
from moiety_service.startup import StartRefused

COMMANDS = {
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
_START_SECONDS = 60.0
_STOP_SECONDS = 12.0


@dataclass
class Deployment(Site):
    """One local deployment under `root`, a folder that no other run may use until `stop`.

    It starts `roles`, in this order. It reserves their ports when it is made, and replaces 0 by a free port. All
    processes get `environment` besides their settings. Raises DeploymentError when the folder or a port cannot be used.
    """

    environment: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, init=False)
    roles: tuple[str, ...] = ROLES
    _held: ExitStack = field(default_factory=ExitStack, init=False, repr=False)  # the folder and the ports

    def __post_init__(self) -> None:
        """Claim the folder and the ports. The first deployment under a root also makes its keys."""
        for role in self.roles:
            if importlib.util.find_spec(_PACKAGES[role]) is None:
                raise DeploymentError(f"{role} is not installed: pip install 'moiety[all]' installs all roles")
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
                moiety(*COMMANDS[role]),
                env=clean_environment() | self.environment | self.settings(role),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches this process alone, which then stops the roles
                pass_fds=(self._claim,),  # keeps the folder claimed while the role lives, even without this process
            )
        _give_cores(role, self.processes[role].pid)

    def wait(self, role: str, path: str = "/health/live") -> None:
        """Wait until the role answers at `path`. Raises DeploymentError when it ends, or takes too long."""
        deadline = time.monotonic() + _START_SECONDS
        with self.http(role, timeout=2) as client:
            while True:
                if self.processes[role].poll() is not None:
                    raise DeploymentError(f"{role} ended while it started{self._last_words(role)}")
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
                raise DeploymentError(f"{role} ended unexpectedly{self._last_words(role)}")

    def _last_words(self, role: str) -> str:
        """The last line for people in a role's log, and where the log is."""
        log = self.root / role / "log"
        said = [line for line in log.read_text(errors="replace").splitlines() if line and not line.startswith("{")]
        return f"; it said: {said[-1]}; its log is {log}" if said else f"; its log is {log}"

    def stop(self) -> None:
        """Send SIGTERM to all roles, and SIGKILL to any that does not end in time. Release folder and ports."""
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


def _give_cores(role: str, pid: int) -> None:
    """Give alice and bob half of the cores each, because they compute at the same time.

    The scheduler alone often wakes both on one core. Measured on two cores, the first batches after a pause then took
    23 ms instead of 17.
    """
    parties = ("alice", "bob")
    if role in parties and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) >= len(parties):
            os.sched_setaffinity(pid, cores[parties.index(role) :: len(parties)])
