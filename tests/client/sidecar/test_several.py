"""A model of several inputs and outputs, asked by name over real runs: in Python, and as KServe has it."""

import json
from typing import Any

import httpx
import numpy as np
import pytest

from moiety_client.settings import ClientSettings
from moiety_client.sidecar import Upstream, build
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.catalogue import sign
from moiety_shared.plan.plan import InputPart, Output, OutputPart, Plan
from tests import plans
from tests.asgi import InProcess
from tests.client.test_results import Service

INFER = "/v2/models/small/infer"
WEIGHTS = (10.0, 30.0)  # the range of the second input
GIVEN = {"Size": np.array([[[1.0, 0.5, 0.0]], [[-1.0, 0.25, 1.0]]]), "age": np.array([[10.0], [25.0]])}


def several() -> Plan:
    """Scores of four values, of which the client gives three and one; two outputs, the first through a softmax."""
    plan = plans.logits()
    parts = (
        InputPart(name="Size", shape=(1, 3), low=-1, high=1),
        InputPart(name="age", shape=(1,), low=WEIGHTS[0], high=WEIGHTS[1]),
    )
    x = plan.input.model_copy(update={"low": -1.0, "high": 1.0, "parts": parts})
    outputs = (
        OutputPart(name="kind", shape=(2,), final="softmax"),
        OutputPart(name="box", shape=(3, 1), scale=0.5),
    )
    output = Output(wire="l", shape=(plans.CLASSES,), scale=2.0**-4, task="values", parts=outputs)
    return Plan(ring_bits=32, input=x, layers=plan.layers, output=output)


def expected(rows: int = 2) -> dict[str, np.ndarray]:
    ages = (GIVEN["age"] - sum(WEIGHTS) / 2) / ((WEIGHTS[1] - WEIGHTS[0]) / 2)
    encoded = np.rint(np.concatenate([GIVEN["Size"].reshape(2, 3), ages], axis=1) * 16).astype(np.int64)
    scores = plans.scores(encoded)[:rows] / 16
    powers = np.exp(scores[:, :2] - scores[:, :2].max(axis=1, keepdims=True))
    return {"kind": powers / powers.sum(axis=1, keepdims=True), "box": scores[:, 2:].reshape(-1, 3, 1) / 2}


@pytest.fixture
def service(party_keys: tuple[PrivateKey, PrivateKey]) -> Service:
    return Service(several(), party_keys)


@pytest.fixture
def sidecar(service: Service) -> InProcess:
    upstream = Upstream("https://owner", owner_key=sign(service.entry, service.owner).owner_key, timeout=30)
    upstream._http = httpx.AsyncClient(transport=httpx.MockTransport(service))
    return InProcess(build(upstream, ClientSettings()))


def tensors(**change: dict[str, Any]) -> list[dict[str, Any]]:
    made = [
        {"name": name, "shape": list(values.shape), "datatype": "FP64", "data": values.ravel().tolist()}
        for name, values in GIVEN.items()
    ]
    return [tensor | change.get(str(tensor["name"]), {}) for tensor in made]


def test_outputs_are_a_dictionary_by_name(service: Service) -> None:
    with service.client() as client:
        answer = client.predict("small", GIVEN)
        streamed = list(client.stream("small", GIVEN, batch=1))
    for name, values in expected().items():
        np.testing.assert_allclose(answer.outputs[name], values)
        np.testing.assert_allclose(np.concatenate([part.outputs[name] for part in streamed]), values)


def test_each_part_is_a_tensor_of_kserve(sidecar: InProcess) -> None:
    answer = sidecar.post(INFER, json={"inputs": tensors()[::-1]}).json()
    assert [one["name"] for one in answer["outputs"]] == ["kind", "box"]
    for one in answer["outputs"]:
        np.testing.assert_allclose(np.reshape(one["data"], one["shape"]), expected()[one["name"]])
    wanted = sidecar.post(INFER, json={"inputs": tensors(), "outputs": [{"name": "box"}]}).json()
    assert [one["shape"] for one in wanted["outputs"]] == [[2, 3, 1]]


def test_binary_tensors_follow_one_another(sidecar: InProcess) -> None:
    inputs = []
    for tensor in tensors():
        del tensor["data"]
        inputs.append(tensor | {"parameters": {"binary_data_size": GIVEN[tensor["name"]].nbytes}})
    text = json.dumps({"inputs": inputs}).encode()
    behind = b"".join(values.tobytes() for values in GIVEN.values())
    headers = {"inference-header-content-length": str(len(text))}
    answer = sidecar.post(INFER, content=text + behind, headers=headers).json()
    np.testing.assert_allclose(np.reshape(answer["outputs"][1]["data"], (2, 3, 1)), expected()["box"])
    for wrong in (behind[:-1], behind + b"1"):
        refused = sidecar.post(INFER, content=text + wrong, headers=headers)
        assert refused.status_code == 422 and "binary_data_size" in refused.json()["detail"]


def test_metadata_names_each_part(sidecar: InProcess) -> None:
    about = sidecar.get("/v2/models/small").json()
    assert [(one["name"], one["shape"]) for one in about["inputs"]] == [("Size", [-1, 1, 3]), ("age", [-1, 1])]
    assert [(one["name"], one["shape"]) for one in about["outputs"]] == [("kind", [-1, 2]), ("box", [-1, 3, 1])]
    config = sidecar.get("/v2/models/small/config").json()
    assert [one["dims"] for one in config["input"]] == [[1, 3], [1]]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (tensors()[:1], "missing inputs: 'age'"),
        (tensors(age={"name": "Age"}), "is it 'Age'"),
        ([*tensors(), tensors()[0]], "two inputs have one name"),
        (tensors(age={"data": [9.0, 10.0]}), "'age' has values outside"),
        (tensors(age={"datatype": "BYTES", "data": ["AAAA", "AAAA"], "shape": [2]}), "'age': send numbers"),
        ([], "missing inputs: 'Size', 'age'"),
    ],
)
def test_wrong_parts_are_named(sidecar: InProcess, inputs: list[dict[str, Any]], said: str) -> None:
    answer = sidecar.post(INFER, json={"inputs": inputs})
    assert answer.status_code == 422 and said in answer.json()["detail"], answer.json()


def test_the_entry_says_what_each_part_is(service: Service) -> None:
    facts = service.entry.facts()
    assert facts["takes"] == "the inputs Size (1 x 3) from -1 to 1, age (1) from 10 to 30"
    assert facts["gives"] == "the outputs kind (2), box (3 x 1)"
