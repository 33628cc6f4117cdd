"""Models of tables over the Open Inference Protocol: an input for each column, or one tensor of all."""

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety_client.settings import ClientSettings
from moiety_client.sidecar import build, columns
from moiety_client.sidecar.messages import InferRequest, parse
from moiety_client.sidecar.tensors import DTYPES
from moiety_client.tables import read
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.problems import Problem
from moiety_shared.tabular import BadColumn, encode, encode_ring
from tests import plans
from tests.asgi import InProcess
from tests.client.test_results import Service

Keys = tuple[PrivateKey, PrivateKey]
INFER = "/v2/models/small/infer"
LENGTH = "inference-header-content-length"
TABLE = Tabular(
    columns=(
        Column(name="age", kind="number", low=18, high=120, unit="years"),
        Column(name="job", kind="category", categories=("clerk", "nurse"), missing="flag"),
    )
)
AGE: dict[str, Any] = {"name": "age", "shape": [3], "datatype": "FP64", "data": [44, 71, 18]}
JOB: dict[str, Any] = {"name": "job", "shape": [3], "datatype": "BYTES", "data": ["nurse", None, "clerk"]}


def sidecar_of(keys: Keys, table: Tabular) -> tuple[Service, InProcess]:
    plan = plans.logits()
    takes = plan.input.model_copy(update={"low": -1.0, "high": 1.0})
    service = Service(plan.model_copy(update={"input": takes}), keys)
    service.entry = service.entry.model_copy(update={"preprocessing": table})
    return service, InProcess(build(service.async_client(), ClientSettings()))


@pytest.fixture
def sidecar(party_keys: Keys) -> InProcess:
    return sidecar_of(party_keys, TABLE)[1]


def scores(ages: list[Any] | None = None, jobs: list[Any] | None = None) -> list[float]:
    given = {"age": np.array(ages or [44, 71, 18]), "job": np.array(jobs or ["nurse", None, "clerk"], dtype=object)}
    return (plans.scores(encode_ring(TABLE, given, frac_bits=4, ring_bits=32)) / 16).ravel().tolist()


def output(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return next(one["data"] for one in answer.json()["outputs"] if one["name"] == "output")  # type: ignore[no-any-return]


def packed(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def test_the_metadata_have_an_input_for_each_column(sidecar: InProcess) -> None:
    inputs = sidecar.get("/v2/models/small").json()["inputs"]
    common = {"outside": "refuse", "unknown": "refuse"}
    age = common | {"kind": "number", "low": 18.0, "high": 120.0, "missing": "refuse", "unit": "years"}
    job = common | {"kind": "category", "missing": "flag", "categories": ["clerk", "nurse"]}
    assert inputs == [
        {"name": "age", "datatype": "FP64", "shape": [-1], "parameters": age},
        {"name": "job", "datatype": "BYTES", "shape": [-1], "parameters": job},
    ]
    config = sidecar.get("/v2/models/small/config").json()["input"]
    assert config == [
        {"name": "age", "data_type": "TYPE_FP64", "dims": [1]},
        {"name": "job", "data_type": "TYPE_STRING", "dims": [1]},
    ]


@pytest.mark.parametrize("kind", ["FP64", "FP32", "FP16", "INT8", "INT64", "UINT8"])
@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_columns_in_any_order_type_and_shape(sidecar: InProcess, kind: str, shape: list[int]) -> None:
    age = AGE | {"datatype": kind, "shape": shape}
    answer = sidecar.post(INFER, json={"inputs": [JOB, age]})
    assert output(answer) == scores()
    raw = np.array([44, 71, 18], dtype=DTYPES[kind]).tobytes()
    names = packed("nurse", "", "clerk")
    pieces = {"age": raw, "job": names}
    for order in ([JOB, age], [age, JOB]):
        behind = [{k: v for k, v in one.items() if k != "data"} for one in order]
        for one in behind:
            one["parameters"] = {"binary_data_size": len(pieces[one["name"]])}
        text = json.dumps({"inputs": behind}).encode()
        content = text + b"".join(pieces[one["name"]] for one in order)
        assert output(sidecar.post(INFER, content=content, headers={LENGTH: str(len(text))})) == scores()
    text = json.dumps({"inputs": [behind[0], JOB]}).encode()
    answer = sidecar.post(INFER, content=text + raw, headers={LENGTH: str(len(text))})
    assert output(answer) == scores(), "one in the JSON, one behind it"


def test_one_tensor_holds_all_columns(party_keys: Keys) -> None:
    numbers = Tabular(columns=tuple(Column(name=name, kind="number", low=-1, high=1) for name in "abcd"))
    _, sidecar = sidecar_of(party_keys, numbers)
    rows = np.linspace(-1, 1, 12).reshape(3, 4)
    expected = (plans.scores(np.rint(rows * 16).astype(np.int32)) / 16).ravel().tolist()
    tensor = {"name": "input", "shape": [3, 4], "datatype": "FP64", "data": rows.tolist()}
    assert output(sidecar.post(INFER, json={"inputs": [tensor]})) == expected
    assert output(sidecar.post(INFER, json={"inputs": [tensor | {"name": "a"}]})) == expected
    wide = tensor | {"shape": [4, 3]}
    refused(sidecar.post(INFER, json={"inputs": [wide]}), "takes 4 columns, this is 4 x 3")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"inputs": [AGE]}, "missing columns: job"),
        ({"inputs": [AGE, JOB | {"name": "Job"}]}, "missing columns: job (is it 'Job'?)"),
        ({"inputs": [AGE, JOB, AGE]}, "two inputs have one name"),
        ({"inputs": [AGE, JOB, AGE | {"name": "id"}]}, "takes no columns id"),
        ({"inputs": [AGE | {"shape": [1, 3]}, JOB]}, "'age' is no column"),
        ({"inputs": [AGE | {"shape": [2]}, JOB]}, "3 values of 'age' do not fit the shape 2"),
        ({"inputs": [AGE | {"data": [44, 71], "shape": [2]}, JOB]}, "different lengths: age 2, job 3"),
        ({"inputs": [AGE | {"data": [44, "98765", 18]}, JOB]}, "of 'age' are not all of type FP64"),
        ({"inputs": [AGE | {"data": [44, True, 18]}, JOB]}, "of 'age' are not all of type FP64"),
        ({"inputs": [AGE | {"data": [44, 98765.5, 18], "datatype": "INT32"}, JOB]}, "not all of type INT32"),
        ({"inputs": [AGE | {"data": [44, 98765, 18], "datatype": "INT8"}, JOB]}, "do not all fit INT8"),
        ({"inputs": [AGE | {"data": [44, {"98765": 1}, 18]}, JOB]}, "not all of type"),
        ({"inputs": [AGE | {"data": [44, None, 18]}, JOB]}, "row 1, column 'age' is missing"),
        ({"inputs": [AGE | {"data": [44, 98765, 18]}, JOB]}, "row 1, column 'age' is above the range 18 to 120"),
        ({"inputs": [AGE, JOB | {"data": ["nurse", "98765", ""]}]}, "row 1, column 'job' is none of clerk, nurse"),
        ({"inputs": [AGE, JOB | {"data": ["nurse", 98765, ""]}]}, "of 'job' are not all of type BYTES"),
        ({"inputs": [AGE | {"datatype": "STRING"}, JOB]}, "datatype of 'age' is none of"),
        ({"inputs": [AGE | {"data": None}, JOB]}, "no data"),
        ({"inputs": []}, "check: inputs"),
        ({"inputs": [AGE | {"parameters": {"binary_data_size": 24}}, JOB]}, "'age': binary_data_size does not match"),
        ({"inputs": [AGE | {"parameters": {"binary_data_size": -1}}, JOB]}, "'age': binary_data_size does not match"),
        ({"inputs": [{"name": "x", "shape": [3], "datatype": "FP64", "data": [1, 2, 3]}]}, "an input for each column"),
    ],
)
def test_what_does_not_fit_is_refused(sidecar: InProcess, change: dict[str, Any], said: str) -> None:
    refused(sidecar.post(INFER, json=change), said)


def refused(answer: httpx.Response, said: str) -> None:
    assert answer.status_code == 422 or answer.status_code == 400, answer.text
    assert said in answer.json()["detail"] and "98765" not in answer.text


def test_columns_may_be_ignored(sidecar: InProcess) -> None:
    more = {"inputs": [AGE, JOB, AGE | {"name": "id"}], "parameters": {"columns": "ignore"}}
    assert output(sidecar.post(INFER, json=more)) == scores()


def test_missing_values_and_booleans(party_keys: Keys) -> None:
    table = Tabular(
        columns=(
            Column(name="late", kind="bins", edges=(0.5,), missing="flag"),
            Column(name="smokes", kind="category", categories=(0, 1)),
        )
    )
    _, sidecar = sidecar_of(party_keys, table)
    assert sidecar.get("/v2/models/small").json()["inputs"][1]["datatype"] == "INT64"
    late = {"name": "late", "shape": [3], "datatype": "FP32", "data": [1, None, 0]}
    smokes = {"name": "smokes", "shape": [3], "datatype": "BOOL", "data": [True, False, True]}
    rows = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=np.int32) * 16
    expected = (plans.scores(rows) / 16).ravel().tolist()
    assert output(sidecar.post(INFER, json={"inputs": [late, smokes]})) == expected
    raw = {"late": np.array([1, np.nan, 0], "<f4").tobytes(), "smokes": bytes([1, 0, 1])}
    behind = [
        {k: v for k, v in one.items() if k != "data"} | {"parameters": {"binary_data_size": len(raw[one["name"]])}}
        for one in (late, smokes)
    ]
    text = json.dumps({"inputs": behind}).encode()
    content = text + raw["late"]
    answer = sidecar.post(INFER, content=content + raw["smokes"], headers={LENGTH: str(len(text))})
    assert output(answer) == expected
    refused(sidecar.post(INFER, content=content + bytes([2, 0, 1]), headers={LENGTH: str(len(text))}), "byte 0 or 1")


def test_bytes_that_are_no_text(sidecar: InProcess) -> None:
    job = {"name": "job", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    text = json.dumps({"inputs": [AGE | {"shape": [1], "data": [44]}, job]}).encode()
    answer = sidecar.post(INFER, content=text + struct.pack("<I", 1) + b"\xff", headers={LENGTH: str(len(text))})
    refused(answer, "the BYTES of 'job' are no text in UTF-8")


def test_a_model_of_pictures_has_one_input(party_keys: Keys) -> None:
    service, sidecar = sidecar_of(party_keys, TABLE)
    service.entry = service.entry.model_copy(update={"preprocessing": None})
    refused(sidecar.post(INFER, json={"inputs": [AGE, JOB]}), "check: inputs: the model takes one")


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([])
TENSORS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["age", "job", "late", "x"]),
        "shape": st.lists(st.integers(0, 3), max_size=3),
        "datatype": st.sampled_from(["FP32", "FP64", "INT8", "UINT64", "BOOL", "BYTES", "STRING"]),
        "data": st.none() | st.lists(VALUES, max_size=4) | st.lists(st.floats(18, 120), min_size=1, max_size=3),
        "parameters": st.just({}) | st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9)}),
    }
)


@settings(max_examples=400, deadline=None)
@given(st.lists(TENSORS, min_size=1, max_size=3), st.binary(max_size=20))
def test_whatever_is_sent_is_read_or_refused(tensors: list[Any], behind: bytes) -> None:
    try:
        asked: InferRequest = parse(InferRequest, json.dumps({"inputs": tensors}).encode())
        found = columns.read(asked.inputs, memoryview(behind), TABLE)
        rows = read(TABLE, found)
        elements = encode(TABLE, rows.columns)
    except (Problem, ValueError) as error:
        assert isinstance(error, Problem | BadColumn) or type(error).__name__ == "InvalidInput", error
        return
    assert elements.shape == (len(rows), 4) and np.abs(elements).max(initial=0) <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(18, 120), st.sampled_from(["clerk", "nurse", None])), min_size=1, max_size=5))
def test_a_table_is_read_as_it_was_sent(rows: list[tuple[int, str | None]]) -> None:
    ages, jobs = (list(column) for column in zip(*rows, strict=True))
    inputs = [AGE | {"data": ages, "shape": [len(rows)]}, JOB | {"data": jobs, "shape": [len(rows), 1]}]
    asked: InferRequest = parse(InferRequest, json.dumps({"inputs": inputs}).encode())
    found = read(TABLE, columns.read(asked.inputs, memoryview(b""), TABLE))
    expected = encode(TABLE, {"age": np.array(ages), "job": np.array(jobs, dtype=object)})
    assert np.array_equal(encode(TABLE, found.columns), expected)
