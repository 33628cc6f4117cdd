"""What a plan tells clients of its outputs: what the graph shows, and what the owner states."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import save
from torch import nn

from moiety_server import sources
from moiety_server.compiler.compilation import compile_model, encode_rows
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.meaning import Meaning, Reveal, on_unit
from moiety_server.compiler.onnx.graph import read_onnx
from moiety_server.compiler.trace import trace
from moiety_shared.plan.plan import Output
from tests.compiler.onnx_files import FLOAT, helper, node
from tests.compiler.tracing import kinds
from tests.protocols.running import Run


class Transposed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


def meant(*layers: nn.Module, **stated: Any) -> Output:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), *layers)
    return compile_model(model, torch.rand(20, 3), low=0, high=1, meaning=Meaning(**stated)).plan.output


@pytest.mark.parametrize(
    ("layers", "stated", "expected"),
    [
        ((), {}, ("classes", "none", "logits", 0)),
        ((nn.Softmax(1),), {}, ("classes", "softmax", "logits", 0)),
        ((), {"unit": "probabilities"}, ("classes", "none", "probabilities", 0)),
        ((), {"final": "ovr"}, ("classes", "ovr", "logits", 0)),
        ((), {"task": "values"}, ("values", "none", "logits", 0)),
        ((nn.Unflatten(1, (2, 2)),), {}, ("values", "none", "logits", 0)),
        ((nn.Unflatten(1, (4, 1)),), {}, ("classes", "none", "logits", 0)),
        ((nn.Linear(4, 1),), {}, ("values", "none", "logits", 0)),
        ((nn.Linear(4, 1), nn.Sigmoid()), {}, ("binary", "sigmoid", "logits", 0)),
        ((nn.Linear(4, 1), nn.Sigmoid()), {"task": "values"}, ("values", "sigmoid", "logits", 0)),
        ((nn.Linear(4, 1), nn.Sigmoid()), {"threshold": -1.5}, ("binary", "sigmoid", "logits", -1.5)),
        ((nn.Linear(4, 1),), {"task": "binary", "unit": "logits"}, ("binary", "none", "logits", 0)),
        ((nn.Linear(4, 1),), {"unit": "scores"}, ("binary", "none", "scores", 0)),
        ((nn.Linear(4, 1),), {"unit": "probabilities"}, ("binary", "none", "probabilities", 0.5)),
        ((nn.Linear(4, 1),), {"threshold": 0.3, "unit": "logits"}, ("binary", "none", "logits", 0.3)),
        ((nn.Linear(4, 1), nn.Sigmoid(), nn.Flatten(0)), {}, ("binary", "sigmoid", "logits", 0)),
        ((nn.Sigmoid(),), {}, ("classes", "sigmoid", "logits", 0)),
        ((nn.Softmax(1), nn.Unflatten(1, (4, 1))), {}, ("classes", "none", "probabilities", 0)),
        ((nn.Hardsigmoid(),), {}, ("classes", "none", "scores", 0)),
        ((nn.Hardsigmoid(),), {"unit": "logits"}, ("classes", "none", "logits", 0)),
        ((nn.Linear(4, 1),), {"task": "values", "final": "exp"}, ("values", "exp", "logits", 0)),
    ],
)
def test_what_the_graph_and_the_owner_say(layers: Any, stated: dict[str, Any], expected: Any) -> None:
    output = meant(*layers, **stated)
    assert (output.task, output.final, output.unit, output.threshold) == expected


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"task": "binary"}, "one output is what tells two classes apart"),
        ({"threshold": 0.5}, "a threshold is for a decision between two classes"),
        ({"final": "softmax", "unit": "scores"}, "ends in a softmax"),
    ],
)
def test_statements_that_contradict_are_refused(stated: dict[str, Any], said: str) -> None:
    with pytest.raises(NotServable, match=said):
        meant(**stated)


@pytest.mark.parametrize(
    ("width", "behind", "moves"),
    [
        (1, (), []),
        (4, (), []),
        (1, (nn.Flatten(0),), ["Reshape"]),  # torch.sigmoid(x).squeeze(-1)
        (6, (nn.Unflatten(1, (2, 3)), Transposed()), ["Reshape", "Permute"]),
    ],
)
def test_a_sigmoid_at_the_end_is_left_to_the_client(width: int, behind: Any, moves: list[str]) -> None:
    """Also where its values only move behind it."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, width), nn.Sigmoid(), *behind), torch.rand(5, 3)
    graph = trace(model, x)
    assert (graph.final, kinds(graph)) == ("sigmoid", ["Linear", *moves])
    assert torch.allclose(graph.run(x)[graph.output].sigmoid(), model(x), atol=1e-6)


@pytest.mark.parametrize("width", [1, 4])
def test_a_sigmoid_at_the_end_of_a_file_is_left_to_the_client(tmp_path: Path, width: int) -> None:
    nodes = [node("Neg", "x", "n"), node("Sigmoid", "n", "s"), node("Identity", "s", "y")]
    ends = [helper.make_tensor_value_info(name, FLOAT, ["N", width]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "m.onnx")
    read = read_onnx(tmp_path / "m.onnx")
    assert (read.final, kinds(read)) == ("sigmoid", ["Scale"])


def test_a_source_states_it_and_is_told_otherwise_on_the_command_line() -> None:
    source = sources.load("mnist", task="values")
    assert (source.meaning.task, source.compile().plan.output.task) == ("values", "values")
    assert sources.load("mnist").compile().plan.output.task == "classes"


# Labels and decisions of one output


def one_output(*last: nn.Module) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A model, inputs, and its one output without its last function."""
    torch.manual_seed(1)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), torch.rand(200, 6) * 2 - 1
    with torch.inference_mode():
        return nn.Sequential(*model, *last), x, model(x)[:, 0]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("reveal", ["decision", "labels"])
def test_a_decision_is_whether_the_output_is_above_the_threshold(reveal: Reveal, bits: int) -> None:
    model, x, scores = one_output(nn.Sigmoid())
    threshold = float(scores.median()) + 1e-3
    compiled = compile_model(
        model, x, low=-1, high=1, reveal=reveal, ring_bits=bits, meaning=Meaning(threshold=threshold)
    )
    plan = compiled.plan
    assert (plan.output.kind, plan.output.task, plan.output.shape) == ("decision", "binary", (1,))
    run = Run(plan, compiled.weights)
    got = run.assert_bit_exact(encode_rows(plan, x))[:, 0]
    clear = ((scores - threshold).abs() > compiled.error).numpy()
    assert clear.mean() > 0.95 and np.array_equal(got[clear], (scores > threshold).numpy()[clear])
    assert plan.rounds == compiled.logits.rounds + 3


def two_outputs(*last: nn.Module) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2), *last)
    with torch.no_grad():  # so that probabilities lie on both sides of each threshold
        model[2].weight *= 10
        model[2].bias.zero_()
    return model, torch.rand(300, 6) * 2 - 1


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("probability", [0.35, 0.5, 0.65])
@pytest.mark.parametrize(
    ("last", "unit"),
    [
        ((), None),
        ((nn.Softmax(1),), None),
        ((nn.LogSoftmax(1),), None),
        ((nn.Unflatten(1, (2, 1)), nn.Softmax(1)), None),
        ((nn.Softmax(1), nn.Unflatten(1, (1, 2))), "probabilities"),
    ],
)
def test_a_decision_between_two_outputs_is_whether_the_second_class_is_likely_enough(
    last: tuple[nn.Module, ...], unit: Any, probability: float, bits: int
) -> None:
    model, x = two_outputs(*last)
    with torch.inference_mode():
        second = two_outputs()[0](x).softmax(1)[:, 1].numpy()
    stated = Meaning(unit=unit, threshold=None if probability == 0.5 else on_unit(probability, unit))
    bits = 64 if unit else bits  # powers of two have no room in 32
    compiled = compile_model(model, x, low=-1, high=1, reveal="decision", ring_bits=bits, meaning=stated)
    assert (compiled.plan.output.kind, compiled.plan.output.task) == ("decision", "binary")
    got = Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, x))[:, 0]
    clear = np.abs(second - probability) > 2e-3
    assert clear.mean() > 0.9 and 0.05 < (second > probability).mean() < 0.95
    assert np.array_equal(got[clear], (second > probability)[clear])


def test_a_model_that_ends_in_an_argmax_of_two_gives_decisions() -> None:
    model, x = two_outputs()

    class Larger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scores = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scores(x).argmax(1)

    compiled = compile_model(Larger(), x, low=-1, high=1, reveal="decision")
    got = Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, x))[:, 0]
    assert (got == model(x).argmax(1).numpy()).mean() > 0.99 and 0.05 < got.mean() < 0.95


def test_a_threshold_is_in_no_plan() -> None:
    """It is part of a secret bias: two thresholds have one plan, and other weights."""
    model, x, _ = one_output()
    shown = compile_model(model, x, low=-1, high=1, ring_bits=32)
    wire = shown.wires[shown.graph.output]
    farthest = 0.99 * max(-wire.low, wire.high)
    compiled = [
        compile_model(model, x, low=-1, high=1, reveal="decision", ring_bits=32, meaning=Meaning(threshold=at))
        for at in (-farthest, 0.0, farthest)
    ]
    assert len({one.plan.digest for one in compiled}) == 1 and compiled[0].plan.output.threshold == 0
    biases = {tuple(one.weights["labels-threshold.bias"].tolist()) for one in compiled}
    assert len(biases) == 3


def test_right_labels_of_two_classes_are_counted() -> None:
    model, x, scores = one_output()
    compiled = compile_model(model, x, low=-1, high=1, reveal="count", meaning=Meaning(threshold=0.1))
    truth = (torch.arange(len(x)) % 2).numpy()
    given = np.concatenate((encode_rows(compiled.plan, x), truth[:, None].astype(np.int32)), axis=1)
    assert compiled.plan.input.classes == 2
    got = Run(compiled.plan, compiled.weights).assert_bit_exact(given)[:, 0]
    assert np.array_equal(got, (scores > 0.1).numpy() == truth)


@pytest.mark.parametrize(
    ("layers", "how", "said"),
    [
        ((), {"reveal": "decision"}, "has 4 outputs, and a decision is between two classes"),
        ((nn.Linear(4, 1),), {"reveal": "labels", "meaning": Meaning(task="values")}, "nothing to reveal as labels"),
        ((nn.Linear(4, 1),), {"reveal": "count", "meaning": Meaning(task="values")}, "nothing to reveal as count"),
        (
            (nn.Linear(4, 1),),
            {"reveal": "labels", "top": 2, "meaning": Meaning(unit="logits")},
            "so there is one label",
        ),
        (
            (nn.Linear(4, 1),),
            {"reveal": "decision", "meaning": Meaning(threshold=1e3, unit="logits")},
            "beyond the threshold",
        ),
        ((nn.Hardsigmoid(), nn.Linear(4, 1), nn.Hardsigmoid()), {"reveal": "decision"}, "may be of probabilities or"),
        ((nn.Linear(4, 2), nn.Hardsigmoid()), {"reveal": "decision"}, "may be of probabilities or"),
        ((nn.Linear(4, 2), nn.Sigmoid()), {"reveal": "decision"}, "what a sigmoid takes, for which no threshold"),
        ((nn.Linear(4, 2),), {"reveal": "decision", "meaning": Meaning(unit="scores")}, "scores, for which no thresh"),
        ((nn.Linear(4, 2),), {"reveal": "labels", "meaning": Meaning(threshold=0.3)}, "state --reveal decision"),
        ((nn.Unflatten(1, (2, 2)),), {"reveal": "labels"}, "gives values"),
    ],
)
def test_what_cannot_be_revealed_is_refused(layers: Any, how: dict[str, Any], said: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(NotServable, match=said):
        compile_model(nn.Sequential(nn.Linear(3, 4), *layers), torch.rand(20, 3), low=0, high=1, **how)


def test_a_threshold_is_stated_as_a_probability_or_a_score() -> None:
    assert on_unit(0.35, None) == on_unit(0.35, "logits") == pytest.approx(math.log(0.35 / 0.65))
    assert (on_unit(0.35, "probabilities"), on_unit(-7.5, "scores")) == (0.35, -7.5)
    for wrong in (0.0, 1.0, -0.5, 35.0, math.nan):
        with pytest.raises(NotServable, match="a probability between 0 and 1"):
            on_unit(wrong, None)
    assert sources.load("mnist", threshold=0.5).meaning.threshold == 0


def test_how_many_labels_agree() -> None:
    model, x, scores = one_output()
    assert compile_model(model, x, low=-1, high=1).agreement is None
    for threshold in (float(scores.median()), 0.0):
        stated = Meaning(task="binary", threshold=threshold)
        agreement = compile_model(model, x, low=-1, high=1, meaning=stated).agreement
        assert agreement is not None and agreement > 0.98


# Models that end in an argmax


class Cast(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


class Place(nn.Module):
    """Gives out the likeliest class alone."""

    def __init__(self, *last: nn.Module, **how: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scores, self.how = nn.Sequential(nn.Linear(3, 4), *last), how or {"dim": 1}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(x).argmax(**self.how)


@pytest.mark.parametrize(
    "model", [Place(), Place(dim=-1, keepdim=True), Place(nn.Softmax(1)), nn.Sequential(Place(), Cast())]
)
def test_who_gives_out_the_likeliest_class_gives_out_labels(model: nn.Module) -> None:
    x = torch.rand(50, 3)
    compiled = compile_model(model, x, low=0, high=1)
    assert (compiled.plan.output.kind, compiled.plan.output.top) == ("labels", 1)
    ranks = Run(compiled.plan, compiled.weights).outputs(encode_rows(compiled.plan, x))
    assert (ranks.argmax(axis=1) == model(x).reshape(-1).numpy()).mean() >= 0.98
    assert compile_model(model, x, low=0, high=1, reveal="logits").plan.output.kind == "logits"


@pytest.mark.parametrize("how", [{"dim": 0}, {"dim": None}])
def test_a_place_among_other_things_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(NotServable):
        compile_model(Place(**how), torch.rand(50, 3), low=0, high=1)


@pytest.mark.parametrize(("axis", "expected"), [(1, True), (-1, True), (0, None)])
def test_a_file_that_gives_out_the_likeliest_class_gives_out_labels(
    tmp_path: Path, axis: int, expected: bool | None
) -> None:
    nodes = [node("Neg", "x", "n"), node("ArgMax", "n", "p", axis=axis, keepdims=0), node("Cast", "p", "y", to=FLOAT)]
    ends = [helper.make_tensor_value_info("x", FLOAT, ["N", 4]), helper.make_tensor_value_info("y", FLOAT, ["N"])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "m.onnx")
    if expected is None:
        with pytest.raises(NotServable):
            read_onnx(tmp_path / "m.onnx")
        return
    read = read_onnx(tmp_path / "m.onnx")
    assert read.labels and kinds(read) == ["Scale"] and read.nodes[-1].shape == (4,)
