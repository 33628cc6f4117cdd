"""What `moiety predict` and `moiety evaluate` print of a model, by what its outputs are for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety_client.cli.showing import _cells
from moiety_service.cli.terminal import Exit
from moiety_shared.plan.plan import Plan
from tests import plans
from tests.cli.conftest import Run
from tests.client.sdk.conftest import Paid
from tests.client.sidecar import test_several as both

NAMES = ("repaid", "defaulted")
X = plans.random_inputs(6)
SUMS: list[float] = (plans.scores(X).sum(axis=1) / 16.0).tolist()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, X / 16.0)
    return path


def serve(served: Paid, plan: Plan, classes: tuple[str, ...]) -> None:
    """Serve this plan in place of the one that is there."""
    made = Paid(plan, served.keys)
    served.run, served.entry = made.run, made.entry
    served.entries = [made.entry.model_copy(update={"classes": classes})]


LIKELY: list[float] = (1 / (1 + np.exp(-np.array(SUMS)))).tolist()


@pytest.mark.parametrize(
    ("plan", "classes", "told", "columns", "cells"),
    [
        (
            plans.single(task="binary", final="sigmoid"),
            NAMES,
            [
                {"label": NAMES[s > 0], "class": int(s > 0), "probability": p if s > 0 else 1 - p}
                for s, p in zip(SUMS, LIKELY, strict=True)
            ],
            ["file", "label", "probability"],
            [[NAMES[s > 0], f"{p if s > 0 else 1 - p:.3f}"] for s, p in zip(SUMS, LIKELY, strict=True)],
        ),
        (
            plans.single(task="values"),
            (),
            [{"value": s} for s in SUMS],
            ["file", "value"],
            [[f"{s:.6g}"] for s in SUMS],
        ),
        (
            plans.decision(),
            NAMES,
            [{"label": NAMES[s > 0], "class": int(s > 0)} for s in SUMS],
            ["file", "label"],
            [[NAMES[s > 0]] for s in SUMS],
        ),
        (
            plans.logits().model_copy(update={"output": plans.logits().output.model_copy(update={"task": "values"})}),
            (),
            [{"values": (row / 16.0).tolist()} for row in plans.scores(X)],
            ["file", *(word for at in range(1, 6) for word in ("value", str(at)))],
            [[f"{value:.6g}" for value in row / 16.0] for row in plans.scores(X)],
        ),
    ],
    ids=["binary", "value", "decision", "values"],
)
def test_predict_prints_what_the_model_is_for(
    run: Run,
    served: Paid,
    file: Path,
    plan: Plan,
    classes: tuple[str, ...],
    told: list[dict[str, Any]],
    columns: list[str],
    cells: list[list[str]],
) -> None:
    serve(served, plan, classes)
    done = run("predict", "small", file, "--json")
    assert done.exit_code == Exit.OK, done.stderr
    for at, (text, expected) in enumerate(zip(done.stdout.splitlines(), told, strict=True)):
        row = json.loads(text)
        assert (row.pop("file"), row.pop("row")) == (str(file), at)
        assert row.pop("top", None) == ([row["label"]] if "label" in row else None)
        assert row.keys() == expected.keys()
        assert all(
            row[name] == (value if isinstance(value, str) else pytest.approx(value)) for name, value in expected.items()
        )
    lines = [line.split() for line in run("predict", "small", file).stdout.splitlines() if line.strip()]
    assert lines[0] == columns and lines[2:] == [[f"{file}[{at}]", *cell] for at, cell in enumerate(cells)]


def test_evaluate_says_how_far_values_are_off(run: Run, served: Paid, file: Path, tmp_path: Path) -> None:
    serve(served, plans.single(task="values"), ())
    (tmp_path / "true.txt").write_text("\n".join(str(s + 2) for s in SUMS))
    command = ("evaluate", "small", file, "--labels", tmp_path / "true.txt")
    found = json.loads(run(*command, "--json").stdout)
    assert found["mean_absolute_error"] == pytest.approx(2) and found["correct"] is None and found["total"] == 6
    shown = run(*command).stdout
    assert "mean absolute error 2" in " ".join(shown.split()) and "accuracy" not in shown


@pytest.mark.parametrize("plan", [plans.single(task="binary"), plans.decision()], ids=["binary", "decision"])
def test_evaluate_counts_two_classes(run: Run, served: Paid, file: Path, tmp_path: Path, plan: Plan) -> None:
    serve(served, plan, NAMES)
    (tmp_path / "true.txt").write_text("\n".join(NAMES[s > 0] for s in SUMS))
    found = json.loads(run("evaluate", "small", file, "--labels", tmp_path / "true.txt", "--json").stdout)
    assert (found["correct"], found["accuracy"]) == (6, 1.0) and "mean_absolute_error" not in found


def test_several_inputs_and_outputs_are_told_by_name(run: Run, served: Paid, tmp_path: Path) -> None:
    serve(served, both.several(), ())
    np.savez(tmp_path / "both.npz", **both.GIVEN)
    kind, box = (both.expected()[name].reshape(2, -1).tolist() for name in ("kind", "box"))
    for at, text in enumerate(run("predict", "small", tmp_path, "--json").stdout.splitlines()):
        row = json.loads(text)
        assert (row.pop("file"), row.pop("row")) == (str(tmp_path / "both.npz"), at)
        assert row == {"outputs": {"kind": pytest.approx(kind[at]), "box": pytest.approx(box[at])}}
    lines = [
        line.split() for line in run("predict", "small", tmp_path / "both.npz").stdout.splitlines() if line.strip()
    ]
    assert lines[0] == ["file", *["kind", "1", "kind", "2", "box", "1", "box", "2", "box", "3"]]
    cells = [[f"{value:.6g}" for value in kind[at] + box[at]] for at in range(2)]
    assert lines[2:] == [[f"{tmp_path / 'both.npz'}[{at}]", *cells[at]] for at in range(2)]
    (tmp_path / "true.txt").write_text("1\n2")
    refused = run("evaluate", "small", tmp_path / "both.npz", "--labels", tmp_path / "true.txt")
    assert refused.exit_code == Exit.USAGE and "gives several outputs: call predict" in refused.stderr


def test_of_many_values_the_first_are_shown() -> None:
    rows = [{"file": "a", "values": [float(at) for at in range(784)]}]
    assert list(_cells(rows[0])) == [*(f"value {at}" for at in range(1, 7)), "value ..."]
    assert _cells(rows[0])["value ..."] == "778 more"


def test_labels_of_classes_that_are_numbers_are_those_numbers(
    run: Run, served: Paid, file: Path, tmp_path: Path
) -> None:
    """And no places among them: of the classes 1 and 2, the label 1 is the first."""
    serve(served, plans.single(task="binary"), ("1", "2"))
    (tmp_path / "true.txt").write_text("\n".join(str(1 + (s > 0)) for s in SUMS))
    found = json.loads(run("evaluate", "small", file, "--labels", tmp_path / "true.txt", "--json").stdout)
    assert found["correct"] == 6
    (tmp_path / "true.txt").write_text("\n".join(str(int(s > 0)) for s in SUMS))
    refused = run("evaluate", "small", file, "--labels", tmp_path / "true.txt")
    assert refused.exit_code == Exit.USAGE and "not one of the model's 2 classes" in refused.stderr
