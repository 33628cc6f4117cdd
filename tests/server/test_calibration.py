"""What a CSV file shows of its columns, and the columns that an owner declares instead."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from moiety_server import calibration
from moiety_server.calibration import CalibrationRows, read_columns, typed, widened, write_columns
from moiety_server.compiler.ir import NotServable
from moiety_shared.messages.table import Column

ROWS = "age,income,job,churn\n18,31000.5,clerk,no\n71,,nurse,yes\n44,52000,,no\n"


def read(folder: Path, content: str, target: str | None = None) -> CalibrationRows:
    (folder / "customers.csv").write_text(content)
    return CalibrationRows.read(folder / "customers.csv", target)


def test_a_file_shows_kinds_ranges_and_what_may_be_missing(tmp_path: Path) -> None:
    rows = read(tmp_path, ROWS, "churn")
    assert rows.target is not None
    assert rows.target.tolist() == ["no", "yes", "no"]
    assert rows.guessed() == (
        Column(name="age", kind="number", low=12.7, high=76.3),
        Column(name="income", kind="number", low=28900, high=54100, missing="flag"),
        Column(name="job", kind="category", categories=("clerk", "nurse"), missing="flag"),
    )


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (18, 71, (12.7, 76.3)),
        (0, 850, (0, 940)),
        (5, 85, (0, 93)),  # nothing is below 0, so nothing is expected there
        (-3, 7, (-4, 8)),
        (0.1, 0.3, (0.08, 0.32)),
        (7, 7, (6.3, 7.7)),
        (0, 0, (0, 0.1)),
        (123456789, 123456999, (123456768, 123457020)),
    ],
)
def test_ranges_are_a_tenth_wider_on_each_side_and_have_few_digits(
    least: float, most: float, expected: tuple[float, float]
) -> None:
    assert widened(least, most) == pytest.approx(expected, rel=1e-12)


def test_columns_are_typed_as_pandas_types_them(tmp_path: Path) -> None:
    pandas = importlib.import_module("pandas")
    content = "a,b,c,d,e\n1,1.5,x,,7\n2,,y,3,1e3\n"
    found, expected = read(tmp_path, content).typed(), pandas.read_csv(tmp_path / "customers.csv")
    for name in expected:
        values = expected[name].to_numpy()
        assert found[name].dtype.kind == ("O" if name == "c" else values.dtype.kind), name
        same = [
            mine == other or (mine != mine and other != other) for mine, other in zip(found[name], values, strict=True)
        ]
        assert all(same), name


def test_numbers_of_more_than_64_bits_stay_numbers() -> None:
    assert typed(np.array(["1", str(1 << 70)], dtype=object)).tolist() == [1.0, float(1 << 70)]


@pytest.mark.parametrize(
    ("content", "target", "text"),
    [
        (ROWS, "Churned", "has no column Churned .is it 'churn'.. for --target"),
        (ROWS, "job", "rows without a job"),
        ("churn\n1\n", "churn", "no columns but the target"),
        ("a,b\n1,\n2,\n", None, "column b is empty"),
        ("a\n" + "\n".join(f"n{i}" for i in range(1001)), None, "1,001 different texts.*a name or an id"),
        ("a;b\n" + "\n".join(f"{i},5;1" for i in range(1001)), None, "column a holds numbers with a decimal comma"),
        ("a,a\n1,2\n", None, "customers.csv: has two columns of one name"),
    ],
)
def test_what_cannot_be_calibrated_on_is_refused_with_what_to_do(
    tmp_path: Path, content: str, target: str | None, text: str
) -> None:
    with pytest.raises(NotServable, match=text):
        read(tmp_path, content, target).guessed()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotServable, match=r"gone.csv cannot be read: No such file"):
        CalibrationRows.read(tmp_path / "gone.csv")


def test_columns_that_are_asked_for_are_found_by_name(tmp_path: Path) -> None:
    rows = read(tmp_path, ROWS)
    assert list(rows.chosen(["income", "age"], "the model takes")) == ["income", "age"]
    with pytest.raises(NotServable, match=r"lacks columns that the model takes: Income \(is it 'income'\?\), zip"):
        rows.chosen(["Income", "age", "zip"], "the model takes")


def test_written_columns_are_read_back_and_show_what_may_be_edited(tmp_path: Path) -> None:
    columns = read(tmp_path, ROWS, "churn").guessed()
    write_columns(tmp_path / "columns.json", columns)
    assert read_columns(tmp_path / "columns.json") == columns
    age, _, job = json.loads((tmp_path / "columns.json").read_text())
    assert {"low", "high", "outside", "missing", "unit", "description"} <= set(age)
    assert {"categories", "unknown", "missing"} <= set(job)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[]", "declares no column"),
        ("{", "is no list of columns"),
        ('[{"name": "a", "kind": "number"}]', "column 'a' is a number and has no range"),
        ('[{"name": "a", "kind": "number", "low": 0, "high": 1, "least": 2}]', "least of column 0: Extra inputs"),
    ],
)
def test_a_file_of_other_things_is_refused_by_its_place(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "columns.json").write_text(content)
    with pytest.raises(NotServable, match=text):
        read_columns(tmp_path / "columns.json")


def test_a_column_in_words() -> None:
    columns = (
        Column(name="age", kind="number", low=18, high=120.5, missing="flag"),
        Column(name="late", kind="bins", edges=(0.5, 1.5)),
        Column(name="job", kind="category", categories=tuple(f"job {i}" for i in range(9))),
    )
    assert dict(calibration.described(columns)) == {
        "age": "18 to 120.5; may be missing",
        "late": "2 edges",
        "job": "job 0, job 1, job 2, job 3, job 4, job 5, ... (9 in all)",
    }


def test_a_declared_category_may_be_spelled_like_a_missing_value(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("country\nNA\nDE\nNone\n")
    column = Column(name="country", kind="category", categories=("DE", "NA"), missing="flag")
    assert CalibrationRows.read(tmp_path / "rows.csv", None, [column]).cells["country"].tolist() == ["NA", "DE", None]
    assert CalibrationRows.read(tmp_path / "rows.csv").cells["country"].tolist() == [None, "DE", None]


@pytest.mark.parametrize("content", ['"a\x1b[31m"\n1\n2\n', 'a\nx\n"y\nz"\n'])
def test_a_column_that_would_move_a_terminal_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "rows.csv").write_text(content)
    with pytest.raises(NotServable, match=r"the column a.* has line ends or control characters") as caught:
        CalibrationRows.read(tmp_path / "rows.csv").guessed()
    assert "\x1b" not in str(caught.value)
