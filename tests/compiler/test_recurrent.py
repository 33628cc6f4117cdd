"""Recurrent layers, unrolled: what they compute is what torch and ONNX compute."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, save
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from moiety_server.compiler import ir
from moiety_server.compiler.compilation import compile_model
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.onnx.graph import read_onnx
from moiety_server.compiler.trace import trace

quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}


class Reader(nn.Module):
    """Reads a sequence, and uses what people use of a recurrent layer."""

    def __init__(self, layer: nn.RNNBase, use: str) -> None:
        super().__init__()
        self.layer, self.use = layer, use
        width = layer.hidden_size * (2 if layer.bidirectional and use != "state" else 1)
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.layer.batch_first
        outputs, state = self.layer(x if first else x.transpose(0, 1))
        state = state[0] if isinstance(state, tuple) else state
        if self.use == "state":
            return self.last(state[-1])
        if self.use == "states":
            return self.last(state[-2:].permute(1, 0, 2).flatten(1) if self.layer.bidirectional else state[-1])
        if self.use == "every":
            outputs = self.last(outputs).tanh()
            return outputs if first else outputs.permute(1, 0, 2)
        if self.use == "mean":
            return self.last(outputs.mean(1 if first else 0))
        return self.last(outputs[:, -1] if first else outputs[-1])


@quick
@given(
    kind=st.sampled_from(sorted(KINDS)),
    use=st.sampled_from(["state", "states", "every", "mean", "end"]),
    layers=st.integers(1, 2),
    both=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    steps=st.integers(1, 5),
    width=st.integers(1, 3),
    units=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_layers_are_those_of_torch(
    kind: str, use: str, layers: int, both: bool, batch_first: bool, bias: bool, steps: int, width: int, units: int,
    seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    options: dict[str, Any] = {"nonlinearity": "relu"} if kind == "RNN" and seed % 2 else {}
    layer = KINDS[kind](width, units, layers, bias=bias, batch_first=batch_first, bidirectional=both, **options)
    model, x = Reader(layer, use).eval(), torch.randn(3, steps, width)
    graph = trace(model, x[:1])
    with torch.no_grad():
        torch.testing.assert_close(graph.run(x)[graph.output], model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("use", ["states", "every"])
def test_an_lstm_that_projects_its_state_is_that_of_torch(bias: bool, use: str) -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(3, 5, 2, bias=bias, batch_first=True, bidirectional=True, proj_size=2)
    model = Reader(layer, use)
    model.last = nn.Linear(4, 2)
    x = torch.randn(3, 4, 3)
    graph = trace(model.eval(), x[:1])
    with torch.no_grad():
        torch.testing.assert_close(graph.run(x)[graph.output], model(x), rtol=1e-4, atol=1e-5)


class Cells(nn.Module):
    """Two cells in a loop, with a state that begins as a parameter of theirs."""

    def __init__(self, kind: str, units: int) -> None:
        super().__init__()
        self.cell = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell, "RNN": nn.RNNCell}[kind](2, units)
        self.start, self.kind = nn.Parameter(torch.randn(units)), kind

    def forward(self, x: Tensor) -> Tensor:
        h = c = self.start.expand(len(x), -1)
        for step in x.unbind(1):
            if self.kind == "LSTM":
                h, c = self.cell(step, (h, c))
            else:
                h = self.cell(step, h)
        return torch.cat((h, c), 1) if self.kind == "LSTM" else h


@quick
@given(kind=st.sampled_from(sorted(KINDS)), units=st.integers(1, 3), steps=st.integers(1, 4), seed=st.integers(0, 99))
def test_cells_are_those_of_torch(kind: str, units: int, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Cells(kind, units).eval(), torch.randn(3, steps, 2)
    graph = trace(model, x[:1])
    with torch.no_grad():
        torch.testing.assert_close(graph.run(x)[graph.output], model(x), rtol=1e-4, atol=1e-5)


class Dropping(nn.Module):
    """Drops an axis of a batch with the time first, before the batch or behind it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(1, 0, 2)
        dropped = x[4] if self.dim == 0 else x.mean(2).permute(1, 0)
        return dropped * torch.arange(13)


class Started(nn.Module):
    """A layer whose first state is a constant, or computed from the input."""

    def __init__(self, computed: bool) -> None:
        super().__init__()
        self.layer, self.read = nn.LSTM(2, 3, batch_first=True), nn.Linear(2, 3)
        self.start, self.computed = nn.Parameter(torch.randn(1, 1, 3)), computed

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x[:, 0]).unsqueeze(0) if self.computed else self.start.expand(1, len(x), 3)
        outputs, (_, c) = self.layer(x, (h, h * 0.5))
        return torch.cat((outputs[:, -1], c.squeeze(0)), 1)


@pytest.mark.parametrize("computed", [False, True])
def test_first_states_are_constants_or_computed(computed: bool) -> None:
    torch.manual_seed(3)
    model, x = Started(computed).eval(), torch.randn(4, 3, 2)
    graph = trace(model, x[:1])
    with torch.no_grad():
        torch.testing.assert_close(graph.run(x)[graph.output], model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [0, 1])
def test_the_batch_is_found_where_another_size_equals_it(dim: int) -> None:
    model, x = Dropping(dim).eval(), torch.randn(2, 13, 13)  # export takes a batch of 13 for an example of one
    graph = trace(model, x[:1])
    torch.testing.assert_close(graph.run(x)[graph.output], model(x))


def test_all_steps_read_the_input_at_once() -> None:
    graph = trace(Reader(nn.LSTM(3, 4, batch_first=True), "end").eval(), torch.randn(2, 6, 3))
    linear = [node for node in graph.nodes if isinstance(node, ir.LinearNode)]
    assert linear[0].shape == (6, 16) and linear[0].weight.shape == (16, 3)
    assert len(linear) == 1 + 5 + 1  # no product with the state of zeros


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_plan_answers_as_the_layer_does(kind: str) -> None:
    torch.manual_seed(1)
    model = Reader(KINDS[kind](3, 5, batch_first=True), "state").eval()
    compiled = compile_model(model, torch.randn(40, 12, 3).clamp(-3, 3), low=-3, high=3)
    assert compiled.plan.ring_bits == 32 and compiled.error < 0.01 * compiled.spread


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: nn.LSTM(3, 4), "batch_first=True"),
        (lambda: nn.GRU(3, 4, batch_first=True, bidirectional=True), ""),
    ],
)
def test_what_has_no_form_is_refused_with_a_hint(model: Any, said: str) -> None:
    if not said:  # both results are outputs
        assert [part.shape for part in trace(model().eval(), torch.randn(2, 5, 3)).outputs] == [(5, 8), (2, 4)]
        return
    with pytest.raises(NotServable, match=said):
        trace(model().eval(), torch.randn(2, 5, 3))


# ONNX


def onnx_layer(
    path: Path, kind: str, directions: int, steps: int, width: int, units: int, use: str, **attributes: Any
) -> Path:
    """A batch of sequences, turned, read, and turned back, as torch exports such layers."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    tensors = {
        "w": torch.randn(directions, gates * units, width),
        "r": torch.randn(directions, gates * units, units),
        "b": torch.randn(directions, 2 * gates * units),
        "h": torch.randn(directions, 1, units).repeat(1, 2, 1),
    }
    direction = {1: attributes.pop("direction", "forward"), 2: "bidirectional"}[directions]
    made = helper.make_node(
        kind, ["t", "w", "r", "b", "", "h"], ["y", "end"], hidden_size=units, direction=direction, **attributes
    )
    shape = numpy_helper.from_array(np.array([0, 0, -1]), "shape")
    one = numpy_helper.from_array(np.array([0]), "zero")
    every = [
        helper.make_node("Transpose", ["y"], ["q"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["q", "shape"], ["f"]),
        helper.make_node("Transpose", ["f"], ["out"], perm=[1, 0, 2]),
    ]
    last = [
        helper.make_node("Gather", ["end", "zero"], ["g"], axis=0),
        helper.make_node("Squeeze", ["g", "zero"], ["out"]),
    ]
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]), made]
    graph = helper.make_graph(
        [*nodes, *(every if use == "every" else last)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, steps, width])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", "M"] + ["K"] * (use == "every"))],
        [*(numpy_helper.from_array(v.numpy(), k) for k, v in tensors.items()), shape, one],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path / "m.onnx")
    return path / "m.onnx"


@quick
@given(
    kind=st.sampled_from(sorted(KINDS)),
    directions=st.integers(1, 2),
    steps=st.integers(1, 4),
    width=st.integers(1, 3),
    units=st.integers(1, 3),
    use=st.sampled_from(["every", "last"]),
    seed=st.integers(0, 99),
)
def test_operators_are_those_of_onnx(
    tmp_path: Path, kind: str, directions: int, steps: int, width: int, units: int, use: str, seed: int
) -> None:
    torch.manual_seed(seed)
    more: dict[str, Any] = {"linear_before_reset": seed % 2} if kind == "GRU" else {}
    path = onnx_layer(tmp_path, kind, directions, steps, width, units, use, **more)
    x = torch.randn(2, steps, width)
    graph = read_onnx(path)
    if directions == 2:  # onnx's own evaluator reads one direction only
        expected = _both_directions(path, x, use)
    else:
        (expected,) = ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})
    torch.testing.assert_close(graph.run(x)[graph.output], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)


def _both_directions(path: Path, x: Tensor, use: str) -> Any:
    """What a layer of both directions gives, of one forwards and one that reads the sequence from its end."""
    import onnx

    whole = onnx.load(path)
    found = []
    for at in range(2):
        model = onnx.ModelProto.FromString(whole.SerializeToString())
        for tensor in model.graph.initializer:
            if tensor.name in "wrbh":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[at : at + 1], tensor.name))
        next(a for n in model.graph.node for a in n.attribute if a.name == "direction").s = b"forward"
        given = x.numpy() if at == 0 else x.numpy()[:, ::-1].copy()
        (out,) = ReferenceEvaluator(model).run(None, {"x": given})
        found.append(out[:, ::-1] if at and use == "every" else out)
    return np.ascontiguousarray(np.concatenate(found, axis=-1)) if use == "every" else found[0]


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"clip": 1.0}, "without clip"),
        ({"activations": ["Affine", "Tanh", "Tanh"]}, "activations Affine, Tanh, Tanh"),
        ({"input_forget": 1}, "couples its gates"),
    ],
)
def test_what_steps_do_not_have_is_refused(tmp_path: Path, attributes: dict[str, Any], said: str) -> None:
    with pytest.raises(NotServable, match=said):
        read_onnx(onnx_layer(tmp_path, "LSTM", 1, 3, 2, 2, "last", **attributes))


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_state_is_an_input_and_an_output_whose_batch_comes_second(tmp_path: Path, batch: str | int) -> None:
    torch.manual_seed(4)
    tensors = {"w": torch.randn(1, 12, 2), "r": torch.randn(1, 12, 3), "b": torch.randn(1, 24)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r", "b", "", "state", "cell"], ["y", "next", "last"], hidden_size=3),
    ]
    shapes = {"x": [batch, 4, 2], **{name: [1, batch, 3] for name in ("state", "cell", "next", "last")}}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [values[name] for name in ("x", "state", "cell")],
        [values[name] for name in ("next", "last")],
        [numpy_helper.from_array(v.numpy(), k) for k, v in tensors.items()],
    )
    path = tmp_path / "m.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    rows = {"x": torch.randn(5, 4, 2), "state": torch.randn(5, 1, 3), "cell": torch.randn(5, 1, 3)}
    read = read_onnx(path)
    assert {part.name: part.shape for part in read.inputs} == {name: v.shape[1:] for name, v in rows.items()}
    got = read.run(torch.cat([v.flatten(1) for v in rows.values()], 1))[read.output]
    for row in range(5):
        given = {k: v[row : row + 1] if k == "x" else v[row : row + 1].transpose(0, 1) for k, v in rows.items()}
        expected = ReferenceEvaluator(str(path)).run(None, {k: v.numpy() for k, v in given.items()})
        flat = np.concatenate([part.ravel() for part in expected])
        np.testing.assert_allclose(got[row].numpy(), flat, rtol=1e-4, atol=1e-5)
