"""The page's question to a model of a table: one row, as JSON."""

import base64
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moiety_client.sidecar.upstream import Upstream
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.catalogue import Preprocessing
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.tabular import encode_ring
from tests import plans
from tests.asgi import InProcess
from tests.client.sidecar.conftest import Local
from tests.client.sidecar.test_columns import TABLE, sidecar_of

Keys = tuple[PrivateKey, PrivateKey]
Digits = tuple[np.ndarray, np.ndarray]
SHOW = "/v1/show/small"


@pytest.fixture
def sidecar(party_keys: Keys) -> InProcess:
    return sidecar_of(party_keys, TABLE)[1]


def test_a_row_is_answered_and_drawn(sidecar: InProcess) -> None:
    shown = sidecar.post(SHOW, json={"age": 44, "job": "nurse"}).json()
    columns = {"age": np.array([44]), "job": np.array(["nurse"], dtype=object)}
    elements = encode_ring(TABLE, columns, frac_bits=4, ring_bits=32)
    label = int(plans.scores(elements).argmax())
    assert shown["label"] == str(label) and shown["inverted"] is False
    assert shown["size"] == {"height": 1, "width": 4, "channels": 1}
    assert list(base64.b64decode(shown["pixels"])) == np.rint((elements / 16 + 1) / 2 * 255).ravel().tolist()
    assert all(len(base64.b64decode(party["share"])) == 4 for party in shown["parties"])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"age": 98765, "job": "nurse"}, "row 0, column 'age' is above the range 18 to 120 years"),
        ({"age": 44, "job": "98765"}, "column 'job' is none of clerk, nurse"),
        ({"age": None, "job": None}, "column 'age' is missing"),
        ({"age": 44}, "missing columns: job"),
        ({"age": [44, 45], "job": ["nurse", "clerk"]}, "a JSON object with a value for each column"),
        ([44, "98765"], "a JSON object"),
        ("98765", "a JSON object"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(sidecar: InProcess, row: Any, said: str) -> None:
    answer = sidecar.post(SHOW, content=json.dumps(row))
    assert answer.status_code == 422 and said in answer.json()["detail"] and "98765" not in answer.text


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 200_000, b"{"])
def test_no_json_is_refused(sidecar: InProcess, body: bytes) -> None:
    answer = sidecar.post(SHOW, content=body)
    assert answer.status_code == 422 and "a JSON object" in answer.json()["detail"]


def test_a_model_of_a_table_is_listed_with_its_columns(
    party_keys: Keys, sidecar: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def names(_: Upstream) -> list[str]:
        return ["small"]

    monkeypatch.setattr(Upstream, "names", names)
    (listed,) = sidecar.get("/v1/models").json()
    assert listed["picture"] is None
    age, job = listed["columns"]
    assert (age["name"], age["low"], age["high"], age["unit"], age["may_be_missing"]) == (
        "age",
        18,
        120,
        "years",
        False,
    )
    assert (job["categories"], job["may_be_missing"], job["low"]) == (["clerk", "nurse"], True, None)
    numbered = Tabular(columns=(Column(name="x", kind="category", categories=(3, 4, 5, 6)),))
    (listed,) = sidecar_of(party_keys, numbered)[1].get("/v1/models").json()
    assert listed["columns"][0]["categories"] == [3, 4, 5, 6], "numbers stay numbers"


# Polarity, over HTTP


def png(pixels: np.ndarray) -> bytes:
    Image.fromarray(pixels).save(into := io.BytesIO(), "PNG")
    return into.getvalue()


@pytest.fixture
def light_on_dark(local: Local) -> InProcess:
    how = Preprocessing(channels=1, size=(28, 28), mean=(0.1307,), std=(0.3081,), polarity="light-on-dark")
    local.entry = local.entry.model_copy(update={"preprocessing": how})
    return local.sidecar()


def test_the_page_is_told_what_was_inverted(light_on_dark: InProcess, digits: Digits) -> None:
    white, black = digits[0][0], 255 - digits[0][0]

    def shown(pixels: np.ndarray, query: str = "") -> tuple[bool, bool]:
        answer = light_on_dark.post(f"/v1/show/mnist{query}", content=png(pixels)).json()
        return answer["inverted"], base64.b64decode(answer["pixels"]) == white.tobytes()

    assert shown(white) == (False, True) and shown(black) == (True, True)
    assert shown(black, "?invert=false") == (False, False), "whoever asks decides"
    assert shown(white, "?invert=true") == (True, False)


def test_infer_says_how_many_were_inverted(light_on_dark: InProcess, digits: Digits) -> None:
    pixels = np.stack([digits[0][0], 255 - digits[0][1], 255 - digits[0][2]])
    tensor = {"name": "input", "shape": [3, 28, 28], "datatype": "UINT8", "data": pixels.ravel().tolist()}
    answer = light_on_dark.post("/v2/models/mnist/infer", json={"inputs": [tensor]})
    assert answer.json()["parameters"] == {"inverted": 2}
    files = [base64.b64encode(png(one)).decode() for one in pixels]
    tensor = {"name": "input", "shape": [3], "datatype": "BYTES", "data": files}
    assert light_on_dark.post("/v2/models/mnist/infer", json={"inputs": [tensor]}).json()["parameters"] == {
        "inverted": 2
    }
    tensor = {"name": "input", "shape": [1, 28, 28], "datatype": "UINT8", "data": digits[0][0].ravel().tolist()}
    assert "parameters" not in light_on_dark.post("/v2/models/mnist/infer", json={"inputs": [tensor]}).json()
