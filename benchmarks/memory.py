"""The most memory that processes took, as the system counted it, in megabytes (10^6 bytes)."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from moiety_local.deployment import COMMANDS
from moiety_local.site import moiety

_POLL_SECONDS = 0.1  # what a process takes more in its last moment is not seen


def forget_peak(pid: int) -> float:
    """Reset the peak of a process's memory, where the system can. Returns its resident megabytes."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return peak_megabytes(pid)


def peak_megabytes(pid: int) -> float:
    """The most resident megabytes of a process since then; its present ones where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    return float(psutil.Process(pid).memory_info().rss) / 1e6


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Watch the roles that run below this process, however deep, while the block runs.

    Yields each role's most resident megabytes in any of its processes. A role is told by its command line, so a tree
    that does not report its memory is watched as well as one that does.
    """
    peaks: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_SECONDS):
            for role, megabytes in _roles():
                peaks[role] = max(megabytes, peaks.get(role, 0.0))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _roles() -> Iterator[tuple[str, float]]:
    """Roles below this process, and their peaks. A process that ends meanwhile is left out."""
    roles = {tuple(moiety(*words)[1:]): role for role, words in COMMANDS.items()}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError, StopIteration):
            role = roles.get(tuple(process.cmdline()[1:]))
            if role:
                yield role, peak_megabytes(process.pid)
