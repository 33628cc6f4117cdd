"""A real PostgreSQL for the tests, and the databases that they use of it."""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import URL

PASSWORD = "a-password-that-nobody-may-read-4711"
_USER = "postgres"
_START_SECONDS = 60.0


@dataclass(frozen=True)
class Postgres:
    """A server that listens on a Unix socket in `folder` and nowhere else."""

    programs: Path
    folder: Path

    def url(self, name: str) -> URL:
        query = {"host": str(self.folder)}
        return URL.create("postgresql+psycopg", _USER, PASSWORD, database=name, query=query)

    def text(self, name: str) -> str:
        """The URL as an operator writes it, password and all."""
        return self.url(name).set(drivername="postgresql").render_as_string(hide_password=False)

    def create(self, encoding: str = "UTF8") -> str:
        """A new, empty database."""
        name = f"moiety_{secrets.token_hex(6)}"
        self.run("createdb", name, "--encoding", encoding, "--template", "template0", "--locale", "C")
        return name

    def run(self, program: str, *arguments: str, **options: object) -> None:
        """One of PostgreSQL's own commands."""
        environment = {**os.environ, "PGHOST": str(self.folder), "PGUSER": _USER, "PGPASSWORD": PASSWORD}
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, env=environment, check=True, capture_output=True, **options)  # type: ignore[call-overload]


def programs() -> Path | None:
    """Where PostgreSQL's programs are: Debian keeps the server's out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    where = programs()
    if where is None:
        if os.environ.get("CI"):
            pytest.fail("no PostgreSQL here: run make postgres")
        pytest.skip("no PostgreSQL here: run make postgres")
    folder = Path(tempfile.mkdtemp(prefix="moiety-postgres-"))  # its path is short, and open to the server's user
    identity: dict[str, object] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        user = pwd.getpwnam(_USER)
        os.chown(folder, user.pw_uid, user.pw_gid)
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    data = folder / "data"
    secret = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
    subprocess.run(
        [where / "initdb", "-D", data, "-U", _USER, "--no-sync", "--encoding=UTF8", *secret],
        check=True,
        capture_output=True,
        cwd=folder,
        **identity,  # type: ignore[call-overload]
    )
    settings = {"listen_addresses": "", "unix_socket_directories": str(folder), "fsync": "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [where / "postgres", "-D", data, *options],
            stdout=log,
            stderr=log,
            cwd=folder,
            **identity,  # type: ignore[call-overload]
        )
    try:
        made = Postgres(where, folder)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                made.run("psql", "-c", "select 1", "postgres")
                break
            assert server.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield made
    finally:
        server.send_signal(signal.SIGINT)  # now, whoever is still connected
        server.wait()
        shutil.rmtree(folder)
