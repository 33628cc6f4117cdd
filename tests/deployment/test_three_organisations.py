"""Three organisations, step by step as docs/deployment.md says: its blocks and tables of files are carried out.

Each organisation is a folder that holds what the page gives it, and a shell that knows what the page exports there.
One machine stands for five: every host name of the page is an address of loopback of its own, so certificates are for
that address and no other; ports are the page's.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from docs.tools.reference import DOCS

HOSTS = {
    "owner.example": "127.0.77.1",
    "alice.example": "127.0.77.2",
    "bob.example": "127.0.77.3",
    "dealer.example": "127.0.77.4",
}
SERVICES = {"moiety server", "moiety party alice", "moiety party bob", "moiety provider"}
_, _, _AFTER = (DOCS / "deployment.md").read_text().partition("\n## Three organisations, step by step\n")
_PAGE, _, _ = _AFTER.partition("\n## ")
_STEP = re.compile(r"^```sh\n# at (.+)\n((?:.+\n)+)```$|^\| `(.+)` \| (.+) \| (.+) \|$", re.MULTILINE)
_SECONDS = 60


@dataclass
class Organisation:
    """One folder, one shell, one service at most."""

    folder: Path
    exports: list[str] = field(default_factory=list)
    service: subprocess.Popen[bytes] | None = None

    def do(self, block: str) -> str:
        """Carry out a block; what goes on until it is told to stop is started, and left running once it answers."""
        lines = block.splitlines()
        self.exports += [line for line in lines if line.startswith("export ")]
        (serving,) = [line for line in lines if line in SERVICES] or [""]
        commands = [line for line in lines if line not in SERVICES and not line.startswith("export ")]
        said = self._run(commands) if commands else ""
        if serving:
            self._serve(serving)
        return said

    def _shell(self, commands: list[str]) -> list[str]:
        return ["bash", "-euc", "\n".join([*self.exports, *commands])]

    def _environment(self) -> dict[str, str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("MOIETY_")}
        return given | {"PATH": f"{Path(sys.executable).parent}:{given['PATH']}", "HOME": str(self.folder)}

    def _run(self, commands: list[str]) -> str:
        done = subprocess.run(
            self._shell(commands), cwd=self.folder, env=self._environment(), capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self, command: str) -> None:
        log = self.folder / "log"
        with log.open("wb") as output:
            self.service = subprocess.Popen(
                self._shell([f"exec {command}"]),
                cwd=self.folder,
                env=self._environment(),
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + _SECONDS
        while not any(one.status == "LISTEN" for one in self._connections()):
            assert self.service.poll() is None and time.monotonic() < deadline, f"{command}\n{log.read_text()}"
            time.sleep(0.1)

    def _connections(self) -> list[Any]:
        assert self.service is not None
        return psutil.Process(self.service.pid).net_connections("tcp")

    def calls(self) -> set[int]:
        """The ports of services to which its service has opened connections that last."""
        own = {one.laddr.port for one in self._connections() if one.status == "LISTEN"}
        return {one.raddr.port for one in self._connections() if one.raddr and one.laddr.port not in own}

    def stop(self) -> None:
        if self.service is not None:
            self.service.send_signal(signal.SIGTERM)
            self.service.wait(_SECONDS)


@dataclass
class Told:
    organisations: dict[str, Organisation]
    said: dict[str, str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """Everything on the page, from the first block to the last. What each organisation's last block printed is kept."""
    names = dict.fromkeys(found[1] for found in _STEP.finditer(_PAGE) if found[1])
    root = tmp_path_factory.mktemp("organisations")
    made = Told({name: Organisation(root / name.replace(" ", "-")) for name in names})
    for one in made.organisations.values():
        one.folder.mkdir(mode=0o700)
    digit = DOCS.parent / "client/moiety_client/sidecar/web/digits/7.png"
    shutil.copy(digit, made.organisations["the client"].folder / "7.png")
    page = _PAGE
    for host, address in HOSTS.items():
        page = page.replace(host, address)
    try:
        for at, block, file, source, target in (found.groups() for found in _STEP.finditer(page)):
            if at:
                made.said[at] = made.organisations[at].do(block)
            elif source in names and target in names:  # a file that one hands to another
                shutil.copy(made.organisations[source].folder / file, made.organisations[target].folder)
        yield made
    finally:
        for one in made.organisations.values():
            one.stop()


@pytest.mark.long
def test_the_client_gets_its_label(told: Told) -> None:
    assert list(told.organisations) == ["the owner", "A", "B", "C", "the client"]
    assert re.search(r"7\.png +7\s*$", told.said["the client"]), told.said


@pytest.mark.long
def test_nobody_holds_what_the_page_does_not_give_them(told: Told) -> None:
    def secrets(name: str) -> set[str]:
        return {path.name for path in (told.organisations[name].folder / "keys").iterdir()}

    assert [secrets(name) for name in "ABC"] == [{"alice"}, {"bob"}, {"crypto_provider"}]
    assert secrets("the owner") == {"ca", "server"}, "and the page says to take the former offline"
    held = {path.name for path in told.organisations["the client"].folder.iterdir()}
    assert {"7.png", "clinic-7.json", "clinic-7.pem", "clinic-7.pub"} <= held and "keys" not in held


@pytest.mark.long
def test_connections_are_those_that_the_page_opens_in_firewalls(told: Told) -> None:
    opened: dict[str, set[int]] = {name: set() for name in told.organisations}
    for source, port in re.findall(r"^\| (.+?) \| .+? \| (77\d\d) \| .+ \|$", _PAGE, re.MULTILINE):
        opened[source].add(int(port))
    assert sum(map(len, opened.values())) == 7
    calls = {name: one.calls() for name, one in told.organisations.items() if one.service}
    assert 7702 in calls["A"], "alice keeps her lanes to bob"
    for name, ports in calls.items():
        assert ports <= opened[name], name


def test_every_variable_on_the_page_is_a_setting() -> None:
    listed = (DOCS / "settings.md").read_text()
    named = set(re.findall(r"export (MOIETY_\w+)=", _PAGE))
    assert len(named) >= 15
    assert not [name for name in named if f"`{name}`" not in listed]
