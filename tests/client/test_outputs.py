"""What answers mean: classes, one of two classes, values, decisions; in the SDK, the sidecar and its metadata."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from moiety_client import tasks
from moiety_client.answers import Prediction
from moiety_client.errors import InvalidInput, LabelsOnly, MoietyError, NoLabels, NoProbabilities, ResultRejected
from moiety_client.settings import ClientSettings
from moiety_client.sidecar import build
from moiety_client.sidecar.demonstration import told
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.plan.plan import Output, Plan
from moiety_shared.ring import Array
from tests import plans
from tests.asgi import InProcess
from tests.client.test_results import Service, real

Keys = tuple[PrivateKey, PrivateKey]
THREE = np.array([[2.0, -1.0, 0.5], [-3.0, 4.0, 3.5]])
ONE = np.array([[2.5], [-1.0], [7.0], [0.0]])
NAMES = ("repaid", "defaulted")
SOFTMAX = np.exp(THREE) / np.exp(THREE).sum(axis=1, keepdims=True)
SIGMOID = 1 / (1 + np.exp(-THREE))


def of(given: np.ndarray, classes: tuple[str, ...] = (), **output: Any) -> Prediction:
    shape = {"wire": "y", "shape": given.shape[1:]}
    return Prediction(Output.model_validate(shape | output), given, classes, 4, 100, 0.1)


def two(second: Any) -> np.ndarray:
    return np.stack([1 - np.array(second), np.array(second)], axis=1)


@pytest.mark.parametrize(
    ("output", "probabilities", "outputs"),
    [
        ({}, SOFTMAX, THREE),
        ({"final": "softmax"}, SOFTMAX, SOFTMAX),
        ({"final": "log_softmax"}, SOFTMAX, np.log(SOFTMAX)),
        ({"final": "ovr"}, SIGMOID / SIGMOID.sum(axis=1, keepdims=True), SIGMOID / SIGMOID.sum(axis=1, keepdims=True)),
        ({"final": "sigmoid"}, SIGMOID, SIGMOID),
        ({"unit": "probabilities"}, THREE, THREE),
        ({"unit": "scores"}, None, THREE),
    ],
)
def test_several_outputs(output: dict[str, Any], probabilities: np.ndarray | None, outputs: np.ndarray) -> None:
    answer = of(THREE, ("a", "b", "c"), **output)
    assert answer.labels.tolist() == [0, 1] and answer.names == ["a", "b"]
    assert answer.top.tolist() == [[0, 2, 1], [1, 2, 0]]
    np.testing.assert_allclose(answer.outputs, outputs, atol=1e-12)
    np.testing.assert_allclose(answer.values, outputs, atol=1e-12)
    assert np.array_equal(answer.scores, THREE)
    if probabilities is None:
        with pytest.raises(NoProbabilities, match="scores, which are no probabilities"):
            _ = answer.probabilities
    else:
        np.testing.assert_allclose(answer.probabilities, probabilities, atol=1e-12)


LOGISTIC = 1 / (1 + np.exp(-ONE[:, 0]))


@pytest.mark.parametrize(
    ("output", "labels", "probabilities", "outputs"),
    [
        ({}, [1, 0, 1, 0], two(LOGISTIC), ONE[:, 0]),
        ({"final": "sigmoid"}, [1, 0, 1, 0], two(LOGISTIC), LOGISTIC),
        ({"final": "sigmoid", "threshold": 3.0}, [0, 0, 1, 0], two(LOGISTIC), LOGISTIC),
        ({"final": "sigmoid", "threshold": -0.5}, [1, 0, 1, 1], two(LOGISTIC), LOGISTIC),
        ({"unit": "scores", "threshold": 2.5}, [0, 0, 1, 0], None, ONE[:, 0]),
        ({"unit": "probabilities", "threshold": 0.5}, [1, 0, 1, 0], two([1, 0, 1, 0]), ONE[:, 0]),
    ],
)
def test_one_output_tells_two_classes_apart(
    output: dict[str, Any], labels: list[int], probabilities: np.ndarray | None, outputs: np.ndarray
) -> None:
    answer = of(ONE, NAMES, task="binary", **output)
    assert answer.labels.tolist() == labels and answer.names == [NAMES[label] for label in labels]
    assert answer.top.tolist() == [[label, 1 - label] for label in labels]
    np.testing.assert_allclose(answer.outputs, outputs[:, None], atol=1e-12)
    np.testing.assert_allclose(answer.values, outputs, atol=1e-12)
    assert np.array_equal(answer.scores, ONE[:, 0])
    if probabilities is None:
        with pytest.raises(NoProbabilities, match="scores, which are no probabilities"):
            _ = answer.probabilities
    else:
        np.testing.assert_allclose(answer.probabilities, probabilities, atol=1e-12)


def refused(answer: Prediction, error: type[MoietyError], *members: str) -> None:
    for member in members:
        with pytest.raises(error):
            getattr(answer, member)


def test_values_are_no_classes() -> None:
    answer = of(ONE, task="values")
    assert answer.values.tolist() == [2.5, -1.0, 7.0, 0.0] == answer.scores.tolist()
    assert answer.outputs.tolist() == ONE.tolist()
    refused(answer, NoLabels, "labels", "names", "top")
    refused(answer, NoProbabilities, "probabilities")
    counts = of(ONE, task="values", final="exp")
    np.testing.assert_allclose(counts.values, np.exp(ONE[:, 0]))
    assert counts.scores.tolist() == ONE[:, 0].tolist()
    assert of(THREE, task="values").values.tolist() == THREE.tolist()


def test_of_a_decision_there_is_nothing_else() -> None:
    answer = of(np.array([[1], [0], [1]]), NAMES, task="binary", kind="decision")
    assert answer.labels.tolist() == [1, 0, 1] and answer.names == ["defaulted", "repaid", "defaulted"]
    assert answer.top.tolist() == [[1, 0], [0, 1], [1, 0]]
    refused(answer, LabelsOnly, "outputs", "scores", "values", "probabilities")
    refused(of(np.array([[1, 0, 2]], np.uint8), kind="labels", top=2), LabelsOnly, "outputs", "scores", "values")


def test_a_class_without_a_name_has_its_number() -> None:
    assert of(ONE, task="binary").names == ["1", "0", "1", "0"]


def test_answers_are_a_data_frame() -> None:
    index = pandas.Index(["a", "b", "c", "d"], name="row")
    answer = replace(of(ONE, NAMES, task="binary", final="sigmoid"), index=index)
    frame = answer.frame()
    assert list(frame.columns) == ["label", "probability of repaid", "probability of defaulted"]
    assert frame.index.equals(index) and frame.loc["b", "label"] == "repaid"
    np.testing.assert_allclose(frame["probability of defaulted"], LOGISTIC)
    assert of(ONE, NAMES, task="binary", unit="scores").frame().columns.tolist() == ["label"]
    assert of(ONE, task="values").frame()["value"].tolist() == ONE[:, 0].tolist()
    assert of(THREE, task="values").frame().columns.tolist() == ["value 0", "value 1", "value 2"]


# Over real runs


@pytest.fixture(scope="module")
def x() -> Array:
    return plans.random_inputs(40)


@pytest.fixture(scope="module")
def sums(x: Array) -> np.ndarray:
    return plans.scores(x).sum(axis=1) / 16.0


def named(plan: Plan, keys: Keys, classes: tuple[str, ...] = NAMES) -> Service:
    service = Service(plan, keys)
    service.entry = service.entry.model_copy(update={"classes": classes})
    return service


def test_a_decision_is_all_that_leaves(party_keys: Keys, x: Array, sums: np.ndarray) -> None:
    service = named(plans.decision(), party_keys)
    answer = service.client().predict("small", real(x))
    assert np.array_equal(answer.labels, sums > 0) and 0 < answer.labels.sum() < len(x)
    ((alice, bob),) = service.results
    assert np.array_equal(alice.view(np.int32) + bob.view(np.int32), sums > 0), "0 or 1, and nothing else"
    assert len(np.unique(alice.view(np.int32))) == len(x), "a share alone is random"


def test_what_is_no_decision_is_rejected(party_keys: Keys, x: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    service = named(plans.decision(), party_keys)
    joined = tasks.joined

    def tampered(plan: Plan, shares: tuple[Array, Array]) -> np.ndarray:
        return joined(plan, (shares[0] + 2, shares[1]))

    monkeypatch.setattr(tasks, "joined", tampered)
    with pytest.raises(ResultRejected, match="no decision"):
        service.client().predict("small", real(x))


def test_two_classes_are_evaluated(party_keys: Keys, x: Array, sums: np.ndarray) -> None:
    truth = np.where(np.arange(len(x)) % 4 == 0, sums <= 0, sums > 0).astype(int)
    for plan in (plans.single(task="binary"), plans.decision()):
        client = named(plan, party_keys).client()
        for labels in (truth, [NAMES[at] for at in truth]):
            assert client.evaluate("small", real(x), labels).correct == 30
        with pytest.raises(InvalidInput, match="from 0 to 1"):
            client.evaluate("small", real(x), truth + 1)


def test_values_are_evaluated(party_keys: Keys, x: Array, sums: np.ndarray) -> None:
    client = named(plans.single(task="values"), party_keys, ()).client()
    result = client.evaluate("small", real(x), sums + np.where(np.arange(len(x)) % 2, 3.0, -1.0))
    assert result.mean_absolute_error == pytest.approx(2.0) and "off by 2 on average" in str(result)
    assert (result.correct, result.accuracy, result.right, result.total) == (None, None, None, 40)
    wrong: list[Any] = [sums[:3], ["high"] * 40, np.full(40, np.nan)]
    for values in wrong:
        with pytest.raises(InvalidInput, match="1 finite numbers for each of 40 inputs"):
            client.evaluate("small", real(x), values)


@pytest.mark.parametrize("plan", [plans.decision, lambda: plans.single(task="binary", final="sigmoid"), plans.labels])
def test_a_run_that_goes_on_gives_what_it_gave(
    party_keys: Keys, x: Array, tmp_path: Path, plan: Callable[[], Plan]
) -> None:
    service = named(plan(), party_keys, ())
    first, again = (
        list(service.client().stream("small", real(x), batch=16, resume=tmp_path / "run.jsonl")) for _ in range(2)
    )
    assert len(service.results) == 3, "the second time all came from the file"
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.given, other.given) and np.array_equal(one.labels, other.labels)
        assert one.output.has_probabilities == other.output.has_probabilities


TENSOR = {"name": "input", "datatype": "FP64"}


@pytest.mark.parametrize(
    ("plan", "offered", "parameters"),
    [
        (
            plans.single(task="binary", final="sigmoid", threshold=0.5),
            {
                "label": ("INT64", ()),
                "label_name": ("BYTES", ()),
                "output": ("FP64", (1,)),
                "probability": ("FP64", (2,)),
            },
            {"task": "binary", "final": "sigmoid", "classes": list(NAMES), "threshold": 0.5},
        ),
        (
            plans.single(task="binary", unit="scores"),
            {"label": ("INT64", ()), "label_name": ("BYTES", ()), "output": ("FP64", (1,))},
            {"task": "binary", "final": "none", "classes": list(NAMES), "threshold": 0.0},
        ),
        (plans.single(task="values"), {"value": ("FP64", ())}, {"task": "values", "final": "none"}),
        (
            plans.decision(),
            {"label": ("INT64", ()), "label_name": ("BYTES", ())},
            {"task": "binary", "final": "none", "classes": list(NAMES)},
        ),
    ],
)
def test_the_sidecar_gives_what_the_sdk_gives(
    party_keys: Keys,
    x: Array,
    plan: Plan,
    offered: dict[str, tuple[str, tuple[int, ...]]],
    parameters: dict[str, Any],
) -> None:
    service = named(plan, party_keys)
    answer = service.client().predict("small", real(x[:3]))
    app = InProcess(build(service.async_client(), ClientSettings()))
    described = app.get("/v2/models/small").json()
    assert {one["name"]: (one["datatype"], tuple(one["shape"])) for one in described["outputs"]} == {
        name: (datatype, (-1, *shape)) for name, (datatype, shape) in offered.items()
    }
    assert described["parameters"] == parameters
    assert described["inputs"][0]["parameters"] == {"low": -8, "high": 8}
    tensor = TENSOR | {"shape": [3, 4], "data": real(x[:3]).ravel().tolist()}
    outputs = app.post("/v2/models/small/infer", json={"inputs": [tensor]}).json()["outputs"]
    expected: dict[str, Any] = {
        "label": lambda: answer.labels,
        "label_name": lambda: np.array(answer.names),
        "output": lambda: answer.outputs,
        "probability": lambda: answer.probabilities,
        "value": lambda: answer.values,
    }
    assert [one["name"] for one in outputs] == list(offered)
    for one in outputs:
        values = expected[one["name"]]()
        assert one["shape"] == list(values.shape) and one["data"] == values.ravel().tolist()
    asked = app.post("/v2/models/small/infer", json={"inputs": [tensor], "outputs": [{"name": "confidence"}]})
    assert asked.is_success == ("probability" in offered), "as release 0.2 called it"
    if asked.is_success:
        assert asked.json()["outputs"][0]["data"] == answer.probabilities.ravel().tolist()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (of(ONE, NAMES, task="binary"), "defaulted"),
        (of(np.array([[0]]), NAMES, task="binary", kind="decision"), "repaid"),
        (of(np.array([[151.2999]]), task="values"), "151.3"),
        (of(np.arange(12.0)[None], task="values"), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."),
    ],
)
def test_what_the_page_says_first(answer: Prediction, text: str) -> None:
    assert told(answer) == text
