"""`--against REF`: runs one suite of two trees of this repository in turn, and shows ratios with their spread.

REF is installed into a folder of its own and uses the packages that are installed here; nothing else is fetched for it.
A tree that has no folder benchmarks/ yet runs its command `moiety bench`.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.memory import watched
from moiety_local.folder import DeploymentError

_HERE = Path(__file__).parent.parent
_OLD = "import sys; from moiety_shared.service.cli import main; sys.argv[0] = 'moiety'; main()"


@dataclass(frozen=True)
class Tree:
    """A tree: its source, and the folder in which its packages are installed."""

    name: str
    source: Path
    packages: Path

    def rows(self, suite: str, data: Path, seconds: float, root: Path) -> dict[str, float]:
        """Run a suite once in `root`, which is gone afterwards: a release clears away only what it made itself.

        Returns each row's value, and the peak memory of each role as it is seen from outside. Raises DeploymentError
        when the run fails.
        """
        new = (self.source / "benchmarks").is_dir()
        start = ["-m", "benchmarks"] if new else ["-c", _OLD, "bench"]
        options = ["--suite", suite, "--data", str(data.resolve()), "--seconds", f"{seconds:g}", "--json"]
        with watched() as peaks:
            done = subprocess.run(
                [sys.executable, *start, *options, "--root", str(root.resolve())],
                cwd=self.source,
                env=os.environ | {"PYTHONPATH": str(self.packages)},
                capture_output=True,
                text=True,
                check=False,
            )
        shutil.rmtree(root, ignore_errors=True)
        if done.returncode != 0:
            raise DeploymentError(f"the benchmarks of {self.name} failed:\n{done.stderr[-2000:]}")
        rows = {str(row["what"]): float(row["value"]) for row in json.loads(done.stdout)["rows"]}
        return rows | {f"peak memory of {role} in the whole run, MB": peaks[role] for role in sorted(peaks)}


def compare(
    ref: str, suite: str, data: Path, seconds: float, runs: int, root: Path, console: Console, as_json: bool
) -> None:
    """Run both `runs` times in turn, and show each row's medians, their ratio, and the least and largest ratio."""
    trees = [install(name, root) for name in (ref, "")]
    rows: list[list[dict[str, float]]] = [[], []]
    for turn in range(runs):
        for side in (0, 1) if turn % 2 == 0 else (1, 0):
            console.print(f"[dim]run {turn + 1} of {runs}: {trees[side].name}[/]")
            rows[side].append(trees[side].rows(suite, data, seconds, root / "run"))
    found = ratios(*rows)
    table = Table("what", ref, "here", "here / " + ref, "spread", title=f"{suite}, {runs} runs in turn, medians")
    for what, (before, now, ratio, least, largest) in found.items():
        table.add_row(what, f"{before:g}", f"{now:g}", f"{ratio:.3f}", f"{least:.2f} to {largest:.2f}")
    console.print(table)
    if as_json:
        print(json.dumps({"against": ref, "rows": {what: list(values) for what, values in found.items()}}))


def ratios(
    before: list[dict[str, float]], now: list[dict[str, float]]
) -> dict[str, tuple[float, float, float, float, float]]:
    """For each row of both trees: both medians, their ratio, and the least and largest ratio of runs in one turn."""
    found = {}
    for what in before[0]:
        if what not in now[0]:
            continue
        old, new = [run[what] for run in before], [run[what] for run in now]
        each = [_ratio(b, a) for a, b in zip(old, new, strict=True)]
        medians = statistics.median(old), statistics.median(new)
        found[what] = (*medians, _ratio(medians[1], medians[0]), min(each), max(each))
    return found


def _ratio(value: float, of: float) -> float:
    return value / of if of else float(value == of)


def install(ref: str, root: Path) -> Tree:
    """Install the tree of a commit below `root`; an empty `ref` means the tree that is here.

    Raises DeploymentError when there is no such commit, or when its tree cannot be built.
    """
    source, packages = root / "trees" / (ref or "here"), root / "packages" / (ref or "here")
    for folder in (source, packages):
        folder.mkdir(parents=True)
    archive = ["git", "archive", ref] if ref else ["git", "archive", _run("git", "stash", "create") or "HEAD"]
    with tarfile.open(fileobj=BytesIO(_bytes(*archive))) as tar:
        tar.extractall(source, filter="data")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")
    _run(*pip, "--disable-pip-version-check", "--target", str(packages.resolve()), str(source.resolve()))
    return Tree(ref or "this tree", source, packages.resolve())


def _run(*command: str) -> str:
    return _bytes(*command).decode().strip()


def _bytes(*command: str) -> bytes:
    done = subprocess.run(command, cwd=_HERE, capture_output=True, check=False)
    if done.returncode != 0:
        raise DeploymentError(f"{' '.join(command[:2])} failed: {done.stderr.decode()[-1000:]}")
    return done.stdout
