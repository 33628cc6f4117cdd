"""What a client remembers about catalogues, so that nobody can show it an older entry than one that it has seen.

The client remembers in memory, or in the file that MOIETY_CLIENT_STATE names. Several processes may share that file.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from moiety_client.errors import StateFileError
from moiety_shared.plan.layers import Public


class Seen(Public):
    """What a client has seen so far: the owners that it trusts, and the newest revision of each model's entry."""

    format: Literal[1] = 1
    owners: dict[str, str] = Field(
        default_factory=dict, description="the key that was trusted first, by the catalogue's address"
    )
    revisions: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="the highest revision, by the owner's key and the model's name"
    )


class StateFile:
    """What one client remembers, in a file if it has one. A change is on the disk when `changing` ends."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = Seen()
        self._changing = threading.Lock()

    @contextmanager
    def changing(self) -> Iterator[Seen]:
        """Give what was seen to a `with` block, which may change it. No other thread or process changes it meanwhile.

        If the block raises, nothing changes. Raises StateFileError if the file cannot be used.
        """
        with self._changing:
            if self._path is None:
                seen = self._seen.model_copy(deep=True)
                yield seen
                self._seen = seen
                return
            with _locked(self._path):
                before = _read(self._path)
                seen = before.model_copy(deep=True)
                yield seen
                if seen != before:
                    _write(self._path, seen)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes out of the file during a `with` block. On Windows this locks nothing."""
    with ExitStack() as opened:
        with _usable(path):
            file = opened.enter_context(open(os.open(_beside(path, "lock"), os.O_RDWR | os.O_CREAT, 0o600), "r+b"))
            if os.name == "posix":
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> Seen:
    try:
        with _usable(path):
            return Seen.model_validate_json(path.read_bytes()) if path.exists() else Seen()
    except ValidationError:
        raise StateFileError(
            f"{path} is not a file that a client keeps its state in: name another file in MOIETY_CLIENT_STATE"
        ) from None


def _write(path: Path, seen: Seen) -> None:
    """Replace the file as a whole, with mode 0600: only its owner may read it."""
    partial = _beside(path, "partial")
    with _usable(path):
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(seen.model_dump(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateFileError(
            f"{path} cannot be used ({error.strerror}): name another file in MOIETY_CLIENT_STATE"
        ) from None
