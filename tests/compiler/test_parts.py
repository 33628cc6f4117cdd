"""Models of several inputs and of several outputs: each gets its own scale, and each its own function."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from moiety_client import inputs
from moiety_client.answers import Prediction
from moiety_client.errors import InvalidInput
from moiety_server.compiler.compilation import Compiled, compile_model
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx.graph import read_onnx
from moiety_server.compiler.trace import trace
from moiety_shared import reference
from moiety_shared.fixed_point import decode
from moiety_shared.messages.catalogue import Entry

RANGES = ({"image": 0.0, "Age": 18.0}, {"image": 1.0, "Age": 99.0})


class Heads(nn.Module):
    """A picture and an age; outputs of very different sizes."""

    def __init__(self, answer: str = "dict") -> None:
        super().__init__()
        self.conv, self.body = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 36 + 1, 8)
        self.digit, self.size, self.answer = nn.Linear(8, 3), nn.Linear(8, 2), answer

    def forward(self, image: Tensor, Age: Tensor, scale: float = 1000.0) -> Any:
        x = torch.cat((self.conv(image).relu().flatten(1), Age / 100), 1)
        x = self.body(x).relu()
        logits, size = self.digit(x), self.size(x) * scale
        if self.answer == "tuple":
            return logits, size
        return {"digit": logits.softmax(1), "size": size, "label": logits.argmax(1)}


def calibration(rows: int = 48) -> dict[str, Tensor]:
    return {"Age": torch.rand(rows, 1) * 81 + 18, "image": torch.rand(rows, 1, 6, 6)}


def answers(entry: Entry, compiled: Compiled, given: Any) -> Prediction:
    """What a client gets of its input: encoded, run in plain fixed point, and finished."""
    of = entry.model_copy(update={"plan": compiled.plan, "preprocessing": None, "classes": ()})
    plan = compiled.plan
    out = reference.run(plan, inputs.encode(of, given), compiled.weights)
    values = decode(out, scale=plan.output.scale).reshape(len(out), *plan.output.shape)
    return Prediction(plan.output, values, (), 1, 1, 0.0)


@pytest.fixture(scope="module")
def model() -> Heads:
    torch.manual_seed(5)
    return Heads().eval()


@pytest.fixture(scope="module")
def compiled(model: Heads) -> Compiled:
    return compile_model(model, calibration(), low=RANGES[0], high=RANGES[1])


def test_inputs_and_outputs_are_those_of_the_model(entry: Entry, model: Heads, compiled: Compiled) -> None:
    given = calibration(9)
    with torch.no_grad():
        expected = model(**given)
    got = answers(entry, compiled, given).outputs
    assert list(got) == ["digit", "size"]  # labels are read off the digits
    for name, values in got.items():
        assert values.shape == expected[name].shape
        assert np.abs(values - expected[name].numpy()).max() < 0.02 * expected[name].std().item()


def test_outputs_of_different_sizes_fit_the_smaller_ring(compiled: Compiled) -> None:
    assert compiled.plan.ring_bits == 32
    assert compiled.error < 0.01 * compiled.spread


def test_the_error_is_that_of_the_least_exact_output(entry: Entry) -> None:
    torch.manual_seed(5)
    model, given = Heads("tuple").eval(), calibration()
    compiled = compile_model(model, given, low=RANGES[0], high=RANGES[1])
    with torch.no_grad():
        exact = [one.double().numpy() for one in model(**given)]
    got = answers(entry, compiled, given).outputs.values()
    parts = [np.abs(a - b).max() / a.std() for a, b in zip(exact, got, strict=True)]
    assert max(parts) > 1.05 * min(parts)
    assert compiled.error / compiled.spread == pytest.approx(max(parts), rel=0.02)


def test_one_output_is_served_as_of_a_model_that_has_no_other(model: Heads) -> None:
    one = compile_model(model, calibration(), low=RANGES[0], high=RANGES[1], output="digit")
    assert not one.plan.output.parts and one.plan.output.shape == (3,) and one.plan.output.final == "softmax"


def test_inputs_may_come_in_any_order_and_form(entry: Entry, compiled: Compiled, tmp_path: Path) -> None:
    given = calibration(4)
    expected = answers(entry, compiled, given).values
    arrays = {name: values.numpy() for name, values in reversed(given.items())}
    np.savez(tmp_path / "rows.npz", **arrays)
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    rows = [{name: values[i] for name, values in arrays.items()} for i in range(4)]
    flat_age = arrays | {"Age": arrays["Age"][:, 0]}
    for one in (arrays, tmp_path / "rows.npz", tmp_path / "small.npz", rows, flat_age):
        assert np.array_equal(answers(entry, compiled, one).values, expected)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"age": 1.0, "Age": None}, "is it 'age'"),
        ({"Age": None}, "missing inputs: 'Age'"),
        ({"more": 1.0}, "unknown inputs: 'more'"),
        ({"Age": np.full((2, 1), 17.0)}, "'Age' has values outside the declared range 18 to 99"),
        ({"Age": np.full((2, 1), np.nan)}, "'Age' contains NaN"),
        ({"Age": np.full((3, 1), 30.0)}, "3 of 'Age'"),
        ({"Age": np.full((2, 2), 30.0)}, "the input 'Age': the model takes inputs of shape 1"),
        ({"image": np.zeros((2, 1, 6, 6), dtype=np.uint8)}, "the input 'image': pass floats from 0 to 1"),
    ],
)
def test_a_wrong_input_is_named(entry: Entry, compiled: Compiled, change: dict[str, Any], said: str) -> None:
    given = {k: v for k, v in ({**calibration(2), **change}).items() if v is not None}
    with pytest.raises(InvalidInput, match=said):
        answers(entry, compiled, given)


def test_the_ends_of_a_range_are_taken(entry: Entry, compiled: Compiled) -> None:
    for age in (18.0, 99.0):
        answers(entry, compiled, {"image": np.zeros((1, 6, 6)), "Age": np.array([age])})


def test_an_array_says_nothing_of_names(entry: Entry, compiled: Compiled) -> None:
    with pytest.raises(InvalidInput, match="dictionary of 'image', 'Age'"):
        answers(entry, compiled, np.zeros((2, 1, 6, 6)))


def test_one_input_takes_no_dictionary(entry: Entry) -> None:
    with pytest.raises(InvalidInput, match="one input"):
        inputs.encode(entry, {"x": np.zeros(784)})


def test_a_tuple_is_named_by_its_places() -> None:
    graph = trace(Heads("tuple").eval(), calibration(2))
    assert [part.name for part in graph.outputs] == ["output_0", "output_1"]
    chosen = trace(Heads("tuple").eval(), calibration(2), "output_1")
    assert not chosen.outputs and chosen.nodes[-1].shape == (2,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Age": None}, "no calibration data of its input Age"),
        ({"more": torch.zeros(48, 1)}, "has no input more"),
        ({"Age": torch.full((48, 1), 17.0)}, "Age: the calibration data lies outside"),
        ({"Age": torch.full((47, 1), 20.0)}, "more of one input"),
    ],
)
def test_wrong_calibration_is_named(model: Heads, change: dict[str, Any], said: str) -> None:
    given = {k: v for k, v in (calibration() | change).items() if v is not None}
    with pytest.raises(NotServable, match=said):
        compile_model(model, given, low=RANGES[0], high=RANGES[1])


def test_labels_of_several_outputs_are_refused(model: Heads) -> None:
    with pytest.raises(NotServable, match=r"digit, size.* Instead: choose one with --output"):
        compile_model(model, calibration(), low=RANGES[0], high=RANGES[1], reveal="labels")
    with pytest.raises(NotServable, match=r"no output digits.* Instead: digit, size, label"):
        compile_model(model, calibration(), low=RANGES[0], high=RANGES[1], output="digits")


# ONNX


def two_inputs(path: Path, *, height: int | str = "H") -> Path:
    """A picture of open size and a vector; three outputs, of which one is a label and one a softmax."""
    secrets = {"k": torch.randn(2, 1, 3, 3), "w": torch.randn(5, 3), "v": torch.randn(5, 1)}
    nodes = [
        helper.make_node("Conv", ["Image", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Concat", ["f", "input.2"], ["j"], axis=1),
        helper.make_node("MatMul", ["j", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["Probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        helper.make_node("MatMul", ["j", "v"], ["value"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("Image", TensorProto.FLOAT, ["N", 1, height, "W"]),
            helper.make_tensor_value_info("input.2", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("Probabilities", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, ["N", 1]),
        ],
        [numpy_helper.from_array(value.numpy(), name) for name, value in secrets.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path / "m.onnx")
    return path / "m.onnx"


@settings(max_examples=5, deadline=None)
@given(height=st.integers(3, 6), width=st.integers(3, 6), low=st.floats(-5, 5), width_of_range=st.floats(0.5, 1000))
def test_an_onnx_file_is_what_it_is_for_onnx(
    entry: Entry,
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    low: float,
    width_of_range: float,
) -> None:
    torch.manual_seed(height)
    path = two_inputs(tmp_path_factory.mktemp("onnx"))
    given = {
        "Image": torch.rand(32, 1, height, width) * width_of_range + low,
        "input.2": torch.rand(32, 3) * width_of_range + low,
    }
    compiled = compile_model(
        read_onnx(path, given),
        given,
        low={name: float(v.min()) for name, v in given.items()},
        high={name: float(v.max()) for name, v in given.items()},
    )
    got = answers(entry, compiled, given).outputs
    _, probabilities, value = ReferenceEvaluator(str(path)).run(None, {k: v.numpy() for k, v in given.items()})
    assert list(got) == ["Probabilities", "value"]
    assert np.abs(got["value"] - value).max() < 0.02 * max(value.std(), 0.01)
    assert np.abs(got["Probabilities"] - probabilities).max() < 0.05


def test_one_output_of_a_file_may_be_chosen(tmp_path: Path) -> None:
    given = {"Image": torch.rand(2, 1, 5, 4), "input.2": torch.rand(2, 3)}
    graph = read_onnx(two_inputs(tmp_path), given, "value")
    assert not graph.outputs and graph.nodes[-1].shape == (1,) and graph.final == "none"
    with pytest.raises(NotServable, match=r"no output score.* Instead: label, Probabilities, value"):
        read_onnx(two_inputs(tmp_path), given, "score")


def test_sizes_left_open_need_an_example(tmp_path: Path) -> None:
    with pytest.raises(NotServable, match="open are those of the calibration data"):
        read_onnx(two_inputs(tmp_path))


def test_a_size_that_the_file_states_is_not_the_examples(tmp_path: Path) -> None:
    given = {"Image": torch.rand(8, 1, 5, 4), "input.2": torch.rand(8, 3)}
    graph = read_onnx(two_inputs(tmp_path, height=6), given)
    assert graph.inputs[0].shape == (1, 6, 4)
    with pytest.raises(NotServable, match="Image: the calibration data has 1 x 5 x 4, the model takes 1 x 6 x 4"):
        compile_model(graph, given, low=0, high=1)
