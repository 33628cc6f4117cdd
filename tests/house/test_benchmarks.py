"""`python -m benchmarks`: what it is told, and how two trees are compared. What is measured is measured by hand."""

import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import __main__, comparison
from benchmarks.comparison import Tree, ratios
from benchmarks.measurement import Row
from moiety_local.folder import DeploymentError


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
    (tmp_path / "tree" / "benchmarks" / "__main__.py").write_text(MEASURES)
    tree = Tree("v1", tmp_path / "tree", tmp_path / "packages")
    for _ in range(2):
        assert tree.rows("mnist", tmp_path, 1.0, tmp_path / "run") == {"--suite mnist": 4.5}
    (tmp_path / "run").mkdir()
    with pytest.raises(DeploymentError, match=r"the benchmarks of v1 failed:\n(.|\n)*FileExistsError"):
        tree.rows("mnist", tmp_path, 1.0, tmp_path / "run")


def test_a_commit_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match=r"git archive failed: .*no-such-commit"):
        comparison.install("no-such-commit", tmp_path)


def test_a_suite_that_is_not_there_is_said() -> None:
    app = typer.Typer()
    app.command()(__main__.bench)
    done = CliRunner().invoke(app, ["--suite", "nothing"])
    assert done.exit_code == 2 and "hostile" in done.stderr
