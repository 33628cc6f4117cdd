"""Finds the process of this machine that has a port or a file. Only Linux tells, in /proc."""

from collections.abc import Collection, Iterator
from pathlib import Path

_PROC = Path("/proc")
_LOCAL, _INODE = 1, 9  # columns of net/tcp


def of_port(port: int) -> str:
    """The process that has a port, as `process 4242 (moiety party bob)`; empty when unknown, as another user's is."""
    return _holder([f"socket:[{inode}]" for inode in _inodes(port)])


def of_file(path: Path) -> str:
    """The process that has a file open, as `process 4242 (moiety party bob)`; empty when unknown."""
    return _holder([str(path.resolve())])


def _holder(opened: Collection[str]) -> str:
    """The process with the lowest number that has one of these open."""
    for process in sorted(_PROC.glob("[0-9]*"), key=lambda path: int(path.name)) if opened else ():
        try:
            if any(str(handle.readlink()) in opened for handle in (process / "fd").iterdir()):
                return f"process {process.name} ({_command(process)})"
        except OSError:  # it ended, or is another user's
            continue
    return ""


def _inodes(port: int) -> Iterator[str]:
    for path in (_PROC / "net/tcp", _PROC / "net/tcp6"):
        for row in path.read_text().splitlines()[1:] if path.exists() else ():
            columns = row.split()
            if int(columns[_LOCAL].rpartition(":")[2], 16) == port and columns[_INODE] != "0":
                yield columns[_INODE]


def _command(process: Path) -> str:
    """moiety's own process by its command; another by its name alone, since its arguments may hold anything."""
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    for at, word in enumerate(words[:-1]):
        if word.rpartition("/")[2] in ("moiety", "moiety_service.cli.main"):
            return " ".join(("moiety", *words[at + 1 : -1]))
    return (process / "comm").read_text().strip()
