"""The folders of deployments on this machine. One run at a time uses a folder, and deletes only what a run made."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moiety_client.journal import lock
from moiety_service import processes

_IN_USE, _MARKER = "in-use", ".made-by-moiety"
MADE = (
    "roles", "shares.png",  # demo
    "near", "bare", "seen", "quiet", "far", "large",  # benchmarks
    "calibration.safetensors", "calibration.npy", "resnet18.safetensors",  # benchmarks of networks that they make
    "models", "clients",  # the benchmarks of tables and of load
    "trees", "packages", "run",  # benchmarks --against
)  # fmt: skip
"""What `moiety demo` and the benchmarks make in their folder. They never delete anything else in it."""


class DeploymentError(RuntimeError):
    """A process did not start, a command failed, or a folder cannot be used. The text says what to do."""


@contextmanager
def claimed(root: Path) -> Iterator[int]:
    """Claim a folder, which is made when it is missing. Yields a descriptor, by which child processes share the claim.

    The claim ends with the block, or with the last process that has the descriptor, however that process ends. Raises
    DeploymentError when another process has the folder, and names that process.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = root / _IN_USE
    with path.open("ab") as file:
        try:
            lock(file)
        except BlockingIOError:
            file.close()
            who = processes.of_file(path)
            raise DeploymentError(
                f"{root} is in use{f' by {who}' if who else ''}: stop that run first, or choose another folder with "
                "--root"
            ) from None
        yield file.fileno()


@contextmanager
def fresh(root: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Claim a folder for a run whose data need not last. Deletes what an earlier run made there, and tells `say`.

    Raises DeploymentError, and deletes nothing, when the folder holds anything else, or another run uses it.
    """
    try:
        ours = {_MARKER, _IN_USE, *MADE} if (root / _MARKER).is_file() else set()
        others = sorted(path.name for path in root.iterdir() if path.name not in ours) if root.exists() else []
    except NotADirectoryError:
        raise DeploymentError(f"{root} is not a folder: choose one with --root") from None
    if others:
        more = f" and {len(others) - 1} more" if others[1:] else ""
        raise DeploymentError(
            f"{root} holds {others[0]}{more}, which no earlier run of this release made, so the command deleted "
            "nothing: choose an empty folder with --root, or empty this one yourself"
        )
    with claimed(root):
        (root / _MARKER).write_text(
            "moiety demo and its benchmarks delete here what they made: " + ", ".join(MADE) + ".\n"
        )
        left = [root / name for name in MADE if (root / name).exists() or (root / name).is_symlink()]
        if left:
            say(f"deleting what an earlier run left in {root}: {', '.join(path.name for path in left)}")
        for path in left:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        yield root
