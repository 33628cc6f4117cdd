"""Backups as docs/operations.md describes them: its commands, as they stand there, in a shell."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from tests.databases import PASSWORD, Postgres

DOCUMENT = Path(__file__).parents[2] / "docs" / "operations.md"
_FILES = {"alice": "state.sqlite", "bob": "state.sqlite", "provider": "ledger.sqlite"}


def commands(heading: str) -> str:
    """The shell commands below that heading."""
    found = re.search(rf"^### {heading}\n.*?^```sh\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[1]


@dataclass
class Backups:
    """A database for each data folder: a file in it, or one of PostgreSQL's."""

    postgres: Postgres | None
    _names: dict[Path, str] = field(default_factory=dict)

    def url(self, folder: Path) -> SecretStr | None:
        """The setting of the role that lives in the folder."""
        if self.postgres is None:
            return None
        if folder not in self._names:
            self._names[folder] = self.postgres.create()
        return SecretStr(self.postgres.text(self._names[folder]))

    def back_up(self, role: str, folder: Path, backup: Path) -> None:
        """The role may be running."""
        shutil.rmtree(backup, ignore_errors=True)
        self._run("Back up", role, folder, backup)

    def restore(self, role: str, backup: Path, folder: Path) -> None:
        """The role must not be running. What was in the folder, and its database, are gone."""
        shutil.rmtree(folder, ignore_errors=True)
        self._names.pop(folder, None)
        self._run("Restore", role, folder, backup)

    def restore_files(self, backup: Path, folder: Path) -> None:
        """The files alone: the database stays what it is."""
        subprocess.run(["tar", "-C", folder, "-xf", backup / "files.tar"], check=True)

    def _run(self, what: str, role: str, folder: Path, backup: Path) -> None:
        environment = {**os.environ, "DATA": str(folder), "BACKUP": str(backup), "FILE": _FILES[role]}
        kind = "SQLite"
        if self.postgres is not None:
            kind = "PostgreSQL"
            url = self.url(folder)
            assert url is not None
            environment["DATABASE_URL"] = url.get_secret_value().replace(f":{PASSWORD}", "")
            environment |= {"PGPASSWORD": PASSWORD, "PATH": f"{self.postgres.programs}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-euc", commands(f"{what} with {kind}")],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
