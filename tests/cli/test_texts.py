"""Texts on the command line: as they are, or lines of a .txt file; ids as a .npy file; and what is no file."""

import json
from pathlib import Path

import numpy as np
import pytest

from moiety_service.cli.terminal import Exit
from tests import plans
from tests.cli.conftest import Run
from tests.client.sdk.conftest import Paid
from tests.client.tokens import elements, serve

LABELS: list[int] = plans.scores(elements((1, 3), (2, 0), (3, 0))).argmax(axis=1).tolist()


@pytest.fixture
def of_texts(served: Paid) -> Paid:
    serve(served)
    return served


def test_texts_lines_and_ids_have_an_answer_each(run: Run, of_texts: Paid, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("bad\n\nfilm\n")
    np.save(tmp_path / "ids.npy", np.array([[1, 3]]))
    done = run("predict", "small", "good film", tmp_path / "lines.txt", tmp_path / "ids.npy", "--json")
    assert done.exit_code == Exit.OK, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    places = [(row.get("text"), Path(row.get("file", "")).name, row.get("row")) for row in rows]
    assert places == [
        ("good film", "", None),
        (None, "lines.txt", 0),
        (None, "lines.txt", 1),
        (None, "ids.npy", 0),
    ]
    assert [row["class"] for row in rows] == [*LABELS, LABELS[0]]
    shown = run("predict", "small", "good film").stdout
    assert "text" in shown and "good film" in shown


def test_labels_are_a_file(run: Run, of_texts: Paid, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("good film\nbad\nfilm\n")
    (tmp_path / "labels.txt").write_text("\n".join(map(str, LABELS)))
    done = run("evaluate", "small", tmp_path / "lines.txt", "--labels", tmp_path / "labels.txt", "--json")
    assert done.exit_code == Exit.OK, done.stderr
    assert json.loads(done.stdout)["correct"] == 3
    done = run("evaluate", "small", tmp_path / "lines.txt")
    assert done.exit_code == Exit.USAGE and "--labels" in done.stderr


def test_what_is_no_file_is_a_text_for_a_model_of_texts_alone(run: Run, served: Paid) -> None:
    done = run("predict", "small", "good film")
    assert done.exit_code == Exit.USAGE and "good film does not exist" in done.stderr
    serve(served)
    done = run("predict", "small", "good film", "reviews.txt")
    assert done.exit_code == Exit.USAGE and "reviews.txt does not exist" in done.stderr
    done = run("predict", "small", "good " * 300)
    assert done.exit_code == Exit.USAGE and "row 0 has more than 2 ids" in done.stderr
    assert not served.asked


def test_the_catalogue_says_what_it_takes(run: Run, of_texts: Paid) -> None:
    assert "texts of 2 tokens" in run("models").stdout
    assert "texts, or ids of tokens below 5, 2 at most" in run("models", "small").stdout
