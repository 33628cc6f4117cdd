"""Columns become the elements that a model takes: as one value after another says it, and fast."""

import json
import time
import tracemalloc
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moiety_shared.messages.table import Column, Tabular
from moiety_shared.tabular import BadColumn, check_names, encode, encode_ring

AGE = Column(name="age", kind="number", low=18, high=120, unit="years")
INCOME = Column(name="income", kind="number", low=0, high=500_000, outside="clip")
LATE = Column(name="late", kind="bins", edges=(0.5, 1.5, 2.5), missing="flag")
JOB = Column(name="job", kind="category", categories=("clerk", "nurse", "none"), missing="fill", fill="none")
TABLE = Tabular(columns=(AGE, INCOME, LATE, JOB))
GOOD: dict[str, list[Any]] = {
    "job": ["nurse", None],
    "age": [44, 71],
    "late": [2, float("nan")],
    "income": [31_000.0, 900_000.0],
}


def arrays(columns: dict[str, list[Any]]) -> dict[str, np.ndarray]:
    return {name: np.array(values, dtype=object) for name, values in columns.items()}


def one(column: Column, values: Any, precision: str = "float32") -> np.ndarray:
    """The elements of a table of one column."""
    array = values if isinstance(values, np.ndarray) else np.array(values, dtype=object)
    return encode(Tabular.model_validate({"columns": (column,), "precision": precision}), {column.name: array})


def test_two_rows_as_computed_by_hand() -> None:
    age = [(44 - 69) / 51, (71 - 69) / 51]
    expected = [[age[0], -0.876, 1, 1, 0, 0, 0, 1, 0], [age[1], 1, 0, 0, 0, 1, 0, 0, 1]]
    assert np.allclose(encode(TABLE, arrays(GOOD)), expected, rtol=0, atol=1e-15)
    ring = encode_ring(TABLE, arrays(GOOD), frac_bits=20, ring_bits=32)
    assert ring.dtype == np.int32 and np.array_equal(ring, np.rint(np.array(expected) * 2**20))
    assert encode_ring(TABLE, arrays(GOOD), frac_bits=40, ring_bits=64).dtype == np.int64
    assert encode(TABLE, arrays(GOOD), dtype=np.float32).dtype == np.float32


# Against a reference that looks at one value at a time


def reference(column: Column, value: Any, precision: str) -> list[float] | str:
    """The elements of one value, or what is wrong with it."""
    if value is None or value != value or (value == "" and "" not in column.categories):
        if column.missing == "refuse":
            return "is missing"
        if column.missing == "flag":
            return [0.0] * (column.size - 1) + [1.0]
        value = column.fill
    flag = [0.0] if column.missing == "flag" else []
    if column.kind == "category":
        same = [c == value or (isinstance(c, int) and str(value) in (f"{c}", f"{c}.0")) for c in column.categories]
        if not any(same) and column.unknown == "refuse":
            return "is none of"
        return [*map(float, same), *flag]
    try:
        x = float(value)
    except ValueError:
        return "is no number"
    if x in (float("inf"), float("-inf")):
        return "is infinite"
    if column.low is not None and column.high is not None:
        if column.outside == "clip":
            x = min(max(x, column.low), column.high)
        if not column.low <= x <= column.high:
            return "the range"
        if column.kind == "number":
            return [(x - (column.low + column.high) / 2) / ((column.high - column.low) / 2), *flag]
    with np.errstate(over="ignore"):
        x = float(np.dtype(precision).type(x))
    return [*(float(x > edge) for edge in column.edges), *flag]


NUMBERS = st.floats(-100, 100, width=32) | st.integers(-100, 100) | st.sampled_from([0.1, 1e39, -1e39, Decimal("0.5")])
WORDS = st.sampled_from(["a", "b", "3", "zwölf", "c", "3.0", "03"])
ANYTHING = NUMBERS | WORDS | st.sampled_from([None, float("nan"), "", float("inf"), True, "1e1", " 7 "])


@st.composite
def columns(draw: st.DrawFn) -> Column:
    kind = draw(st.sampled_from(["number", "bins", "category"]))
    members: dict[str, Any] = {"name": "x", "kind": kind, "missing": draw(st.sampled_from(["refuse", "flag", "fill"]))}
    if kind == "category":
        members["categories"] = draw(st.lists(st.sampled_from(["a", "b", "zwölf", 3, 4, -1]), min_size=1, unique=True))
        members["unknown"] = draw(st.sampled_from(["refuse", "zeros"]))
        fills = st.sampled_from(members["categories"])
    else:
        if kind == "number" or draw(st.booleans()):
            low, high = sorted(draw(st.lists(st.floats(-90, 90, width=32), min_size=2, max_size=2, unique=True)))
            members |= {"low": low, "high": high, "outside": draw(st.sampled_from(["refuse", "clip"]))}
        if kind == "bins":
            edges = st.lists(
                st.floats(-100, 100) | st.just(float(np.float32(0.1))), min_size=1, max_size=5, unique=True
            )
            members["edges"] = sorted(draw(edges))
        fills = st.floats(members.get("low", -90), members.get("high", 90))
    if members["missing"] == "fill":
        members["fill"] = draw(fills)
    return Column.model_validate(members)


@settings(max_examples=300, deadline=None)
@given(columns(), st.lists(ANYTHING, min_size=1, max_size=8), st.sampled_from(["float32", "float64"]))
def test_a_column_is_what_its_values_are_one_by_one(column: Column, values: list[Any], precision: str) -> None:
    expected = [reference(column, value, precision) for value in values]
    wrong = {at: what for at, what in enumerate(expected) if isinstance(what, str)}
    if not wrong:
        assert np.allclose(one(column, values, precision), expected, rtol=0, atol=1e-12)
        return
    with pytest.raises(BadColumn) as caught:
        one(column, values, precision)
    error = caught.value
    assert error.column == "x" and set(error.rows.tolist()) <= set(wrong) and error.row == error.rows.min()
    assert wrong[error.row] in str(error)
    assert error.value is values[error.row] or error.value == values[error.row] or values[error.row] != error.value


@settings(max_examples=100, deadline=None)
@given(columns(), st.lists(NUMBERS, min_size=1, max_size=8), st.sampled_from(["i1", "i8", "f2", "f4", "f8", "U"]))
def test_the_type_of_an_array_changes_nothing(column: Column, values: list[Any], kind: str) -> None:
    """But the rounding that the type itself brings."""
    with np.errstate(over="ignore"):
        array = np.array([min(max(float(value), -100), 100) for value in values]).astype(kind)
    own = one_or_none(column, array.astype(object))
    typed = one_or_none(column, array)
    if own is not None:
        assert typed is not None and np.array_equal(own, typed)
    elif typed is not None:
        assert array.dtype.kind == "f", "a half's own rounding is forgiven"


def one_or_none(column: Column, array: np.ndarray) -> np.ndarray | None:
    try:
        return one(column, array)
    except BadColumn:
        return None


# Errors


def test_an_error_says_where_and_how_far_out_and_its_text_no_value() -> None:
    with pytest.raises(BadColumn) as caught:
        encode(TABLE, arrays(GOOD | {"age": [44.0, 7.25]}))
    error = caught.value
    assert str(error) == "row 1, column 'age' is below the range 18 to 120 years"
    assert (error.row, error.column, error.value, error.beyond) == (1, "age", 7.25, -10.75)
    many = Tabular(columns=(AGE,))
    with pytest.raises(BadColumn, match=r"row 0, column 'age' is above the range 18 to 120 years \(and 1 more rows\)"):
        encode(many, {"age": np.array([121, 20, 122])})


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("job", ["nurse", "pilot"], "row 1, column 'job' is none of clerk, nurse, none"),
        ("job", ["nurse", ["clerk"]], "row 1, column 'job' is none of"),
        ("job", ["nurse", (["clerk"],)], "row 1, column 'job' is none of"),
        ("age", ["forty", 50], "row 0, column 'age' is no number"),
        ("age", [50, np.datetime64("2020-01-01")], "row 1, column 'age' is no number"),
        ("age", [50, [50]], "row 1, column 'age' is no number"),
        ("age", [10**400, 50], "row 0, column 'age' is infinite"),
        ("age", [None, 50], "row 0, column 'age' is missing, and the model needs it"),
        ("age", ["", 50], "row 0, column 'age' is missing"),
    ],
)
def test_what_does_not_fit_is_named(column: str, values: list[Any], said: str) -> None:
    given = arrays(GOOD)
    given[column] = np.empty(2, dtype=object)
    given[column][:] = [values[0], values[1]]
    with pytest.raises(BadColumn) as caught:
        encode(TABLE, given)
    assert str(caught.value).startswith(said)
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array(["2020-01-01", "2021-01-01"], "M8[D]"), "holds dates"),
        (np.array([1, 2], "m8[s]"), "holds durations"),
        (np.array([1j, 2]), "complex"),
        (np.array([b"1", b"2"]), "bytes"),
        (np.zeros((2, 1)), "2 axes"),
    ],
)
@pytest.mark.parametrize("column", ["age", "job"])
def test_arrays_of_other_kinds_are_refused(array: np.ndarray, said: str, column: str) -> None:
    with pytest.raises(BadColumn, match=f"column '{column}'.* {said}"):
        encode(TABLE, arrays(GOOD) | {column: array})


def test_names_are_checked_and_the_nearest_is_shown() -> None:
    with pytest.raises(BadColumn, match=r"^missing columns: income \(is it 'Income'\?\), job$"):
        check_names(TABLE, ["age", "late", "Income"])
    with pytest.raises(BadColumn, match="takes no columns id, Income: drop them"):
        check_names(TABLE, ["id", "age", "late", "income", "job", "Income"])
    check_names(TABLE, ["id", "job", "age", "late", "income"], "ignore")
    extra = arrays(GOOD | {"id": [1, 2]})
    assert np.array_equal(encode(TABLE, extra, others="ignore"), encode(TABLE, arrays(GOOD)))
    with pytest.raises(BadColumn, match="different lengths: age 3, income 2, late 2, job 2"):
        encode(TABLE, arrays(GOOD | {"age": [20, 21, 22]}))


# Rounding, and what is one category


@pytest.mark.parametrize("kind", ["f2", "f4"])
def test_a_range_takes_its_ends_as_a_half_or_single_precision_type_has_them(kind: str) -> None:
    column = Column(name="x", kind="number", low=-0.1, high=0.1)
    end = np.array([0.1, -0.1], dtype=kind)
    assert float(end[0]) != 0.1
    assert one(column, end).tolist() == [[1.0], [-1.0]] or abs(float(end[0])) < 0.1
    over = np.nextafter(np.array([0.1], dtype=kind), np.array([1], dtype=kind))
    with pytest.raises(BadColumn, match="above"):
        one(column, np.nextafter(over, np.array([1], dtype=kind)))
    with pytest.raises(BadColumn, match="above"):
        one(column, np.array([np.nextafter(0.1, 1)]))


def test_edges_are_compared_in_the_precision_of_the_framework() -> None:
    edge = float(np.float32(0.1))  # above 0.1
    column = Column(name="x", kind="bins", edges=(edge,))
    just_above = np.array([edge + 1e-12])
    assert one(column, just_above, "float32").tolist() == [[0.0]]
    assert one(column, just_above, "float64").tolist() == [[1.0]]


def test_what_stands_for_a_category() -> None:
    numbered = Column(name="x", kind="category", categories=(3, 4, -1), missing="flag")
    for same in (3, 3.0, "3", "3.0", np.int8(3), Decimal(3)):
        assert one(numbered, [same]).tolist() == [[1, 0, 0, 0]], same
    assert one(numbered, np.array([4.0, np.nan])).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert one(numbered, np.array([-1, 3], np.int8)).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    for other in ("03", "+3", "3,0", 3.5, "\uff13"):
        with pytest.raises(BadColumn):
            one(numbered, [other])
    told = Column(name="x", kind="category", categories=("False", "True"))
    assert one(told, np.array([True, False])).tolist() == [[0, 1], [1, 0]]
    both = Column(name="x", kind="category", categories=("1", 1, ""))
    assert one(both, ["1", 1, ""]).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_a_masked_element_is_missing_whatever_it_holds() -> None:
    late = np.ma.array([2, 999], mask=[False, True])  # type: ignore[no-untyped-call]
    assert one(LATE, late).tolist() == [[1, 1, 0, 0], [0, 0, 0, 1]]
    job = np.ma.array(np.array(["nurse", "pilot"], object), mask=[False, True])  # type: ignore[no-untyped-call]
    assert one(JOB, job).tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "members",
    [
        {"name": "x", "kind": "number", "low": 0, "high": 1, "missing": "fill", "fill": 2},
        {"name": "x", "kind": "bins", "edges": (1,), "missing": "fill", "fill": "a"},
        {"name": "x", "kind": "category", "categories": ("a",), "missing": "fill", "fill": "b"},
    ],
)
def test_what_stands_for_missing_values_is_a_value(members: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no value that it takes"):
        Column.model_validate(members)


A = {"name": "a", "kind": "number", "low": 0, "high": 1}
HOSTILE: dict[str, list[dict[str, Any]]] = {
    "edges that are texts": [{"name": "a", "kind": "bins", "edges": ["x"] * 200_000}],
    "too many edges": [{"name": "a", "kind": "bins", "edges": list(range((1 << 16) + 1))}],
    "categories that are none": [{"name": "a", "kind": "category", "categories": [None] * 200_000}],
    "a category without end": [{"name": "a", "kind": "category", "categories": [10**30]}],
    "one category twice": [{"name": "a", "kind": "category", "categories": ["x", "x"]}],
    "columns that are none": [{}] * 200_000,
    "too many columns": [{**A, "name": f"c{at}"} for at in range((1 << 14) + 1)],
    "one name twice": [A, A],
    "edges that fall": [{"name": "a", "kind": "bins", "edges": [1, 3, 2]}],
    "one edge twice": [{"name": "a", "kind": "bins", "edges": [1, 1]}],
    "an infinite edge": [{"name": "a", "kind": "bins", "edges": [1, "1e999"]}],
    "an infinite range": [{**A, "high": "1e999"}],
    "no range at all": [{**A, "high": "NaN"}],
    "an empty range": [{**A, "high": 0}],
    "an infinite value for missing ones": [{**A, "missing": "fill", "fill": "1e999"}],
    "edges of a number": [{**A, "edges": [0.5]}],
    "colours in a name": [{**A, "name": "a\x1b[31m"}],
    "a bell in a unit": [{**A, "unit": "\x07"}],
    "two lines in a description": [{**A, "description": "a\nb"}],
    "a name from right to left": [{**A, "name": "a\u202eb"}],
    "colours in a category": [{"name": "a", "kind": "category", "categories": ["x\x1b[31m"]}],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_declaration_is_refused_shortly_and_in_little_memory(name: str) -> None:
    """Whatever a catalogue sends: one list of a few errors, and not one for each of its numbers."""
    sent = json.dumps({"columns": HOSTILE[name]}).replace('"1e999"', "1e999").replace('"NaN"', "NaN")
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError) as caught:
            Tabular.model_validate_json(sent)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.error_count() <= 5 and len(str(caught.value)) < 2000


def test_a_hundred_thousand_rows_take_less_than_a_second() -> None:
    given = {
        "age": np.linspace(18, 120, 100_000),
        "income": np.arange(100_000),
        "late": np.tile(np.array([0, 1, 2, None], object), 25_000),
        "job": np.tile(np.array(["clerk", "nurse", None, "none"], object), 25_000),
    }
    started = time.process_time()
    assert encode_ring(TABLE, given, frac_bits=16, ring_bits=32).shape == (100_000, 9)
    assert time.process_time() - started < 1
