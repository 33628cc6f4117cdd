"""Models of texts over the Open Inference Protocol: texts as BYTES, ids as integers."""

import struct
from typing import Any

import httpx
import numpy as np
import pytest

from moiety_client.settings import ClientSettings
from moiety_client.sidecar import build
from moiety_client.sidecar.tensors import DTYPES
from moiety_shared.crypto.sealing import PrivateKey
from tests import plans
from tests.asgi import InProcess
from tests.client.sdk.conftest import Paid
from tests.client.tokens import elements, serve, serve_secret

INFER = "/v2/models/small/infer"
LENGTH = "inference-header-content-length"
TEXTS: dict[str, Any] = {"name": "text", "shape": [2], "datatype": "BYTES", "data": ["good film", "Bad"]}
IDS: dict[str, Any] = {"name": "ids", "shape": [2, 2], "datatype": "INT64", "data": [1, 3, 2, 0]}
SCORES = (plans.scores(elements((1, 3), (2, 0))) / 16).ravel().tolist()


@pytest.fixture
def paid(party_keys: tuple[PrivateKey, PrivateKey]) -> Paid:
    return Paid(plans.logits(), party_keys)


@pytest.fixture
def sidecar(paid: Paid) -> InProcess:
    serve(paid)
    return InProcess(build(paid.async_client(), ClientSettings()))


def output(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    return next(one["data"] for one in answer.json()["outputs"] if one["name"] == "output")  # type: ignore[no-any-return]


def test_the_metadata_say_what_it_takes(sidecar: InProcess, paid: Paid) -> None:
    told = {"length": 2, "vocabulary": 5, "pad_id": 0}
    (one,) = sidecar.get("/v2/models/small").json()["inputs"]
    assert one == {"name": "text", "datatype": "BYTES", "shape": [-1], "parameters": told}
    (one,) = sidecar.get("/v2/models/small/config").json()["input"]
    assert one == {"name": "text", "data_type": "TYPE_STRING", "dims": [1]}
    serve(paid, tokenizer=False, pad_id=None)
    (one,) = sidecar.get("/v2/models/small").json()["inputs"]
    assert (one["datatype"], one["shape"]) == ("INT64", [-1, 2]) and "pad_id" not in one["parameters"]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_texts_are_bytes_in_json_and_behind_it(sidecar: InProcess, shape: list[int]) -> None:
    assert output(sidecar.post(INFER, json={"inputs": [TEXTS | {"shape": shape}]})) == SCORES
    raw = b"".join(struct.pack("<I", len(text)) + text.encode() for text in TEXTS["data"])
    binary = {**TEXTS, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    del binary["data"]
    head = httpx.Request("POST", "http://x", json={"inputs": [binary]}).content
    assert output(sidecar.post(INFER, content=head + raw, headers={LENGTH: str(len(head))})) == SCORES


@pytest.mark.parametrize("kind", ["INT64", "INT32", "UINT8", "UINT16"])
def test_ids_are_whole_numbers(sidecar: InProcess, kind: str) -> None:
    assert output(sidecar.post(INFER, json={"inputs": [IDS | {"datatype": kind}]})) == SCORES
    raw = np.array(IDS["data"], dtype=DTYPES[kind]).tobytes()
    binary = {**IDS, "datatype": kind, "parameters": {"binary_data_size": len(raw)}}
    del binary["data"]
    head = httpx.Request("POST", "http://x", json={"inputs": [binary]}).content
    assert output(sidecar.post(INFER, content=head + raw, headers={LENGTH: str(len(head))})) == SCORES
    one = IDS | {"datatype": kind, "shape": [1], "data": [2]}
    assert output(sidecar.post(INFER, json={"inputs": [one]})) == SCORES[5:]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ([IDS, TEXTS], "the model takes one"),
        ([IDS | {"datatype": "FP32"}], "and no FP32"),
        ([TEXTS | {"data": ["good", None]}], "not all texts"),
        ([TEXTS | {"shape": [0], "data": []}], "not all texts"),
        ([IDS | {"shape": [1, 2, 2]}], r"the shape (length), or (n, length)"),
        ([IDS | {"data": [1, 3, 2, 5]}], "row 1, place 1 is no id"),
        ([TEXTS | {"data": ["good", "good good bad"]}], "row 1 has more than 2 ids"),
    ],
)
def test_what_does_not_fit_is_refused(sidecar: InProcess, paid: Paid, inputs: list[Any], text: str) -> None:
    answer = sidecar.post(INFER, json={"inputs": inputs})
    assert answer.status_code == 422 and text in answer.text and not paid.asked


def test_of_a_secret_embedding_ids_and_texts_are_taken_as_well(sidecar: InProcess, paid: Paid) -> None:
    serve_secret(paid)
    digits = np.array([[0, 1, 0, 3], [0, 2, 0, 0]], dtype=np.int32) * 16
    scores = (plans.scores(digits) / 16).ravel().tolist()
    (one,) = sidecar.get("/v2/models/small").json()["inputs"]
    assert one["parameters"] == {"length": 2, "vocabulary": 5, "pad_id": 0}
    for given in (TEXTS, IDS):
        assert output(sidecar.post(INFER, json={"inputs": [given]})) == scores
