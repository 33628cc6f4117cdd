"""The sidecar's messages, to the byte, without a network."""

import base64
import io
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from moiety_client.errors import ResultRejected, UntrustedEntry
from moiety_client.sidecar import demonstration
from moiety_client.sidecar.demonstration import _drawn, schedule
from moiety_client.sidecar.upstream import problem_of
from moiety_shared.messages.catalogue import Entry, Preprocessing
from moiety_shared.problems import Problem, ProblemType
from tests import plans
from tests.asgi import InProcess
from tests.client.sidecar.conftest import Local

INFER = "/v2/models/mnist/infer"
PIXELS: dict[str, Any] = {"name": "input", "shape": [1, 28, 28], "datatype": "UINT8", "data": [0] * 784}
LENGTH = "inference-header-content-length"


def asked(tensor: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"inputs": [tensor], **members}


def binary(tensor: dict[str, Any], behind: bytes) -> dict[str, Any]:
    """Content and headers of a request whose tensor lies behind the JSON."""
    text = json.dumps(asked(tensor)).encode()
    return {"content": text + behind, "headers": {LENGTH: str(len(text))}}


def without_data(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in (PIXELS | members).items() if name != "data"}


def png(pixels: np.ndarray, mode: str = "PNG") -> bytes:
    Image.fromarray(pixels).save(into := io.BytesIO(), mode)
    return into.getvalue()


def test_what_is_asked_for_comes_in_that_order_and_form(sidecar: InProcess) -> None:
    outputs = [{"name": "output", "parameters": {"binary_data": True}}, {"name": "label"}]
    answer = sidecar.post(INFER, json=asked(PIXELS, outputs=outputs, id="7", parameters={"priority": 1}))
    length = int(answer.headers[LENGTH])
    first, second = json.loads(answer.content[:length])["outputs"]
    assert first == {"name": "output", "datatype": "FP64", "shape": [1, 10], "parameters": {"binary_data_size": 80}}
    assert np.frombuffer(answer.content[length:], "<f8").tolist() == list(range(10))
    assert second == {"name": "label", "datatype": "INT64", "shape": [1], "data": [9]}


def test_nested_data_and_no_content_type(sidecar: InProcess) -> None:
    body = json.dumps(asked(PIXELS | {"data": np.zeros((1, 28, 28), int).tolist()}))
    answer = sidecar.post(INFER, content=body)
    assert answer.json()["outputs"][0]["data"] == [9] and "id" not in answer.json()
    names = [one["name"] for one in answer.json()["outputs"]]
    assert names == ["label", "label_name", "output", "probability"] and LENGTH not in answer.headers


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"data": [0] * 783}, "783 values"),
        ({"data": [256] + [0] * 783}, "UINT8"),
        ({"data": [-1] + [0] * 783}, "UINT8"),
        ({"data": [1.5] + [0] * 783}, "UINT8"),
        ({"data": [True] * 784}, "UINT8"),
        ({"data": ["98765"] * 784, "datatype": "FP32"}, "FP32"),
        ({"data": [[1], [2, 3]]}, "one array"),
        ({"data": [2**70] * 784, "datatype": "INT64"}, "INT64"),
        ({"data": [None] * 784}, "UINT8"),
        ({"data": [{"98765": 1}]}, "UINT8"),
        ({"data": None}, "no data"),
        ({"shape": [784]}, "28 x 28"),
        ({"shape": [-1, 784]}, "check: inputs.0.shape"),
        ({"shape": [1] * 9}, "check: inputs.0.shape"),
        ({"shape": [2**31 - 1] * 8}, "784 values"),
        ({"shape": "98765"}, "check: inputs.0.shape"),
        ({"datatype": "STRING98765"}, "datatype"),
        ({"datatype": "BYTES", "data": ["%98765"], "shape": [1]}, "base64"),
        ({"datatype": "BYTES", "data": ["AAAA"], "shape": [2]}, "1 elements"),
        ({"datatype": "BYTES", "data": ["AAAA"], "shape": [1]}, "picture file"),
        ({"datatype": "BYTES", "data": [98765], "shape": [1]}, "base64"),
        ({"datatype": "BYTES", "data": [], "shape": [0]}, "no picture file"),
        ({"datatype": "BYTES", "data": ["AAAA"] * 513, "shape": [513]}, "at most 512"),
        ({"parameters": {"binary_data_size": 784}}, "in the JSON and behind it"),
        ({"parameters": {"shared_memory_region": "x"}}, "shared memory"),
    ],
)
def test_wrong_tensors(local: Local, sidecar: InProcess, change: dict[str, Any], text: str) -> None:
    refused(local, sidecar.post(INFER, json=asked(PIXELS | change)), text)


@pytest.mark.parametrize(
    ("tensor", "behind", "text"),
    [
        (without_data(parameters={"binary_data_size": 783}), bytes(784), "does not match the 784 bytes"),
        (without_data(parameters={"binary_data_size": 783}), bytes(783), "do not fit the shape 1 x 28 x 28"),
        (without_data(parameters={"binary_data_size": True}), bytes(1), "does not match the 1 bytes"),
        (without_data(parameters={"binary_data_size": "784"}), bytes(784), "does not match the 784 bytes"),
        (without_data(), bytes(784), "but the input has no binary_data_size"),
        (PIXELS, bytes(1), "but the input has no binary_data_size"),
        (without_data(datatype="BYTES", shape=[1], parameters={"binary_data_size": 3}), bytes(3), "cut short"),
        (
            without_data(datatype="BYTES", shape=[1], parameters={"binary_data_size": 8}),
            struct.pack("<I", 2**32 - 1) + bytes(4),
            "cut short",
        ),
    ],
)
def test_wrong_binary_tensors(
    local: Local, sidecar: InProcess, tensor: dict[str, Any], behind: bytes, text: str
) -> None:
    refused(local, sidecar.post(INFER, **binary(tensor, behind)), text)


@pytest.mark.parametrize("length", ["-1", "x", "99999", "", "1e3", "٣", "9" * 5000, "0" * 12 + "1" * 5000, "0" * 5000])
def test_wrong_header_lengths(local: Local, sidecar: InProcess, length: str) -> None:
    headers = {LENGTH: length.encode()}
    refused(local, sidecar.post(INFER, content=json.dumps(asked(PIXELS)), headers=headers), LENGTH)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "check: the JSON"),
        (b"\xff\x00", "check: the JSON"),
        (b'{"inputs": 98765', "check: the JSON"),
        (b'{"inputs": []}', "check: inputs"),
        (json.dumps({"inputs": [PIXELS, PIXELS]}).encode(), "check: inputs"),
        (b"[" * 100_000, "check: the JSON"),
        (json.dumps(asked(PIXELS, outputs=[{"name": "98765"}])).encode(), "label, label_name, output, probability"),
    ],
)
def test_wrong_messages(local: Local, sidecar: InProcess, body: bytes, text: str) -> None:
    refused(local, sidecar.post(INFER, content=body), text)


@pytest.mark.parametrize("count", [-1, "2", 1.5, True])
def test_wrong_classification(local: Local, sidecar: InProcess, count: object) -> None:
    outputs = [{"name": "output", "parameters": {"classification": count}}]
    refused(local, sidecar.post(INFER, json=asked(PIXELS, outputs=outputs)), "the number of wanted classes")


def refused(local: Local, answer: Any, text: str) -> None:
    assert answer.status_code == 422, answer.text
    assert text in answer.json()["detail"] and answer.json()["error"] and "98765" not in answer.text
    assert not local.bodies, "nothing was sent"


@pytest.mark.parametrize("name", ["other", "%2e%2e", "a%3Fb=c", "a%23", "A", "a" * 65, "%00"])
def test_unknown_models(sidecar: InProcess, name: str) -> None:
    for answer in (sidecar.get(f"/v2/models/{name}"), sidecar.post(f"/v2/models/{name}/infer", json=asked(PIXELS))):
        assert answer.status_code == 404


def test_a_version_that_was_published_meanwhile_is_found(local: Local, sidecar: InProcess) -> None:
    assert sidecar.get("/v2/models/mnist/versions/2").status_code == 404
    local.entry = local.entry.model_copy(update={"version": 2})
    assert sidecar.get("/v2/models/mnist/versions/2").json()["versions"] == ["2"]
    assert sidecar.post("/v2/models/mnist/versions/1/infer", json=asked(PIXELS)).status_code == 404
    answer = sidecar.post("/v2/models/mnist/versions/2/infer", json=asked(PIXELS))
    assert answer.json()["model_version"] == "2"


def test_readiness_is_the_partys(local: Local, sidecar: InProcess) -> None:
    assert sidecar.get("/v2/models/mnist/ready").json() == {"name": "mnist", "ready": True}
    local.ready = False
    assert sidecar.get("/v2/models/mnist/ready").status_code >= 500
    local.listed = "<html>"
    answer = sidecar.get("/v2/health/ready")
    assert answer.status_code == 503 and "catalogue" in answer.json()["error"]
    assert sidecar.get("/health/ready").status_code == 503 and sidecar.get("/v2/health/live").is_success


def test_what_counts_only_is_listed_as_such(local: Local, entry: Entry, sidecar: InProcess) -> None:
    ask = {"content": b'{"ready": true}'}
    assert [one["state"] for one in sidecar.post("/v2/repository/index", **ask).json()] == ["READY"]
    local.entry = entry.model_copy(update={"plan": plans.count(), "preprocessing": None})
    (one,) = sidecar.post("/v2/repository/index").json()
    assert one["state"] == "UNAVAILABLE" and one["reason"]
    assert sidecar.post("/v2/repository/index", **ask).json() == []
    assert sidecar.get("/v2/models/mnist/ready").status_code == 422
    assert sidecar.get("/v1/models").json()[0]["picture"] is None


def test_trust_that_fails_is_not_called_a_pause() -> None:
    for error in (UntrustedEntry("who?"), ResultRejected("changed")):
        assert problem_of(error).kind is ProblemType.UNTRUSTED and problem_of(error).retry_after is None


# What the page shows


@pytest.mark.parametrize(
    ("told", "milliseconds"),
    [("rounds;dur=2", 2.0), ("rounds;dur=0.000", None), ("rounds;dur=1.2.3", None), ("rounds;dur=" + "9" * 5000, None)],
)
def test_a_time_that_is_no_number_is_not_shown(told: str, milliseconds: float | None) -> None:
    assert demonstration._rounds_ms(httpx.Response(200, headers={"server-timing": told})) == milliseconds


def test_shares_and_bytes_are_those_of_the_very_call(local: Local, sidecar: InProcess, digits: Any) -> None:
    shown = sidecar.post("/v1/show/mnist", content=png(digits[0][0])).json()
    (body,) = local.bodies
    assert shown["label"] == "9" and shown["top"][0]["name"] == "9" and len(shown["top"]) == 10
    assert abs(sum(one["confidence"] for one in shown["top"]) - 1) < 1e-4
    assert base64.b64decode(shown["pixels"]) == digits[0][0].tobytes()
    alice, bob = shown["parties"]
    assert bytes.fromhex(alice["envelope"]) in body and bytes.fromhex(bob["envelope"]) in body
    shares = [np.frombuffer(base64.b64decode(one["share"]), np.uint8) for one in (alice, bob)]
    assert [len(share) for share in shares] == [784, 784]
    # The highest bytes add up to those of the encoded picture, but for a carry from below.
    encoded = (shares[0].astype(int) + shares[1]) % 256
    assert set(np.unique(encoded)) <= {0, 1, 254, 255} and all(len(np.unique(share)) > 100 for share in shares)
    measured = shown["measured"]
    assert measured["upload_bytes"] == len(body) and measured["rounds_ms"] == 1.5 and measured["rounds"] == 5
    assert sum(one["bytes"] for one in shown["formula"]) == local.entry.plan.cost(1).online_bytes


def test_pictures_are_made_to_fit(sidecar: InProcess, digits: Any) -> None:
    large = np.kron(digits[0][0], np.ones((10, 10), np.uint8))
    shown = sidecar.post("/v1/show/mnist?invert=true", content=png(np.stack([255 - large] * 3, axis=-1), "JPEG")).json()
    pixels = np.frombuffer(base64.b64decode(shown["pixels"]), np.uint8).reshape(28, 28)
    assert np.abs(pixels.astype(int) - digits[0][0]).mean() < 8
    clear = np.zeros((28, 28, 4), np.uint8)
    shown = sidecar.post("/v1/show/mnist", content=png(clear)).json()
    assert set(base64.b64decode(shown["pixels"])) == {255}, "what shines through is white paper"


@pytest.mark.parametrize(
    "body", [b"", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"GIF89a" + bytes(20), png(np.zeros((9, 9), np.uint8))[:45]]
)
def test_what_is_no_picture_is_refused(local: Local, sidecar: InProcess, body: bytes) -> None:
    refused(local, sidecar.post("/v1/show/mnist", content=body), "picture")


def test_a_picture_that_unpacks_to_too_much_is_not_unpacked(local: Local, sidecar: InProcess) -> None:
    Image.new("1", (20_000, 20_000)).save(into := io.BytesIO(), "PNG")
    refused(local, sidecar.post("/v1/show/mnist", content=into.getvalue()), "picture")


def test_a_republished_model_is_shown(local: Local, sidecar: InProcess, digits: Any) -> None:
    local.answers = [Problem(ProblemType.UNKNOWN_MODEL)]
    assert sidecar.post("/v1/show/mnist", content=png(digits[0][0])).json()["label"] == "9"
    local.answers = [Problem(ProblemType.UNKNOWN_MODEL)] * 2
    assert sidecar.post("/v1/show/mnist", content=png(digits[0][0])).status_code == 404


def test_a_coloured_share_is_laid_out_as_its_picture_is(entry: Entry) -> None:
    how = Preprocessing(channels=3, size=(2, 2), mean=(0.0,) * 3, std=(1.0,) * 3)
    planes = np.arange(12, dtype=np.int32)[None] << 24  # red's four, then green's, then blue's
    drawn = base64.b64decode(_drawn(entry.model_copy(update={"preprocessing": how}), planes))
    assert list(drawn) == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_the_schedule_has_the_plans_rounds_and_bytes(entry: Entry) -> None:
    for plan in (entry.plan, plans.logits(), plans.labels(), plans.branches()):
        rounds, cost = schedule(plan), plan.cost(1)
        assert (len(rounds), sum(one.bytes for one in rounds)) == (cost.rounds, cost.online_bytes)
        assert all(one.layers for one in rounds)


def test_the_interface_is_described(sidecar: InProcess) -> None:
    document = sidecar.get("/openapi.json").json()
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in document["components"]["schemas"], reference
    for path in ("/v2/models/{name}/infer", "/v1/show/{name}"):
        samples = document["paths"][path]["post"]["x-codeSamples"]
        assert [one["lang"] for one in samples] == ["Shell", "Python", "JavaScript"]
        assert all("localhost:7704" in one["source"] for one in samples)
