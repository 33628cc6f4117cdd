"""Tables on the command line: a .csv file of rows, a column of labels, and what is said of what does not fit."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moiety_service.cli.terminal import Exit
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.tabular import encode_ring
from tests import plans
from tests.cli.conftest import HOW, Run
from tests.client.sdk.conftest import Paid

TABLE = Tabular(
    columns=(
        Column(name="age", kind="number", low=18, high=120, unit="years"),
        Column(name="job", kind="category", categories=("clerk", "nurse"), missing="flag"),
    )
)
CSV = "job,age\nnurse,44\n,71\nclerk,18\n"


@pytest.fixture
def of_table(served: Paid) -> Paid:
    entry = served.entries[0]
    takes = entry.plan.input.model_copy(update={"low": -1.0, "high": 1.0})
    plan = entry.plan.model_copy(update={"input": takes})
    served.entries = [entry.model_copy(update={"plan": plan, "preprocessing": TABLE})]
    return served


def labels() -> list[int]:
    columns = {"age": np.array([44, 71, 18]), "job": np.array(["nurse", None, "clerk"], dtype=object)}
    return plans.scores(encode_ring(TABLE, columns, frac_bits=4, ring_bits=32)).argmax(axis=1).tolist()  # type: ignore[no-any-return]


def test_rows_of_a_file_have_an_answer_each(run: Run, of_table: Paid, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(CSV)
    done = run("predict", "small", tmp_path / "rows.csv", "--json", "--batch", 2)
    assert done.exit_code == Exit.OK, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["row"], row["class"]) for row in rows] == list(enumerate(labels()))
    assert [request.rows for request in of_table.asked] == [2, 1]
    shown = run("predict", "small", tmp_path / "rows.csv").stdout
    assert f"{tmp_path / 'rows.csv'}[2]" in shown


def test_labels_are_a_column(run: Run, of_table: Paid, tmp_path: Path) -> None:
    truth = [of_table.entries[0].classes[at] for at in labels()]
    lines = [f"{line},{text}" for line, text in zip(CSV.splitlines(), ["truth", *truth], strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(lines))
    done = run("evaluate", "small", tmp_path / "rows.csv", "--target", "truth", "--json")
    assert done.exit_code == Exit.OK, done.stderr
    assert {"correct": 3, "total": 3}.items() <= json.loads(done.stdout).items()
    both = ("evaluate", "small", tmp_path / "rows.csv", tmp_path / "rows.csv", "--target", "truth", "--json")
    assert json.loads(run(*both).stdout)["correct"] == 6
    done = run("evaluate", "small", tmp_path / "rows.csv", "--target", "trut")
    assert done.exit_code == Exit.USAGE and "is it 'truth'?" in done.stderr
    done = run("evaluate", "small", tmp_path / "rows.csv")
    assert done.exit_code == Exit.USAGE and "--target" in done.stderr


def test_columns_may_be_ignored(run: Run, of_table: Paid, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,job,age\n1,nurse,44\n")
    done = run("predict", "small", tmp_path / "rows.csv")
    assert done.exit_code == Exit.USAGE and "takes no columns id" in done.stderr
    assert run("predict", "small", tmp_path / "rows.csv", "--columns", "ignore").exit_code == Exit.OK
    assert run("predict", "small", tmp_path / "rows.csv", "--columns", "any").exit_code == Exit.USAGE


def test_a_terminal_alone_shows_the_value(
    run: Run, of_table: Paid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("job,age\nnurse,44\nnurse,7.25\n")
    done = run("predict", "small", tmp_path / "rows.csv")
    assert done.exit_code == Exit.USAGE and "row 1, column 'age' is below the range 18 to 120 years" in done.stderr
    assert "7.25" not in done.stderr and not of_table.asked
    monkeypatch.setattr("moiety_client.cli.requests._is_terminal", lambda: True)
    done = run("predict", "small", tmp_path / "rows.csv")
    assert "(it is '7.25', 10.75 out of the range)" in done.stderr


def test_inverted_pictures_are_said(run: Run, served: Paid, tmp_path: Path) -> None:
    how = HOW.model_copy(update={"polarity": "light-on-dark"})
    served.entries = [served.entries[0].model_copy(update={"preprocessing": how})]
    Image.fromarray(np.full((2, 2), 250, np.uint8)).save(tmp_path / "a.png")
    done = run("predict", "small", tmp_path / "a.png", "--json")
    assert done.exit_code == Exit.OK and "1 picture is dark on light and the model takes light on dark" in done.stderr
    assert "UserWarning" not in done.stderr and json.loads(done.stdout)["file"] == str(tmp_path / "a.png")
