"""Tables in the forms that people have them: all of them are one, and the answer keeps a DataFrame's index."""

import csv
import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from moiety_client import inputs, tables
from moiety_client.errors import InvalidInput
from moiety_client.inputs import read_labels
from moiety_shared.messages.catalogue import Entry, Preprocessing
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.tabular import encode_ring
from tests import plans
from tests.client.sdk.conftest import Asking, Paid

TABLE = Tabular(
    columns=(
        Column(name="age", kind="number", low=18, high=120, unit="years"),
        Column(name="job", kind="category", categories=("clerk", "nurse"), missing="flag"),
    )
)
AGES, JOBS = [44.0, 71.0, 18.0], ["nurse", None, "clerk"]
FRAME = pd.DataFrame({"job": JOBS, "age": AGES}, index=["ann", "ben", "cy"])
ROWS = [{"age": age, "job": job} for age, job in zip(AGES, JOBS, strict=True)]


@pytest.fixture
def paid(party_keys: Any) -> Paid:
    """A service of a model that takes two columns."""
    plan = plans.logits()
    takes = plan.input.model_copy(update={"low": -1.0, "high": 1.0})
    made = Paid(plan.model_copy(update={"input": takes}), party_keys)
    made.entry = made.entry.model_copy(update={"preprocessing": TABLE, "classes": tuple("abcde")})
    made.entries = [made.entry]
    return made


@pytest.fixture
def of_table(paid: Paid) -> Entry:
    return paid.entry


def expected() -> np.ndarray:
    columns = {"age": np.array(AGES), "job": np.array(JOBS, dtype=object)}
    return encode_ring(TABLE, columns, frac_bits=4, ring_bits=32)


def saved(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_all_forms_are_one(of_table: Entry, tmp_path: Path) -> None:
    written = saved(tmp_path / "rows.csv", [["job", "age"], *zip(["nurse", "", "clerk"], AGES, strict=True)])
    structured = np.array([(44.0, "nurse"), (18.0, "clerk")], dtype=[("age", "f8"), ("job", "U8")])
    forms = {
        "frame": FRAME,
        "frames": [FRAME[:1], FRAME[1:]],
        "columns": {"age": AGES, "job": JOBS},
        "arrays": {"age": np.array(AGES), "job": np.array(JOBS, dtype=object)},
        "tensors": {"age": torch.tensor(AGES, dtype=torch.bfloat16), "job": JOBS},
        "series": {"age": FRAME["age"], "job": FRAME["job"]},
        "axes": {"age": np.array(AGES)[:, None], "job": JOBS},
        "records": ROWS,
        "reversed": [dict(reversed(row.items())) for row in ROWS],
        "series of rows": [FRAME.iloc[0].to_dict(), *ROWS[1:]],
        "rows": list(zip(AGES, JOBS, strict=True)),
        "array": np.array([*zip(AGES, JOBS, strict=True)], dtype=object),
        "categorical": FRAME.astype({"job": "category", "age": "Int64"}),
        "string": FRAME.astype({"job": "string", "age": "Float64"}),
        "texts": FRAME.astype({"age": "str"}),
        "csv": written,
        "path": str(written),
        "again": tables.read(TABLE, FRAME),
    }
    for form, given in forms.items():
        assert np.array_equal(inputs.encode(of_table, given), expected()), form
    assert np.array_equal(inputs.encode(of_table, structured), expected()[[0, 2]])
    assert np.array_equal(inputs.encode(of_table, iter([FRAME[:2], ROWS[2]])), expected())
    for one in (ROWS[0], FRAME.iloc[0], [44, "nurse"], (44, "nurse")):
        assert np.array_equal(inputs.encode(of_table, one), expected()[:1])


def test_numbers_in_order_need_no_names(of_table: Entry, tmp_path: Path) -> None:
    numbers = Tabular(columns=tuple(Column(name=name, kind="number", low=-1, high=1) for name in "abcd"))
    entry = of_table.model_copy(update={"preprocessing": numbers})
    rows = np.linspace(-1, 1, 12).reshape(3, 4)
    np.save(tmp_path / "rows.npy", rows)
    expected = np.rint(rows * 16)
    for given in (rows, rows.tolist(), list(rows), torch.from_numpy(rows), tmp_path / "rows.npy", rows.astype("f4")):
        assert np.array_equal(inputs.encode(entry, given), expected)
    assert np.array_equal(inputs.encode(entry, rows[1]), expected[1:2])
    with pytest.raises(InvalidInput, match="takes 4 columns, this is 3 x 3: pass rows of a, b, c, d in this order"):
        inputs.encode(entry, rows[:, :3])
    one = Tabular(columns=(Column(name="a", kind="bins", edges=(-1.5, 0, 0.5, 1)),))
    entry = of_table.model_copy(update={"preprocessing": one})
    assert inputs.encode(entry, rows[:, 0]).shape == inputs.encode(entry, rows[:, :1]).shape == (3, 4)


@pytest.mark.parametrize(
    "ages",
    [
        pd.Series([44, 71, None], dtype="Int64"),
        pd.Series([44, 71, None], dtype="Float32"),
        pd.Series([44, 71, None], dtype="float16"),
        pd.Series([44, 71, None], dtype="UInt8"),
        pd.Series([44, 71, None], dtype=pd.SparseDtype("float64")),
        pd.Series([44, 71, pd.NA], dtype=object),
        pd.Series(["44", "71", None], dtype="string"),
        pd.Series([44, 71, np.nan], dtype="category"),
        pd.array([44, 71, None], dtype="Int16"),
        pd.Index([44, 71, np.nan]),
        [44, 71, pd.NA],
        [44, 71, float("nan")],
    ],
)
def test_each_way_of_pandas_to_say_missing(of_table: Entry, ages: Any) -> None:
    table = Tabular(columns=(Column(name="age", kind="bins", edges=(0, 50, 99), missing="flag"),))
    entry = of_table.model_copy(update={"preprocessing": table})
    assert np.array_equal(
        inputs.encode(entry, {"age": ages}), 16 * np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]])
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (FRAME.rename(columns={"age": "Age"}), r"missing columns: age \(is it 'Age'\?\)"),
        (FRAME.assign(id=1), "takes no columns id: drop them, or leave them out .*--columns ignore"),
        (FRAME.assign(age=["2020-01-01"] * 3).astype({"age": "datetime64[ns]"}), "column 'age' holds dates"),
        (FRAME.assign(age=pd.to_datetime(["2020-01-01"] * 3, utc=True)), "column 'age' holds dates"),
        (FRAME.assign(age=pd.to_timedelta([1, 2, 3])), "column 'age' holds durations"),
        (FRAME.assign(age=pd.Series([datetime.date(2020, 1, 1)] * 3, index=FRAME.index)), "row 0, column 'age' is no"),
        (FRAME.assign(age=[44, 7, 71]), "row 1, column 'age' is below the range 18 to 120 years$"),
        (FRAME.assign(job="pilot"), r"row 0, column 'job' is none of clerk, nurse \(and 2 more rows\)"),
        (pd.concat([FRAME, FRAME["age"]], axis=1), "two columns have one name"),
        ([ROWS[0], {"age": 44}], "row 1 has other columns than row 0: job"),
        ({"age": [44, 45], "job": ["nurse"]}, "different lengths: age 2, job 1"),
        ({"age": np.zeros((2, 2)), "job": JOBS}, "column 'age' has 2 axes"),
        (np.zeros((2, 3)), "takes 2 columns, this is 2 x 3"),
        ([[44, "nurse"], [44]], "takes 2 columns, this is a list"),
        ([np.zeros(2), np.zeros(3)], "takes 2 columns, this is a list"),
        (object(), "takes 2 columns, this is"),
        (Path("rows.txt"), "no table that can be read: pass a .csv file"),
        (Path("missing.csv"), "no .csv file that can be read: No such file"),
        (Path("missing.npy"), "no .npy file that can be read: No such file"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(of_table: Entry, given: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        inputs.encode(of_table, given)


def test_a_broken_file_is_named(of_table: Entry, tmp_path: Path) -> None:
    short = saved(tmp_path / "short.csv", [["age", "job"], [44]])
    with pytest.raises(InvalidInput, match=r"short.csv line 2 has 1 cells"):
        inputs.encode(of_table, short)
    np.save(tmp_path / "wide.npy", np.zeros((2, 3)))
    with pytest.raises(InvalidInput, match="2 x 3"):
        inputs.encode(of_table, tmp_path / "wide.npy")


def test_an_error_holds_what_its_text_does_not(asking: Asking, paid: Paid) -> None:
    with pytest.raises(InvalidInput) as caught:
        asking.predict("small", FRAME.assign(age=[44, 7.25, 6]))
    error = caught.value
    assert (error.row, error.rows, error.column, error.value, error.beyond) == (1, [1, 2], "age", 7.25, -10.75)
    assert "7.25" not in str(error) and "10.75" not in str(error) and not paid.asked
    frames = [FRAME, FRAME, FRAME.assign(age=[44, 7.25, 71])]
    with pytest.raises(InvalidInput, match=r"^row 7, column 'age' is below") as caught:
        asking.stream("small", iter(frames), batch=2)
    assert (caught.value.row, caught.value.value) == (7, 7.25)


def test_columns_may_be_ignored(asking: Asking, paid: Paid) -> None:
    more = FRAME.assign(id=[1, 2, 3], born=pd.Timestamp("2020-01-01"))
    plain = asking.predict("small", FRAME).outputs
    assert np.array_equal(asking.predict("small", more, columns="ignore").outputs, plain)
    parts = asking.stream("small", iter([more]), columns="ignore", batch=2)
    assert np.array_equal(np.concatenate([part.outputs for part in parts]), plain)
    with pytest.raises(InvalidInput, match="takes no columns id, born"):
        asking.predict("small", more)


def test_the_answer_keeps_the_index(asking: Asking, paid: Paid) -> None:
    answer = asking.predict("small", FRAME)
    assert answer.index.equals(FRAME.index)
    assert np.array_equal(answer.outputs, plans.scores(expected()) / 16)
    whole = asking.predict("small", iter([FRAME, FRAME[1:]]))
    assert list(whole.index) == ["ann", "ben", "cy", "ben", "cy"] and len(whole) == 5
    assert [list(part.index) for part in asking.stream("small", FRAME, batch=2)] == [["ann", "ben"], ["cy"]]
    assert asking.predict("small", ROWS).index is None
    assert asking.predict("small", iter([FRAME, ROWS])).index is None


def test_a_resumed_run_keeps_the_index(asking: Asking, paid: Paid, tmp_path: Path) -> None:
    first = asking.stream("small", FRAME, batch=2, resume=tmp_path / "run", first=1)
    again = asking.stream("small", FRAME, batch=2, resume=tmp_path / "run")
    assert paid.paid == 3 and [list(part.index) for part in again] == [["ann", "ben"], ["cy"]]
    assert np.array_equal(first[0].outputs, again[0].outputs)


@pytest.mark.parametrize(
    ("names", "column", "expected"),
    [
        (("1", "2", "3"), [1, 3, 2], ["1", "3", "2"]),
        (("1", "2", "3"), [1.0, 3.0, 2.0], ["1", "3", "2"]),
        (("1.0", "2.0"), ["1", "2"], ["1.0", "2.0"]),
        (("0", "1"), [True, False], ["1", "0"]),
        (("False", "True"), [True, False], [1, 0]),
        (("no", "yes"), ["yes", "no"], ["yes", "no"]),
        (("no", "yes"), ["1", "0.0"], [1, 0]),
        ((), [4, 7], [4, 7]),
    ],
)
def test_a_label_is_a_name_a_number_or_a_place(names: tuple[str, ...], column: list[Any], expected: list[Any]) -> None:
    assert read_labels(column, names).tolist() == expected


def test_a_number_that_is_no_class_is_refused() -> None:
    for column in ([0, 1, 2], ["1", "two"], [1, None]):
        with pytest.raises(InvalidInput, match="not one of the model's 3 classes"):
            read_labels(column, ("1", "2", "3"))


def test_labels_may_be_a_column(asking: Asking, paid: Paid) -> None:
    truth = asking.predict("small", FRAME).labels
    labelled = FRAME.assign(truth=[paid.entry.classes[label] for label in truth])
    assert asking.evaluate("small", labelled, "truth").accuracy == 1
    assert asking.evaluate("small", FRAME.assign(truth=truth), "truth").accuracy == 1
    assert asking.evaluate("small", FRAME, FRAME.assign(truth=(truth + 1) % 5)["truth"]).correct == 0
    assert asking.evaluate("small", labelled.assign(id=1), "truth", columns="ignore").correct == 3
    with pytest.raises(InvalidInput, match=r"no column 'trut' \(is it 'truth'\?\)"):
        asking.evaluate("small", labelled, "trut")
    with pytest.raises(InvalidInput, match="takes no columns id"):
        asking.evaluate("small", labelled.assign(id=1), "truth")


def test_a_model_published_anew_for_pictures_takes_no_table(of_table: Entry) -> None:
    rows = inputs.rows(of_table, FRAME)
    with pytest.raises(InvalidInput, match="takes other inputs now"):
        inputs.encode(of_table.model_copy(update={"preprocessing": None}), rows)


def test_what_prepares_an_input_makes_all_of_it(of_table: Entry) -> None:
    grey = Preprocessing(channels=1, size=(1, 1), mean=(0.5,), std=(0.2,))
    for wrong in (Tabular(columns=TABLE.columns[:1]), grey):
        with pytest.raises(ValidationError, match="does not make the plan's input"):
            Entry.model_validate(dict(of_table) | {"preprocessing": wrong})


def test_nobody_gets_pandas_who_has_not_imported_it(of_table: Entry, tmp_path: Path) -> None:
    (tmp_path / "entry.json").write_text(of_table.model_dump_json())
    program = (
        "import sys; from moiety_client import inputs; from moiety_shared.messages.catalogue import Entry;"
        "e = Entry.model_validate_json(open(sys.argv[1]).read());"
        "inputs.encode(e, [{'age': 44, 'job': 'nurse'}]); inputs.encode(e, {'age': [44], 'job': [None]});"
        "assert not {'torch', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "entry.json")], check=True)


def test_a_cell_that_spells_a_missing_value_is_the_category_of_that_name(tmp_path: Path) -> None:
    table = Tabular(columns=(Column(name="country", kind="category", categories=("DE", "NA"), missing="flag"),))
    path = saved(tmp_path / "rows.csv", [["country"], ["NA"], ["DE"], ["None"]])
    assert tables.read(table, path).columns["country"].tolist() == ["NA", "DE", None]
