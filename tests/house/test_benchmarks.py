"""`python -m benchmarks`: what it is told, and how two trees are compared. What is measured is measured by hand."""

import json
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import numpy as np
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import __main__, comparison, hostile, memory
from benchmarks.comparison import Tree, ratios
from benchmarks.measurement import Row
from moiety_client.client import Client
from moiety_client.core import no_answer
from moiety_client.errors import from_problem
from moiety_local.deployment import COMMANDS
from moiety_local.folder import DeploymentError
from moiety_local.site import moiety
from moiety_shared.problems import Problem, ProblemType


def test_a_row_says_whether_it_holds() -> None:
    assert Row.at_most("x", 2.00001, 2).holds is False and Row.at_most("x", 2, 2).holds
    assert Row.at_least("x", 1.99, 2).holds is False and Row.at_least("x", 2, 2).holds


def test_rows_of_two_trees_are_compared_by_their_medians_and_turns() -> None:
    before = [{"one": 10.0, "gone": 1.0}, {"one": 30.0}, {"one": 20.0}]
    now = [{"one": 20.0, "new": 1.0}, {"one": 15.0}, {"one": 10.0}]
    assert ratios(before, now) == {"one": (20.0, 15.0, 0.75, 0.5, 2.0)}
    assert ratios([{"none": 0.0}], [{"none": 0.0}]) == {"none": (0.0, 0.0, 1.0, 1.0, 1.0)}


def test_both_trees_are_measured_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def rows(tree: Tree, *_: object) -> dict[str, float]:
        asked.append(tree.name)
        return {"one image": {"v1": 4.0, "here": 3.0}[tree.name]}

    monkeypatch.setattr(Tree, "rows", rows)
    monkeypatch.setattr(comparison, "install", lambda ref, _: Tree(ref or "here", tmp_path, tmp_path))
    comparison.compare("v1", "mnist", tmp_path, 1.0, 3, tmp_path, Console(stderr=True), as_json=True)
    assert asked == ["v1", "here", "here", "v1", "v1", "here"]
    told = capsys.readouterr()
    assert json.loads(told.out) == {"against": "v1", "rows": {"one image": [4.0, 3.0, 0.75, 0.75, 0.75]}}
    assert "0.750" in told.err and "0.75 to 0.75" in told.err


MEASURES = """
import json, pathlib, sys
root = pathlib.Path(sys.argv[sys.argv.index("--root") + 1])
root.mkdir()  # fails where an earlier run left something
(root / "near").mkdir()
print(json.dumps({"rows": [{"what": " ".join(sys.argv[1:3]), "value": 4.5, "asked": 5, "holds": True}]}))
"""


def test_a_trees_run_leaves_nothing_to_the_next_ones(tmp_path: Path) -> None:
    (tmp_path / "tree" / "benchmarks").mkdir(parents=True)
    (tmp_path / "tree" / "benchmarks" / "__init__.py").touch()
    (tmp_path / "tree" / "benchmarks" / "__main__.py").write_text(MEASURES)
    tree = Tree("v1", tmp_path / "tree", tmp_path / "packages")
    for _ in range(2):
        assert tree.rows("mnist", tmp_path, 1.0, tmp_path / "run") == {"--suite mnist": 4.5}
    (tmp_path / "run").mkdir()
    with pytest.raises(DeploymentError, match=r"the benchmarks of v1 failed:\n(.|\n)*FileExistsError"):
        tree.rows("mnist", tmp_path, 1.0, tmp_path / "run")


TAKES_200_MB = """
import sys
taken = bytearray(200_000_000)
taken[:: 1024] = b"x" * len(taken[:: 1024])  # so that its pages are there
del taken
sys.stdin.read()
"""


def test_a_role_is_watched_by_its_command_whatever_its_tree_reports(tmp_path: Path) -> None:
    """In a process of its own: this one may have started the roles of a deployment, for other tests."""
    with ProcessPoolExecutor(1, get_context("spawn")) as own:
        peaks = own.submit(_watched, tmp_path).result(timeout=120)
    assert set(peaks) == {"bob"} and 200 < peaks["bob"] < 300


def _watched(tmp_path: Path) -> dict[str, float]:
    (tmp_path / "moiety_service" / "cli").mkdir(parents=True)
    for name in ("moiety_service/__init__.py", "moiety_service/cli/__init__.py"):
        (tmp_path / name).touch()
    (tmp_path / "moiety_service" / "cli" / "main.py").write_text(TAKES_200_MB)
    with memory.watched() as peaks:
        role = subprocess.Popen(moiety(*COMMANDS["bob"]), cwd=tmp_path, stdin=subprocess.PIPE)
        other = subprocess.Popen(moiety("publish"), cwd=tmp_path, stdin=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while peaks.get("bob", 0) < 200 and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in (role, other):
            process.communicate()
    return peaks


def test_a_commit_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"git archive failed: .*no-such-commit"):
        comparison.install("no-such-commit", tmp_path)


def test_a_suite_that_is_not_there_is_said() -> None:
    app = typer.Typer()
    app.command()(__main__.bench)
    done = CliRunner().invoke(app, ["--suite", "nothing"])
    assert done.exit_code == 2 and "hostile" in done.stderr


def overloaded(*_: object) -> None:
    raise from_problem(Problem(ProblemType.OVERLOADED))


def silent(*_: object) -> None:
    """What the SDK makes of a connection on which nothing comes."""
    try:
        with no_answer():
            raise httpx.ReadTimeout("", request=httpx.Request("POST", "http://alice"))
    except Problem as problem:
        raise from_problem(problem) from None


@pytest.mark.parametrize(("answer", "counted"), [(overloaded, (1, 0)), (silent, (0, 1))])
def test_a_request_without_an_answer_is_lost_and_one_refused_for_now_is_not(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[..., None], counted: tuple[int, int]
) -> None:
    monkeypatch.setattr(hostile, "time", SimpleNamespace(monotonic=iter([0.0, 2.0]).__next__))  # for one request
    report, client = hostile.Report(), SimpleNamespace(predict=answer)
    hostile._predict(cast(Client, client), np.zeros((9, 28, 28), dtype=np.uint8), 1.0, report)
    assert (report.refused, report.lost) == counted and report.good == 1
