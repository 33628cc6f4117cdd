"""Wires and outputs of one number a row, whose shape is (n,) in a framework."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler.compilation import Compiled, compile_model, load_onnx
from tests.compiler.onnx_files import constant, dense, model, node
from tests.compiler.tracing import Fn, check

X = torch.rand(200, 6) * 4 - 2

NUMBERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "selected": lambda x, w: (x @ w)[:, 0],
    "squeezed": lambda x, w: (x @ w[:, :1]).squeeze(-1),
    "flattened": lambda x, w: (x @ w[:, :1]).flatten(),
    "mean": lambda x, w: (x @ w).mean(1),
    "sum of all": lambda x, w: (x @ w).reshape(-1, 2, 2).sum((1, 2)),
    "largest": lambda x, w: (x @ w).amax(1),
    "matrix and vector": lambda x, w: x @ w[:, 0],
    "shifted and scaled": lambda x, w: (x @ w).mean(1) * w[0, 1] + w[0, 0],
    "shifted by a number": lambda x, w: 0.5 - 2 * (x @ w).mean(1),
    "clamped": lambda x, w: (x @ w).mean(1).clamp(-0.5, 0.5),
    "activated": lambda x, w: (x @ w)[:, 0].sigmoid() + F.leaky_relu((x @ w)[:, 1], 0.1),
    "prelu": lambda x, w: F.prelu((x @ w)[:, 0], w[0, :1]),
    "product": lambda x, w: (x @ w)[:, 0] * (x @ w).mean(1),
    "square": lambda x, w: (x @ w)[:, 0] ** 2,
    "sum of two": lambda x, w: (x @ w)[:, 0] + (x @ w)[:, 1],
    "put together": lambda x, w: torch.stack([(x @ w)[:, 0], (x @ w).mean(1)], 1),
    "as a column": lambda x, w: (x @ w)[:, 0].unsqueeze(1).relu() @ w[:1],
    "broadcast back": lambda x, w: (x @ w) - (x @ w).mean(1)[:, None],
}


def is_close(compiled: Compiled, model: nn.Module) -> bool:
    """Whether the error that the compiler states is measured row by row: far below the spread."""
    with torch.no_grad():
        expected = model(X)
    return compiled.error < 0.01 * compiled.spread and compiled.spread == pytest.approx(
        float(expected.double().std(correction=0)), rel=1e-4
    )


@pytest.mark.parametrize("name", NUMBERS)
def test_a_wire_of_one_number_a_row(name: str) -> None:
    torch.manual_seed(1)
    made = Fn(NUMBERS[name], torch.randn(6, 4))
    check(made, 6)
    assert is_close(compile_model(made, X, low=-2, high=2), made)


ONNX = {
    "ReduceMean": [node("MatMul", "x w", "h"), node("ReduceMean", "h", axes=[1], keepdims=0)],
    "Squeeze": [node("MatMul", "x v", "h"), constant("axes", [1]), node("Squeeze", "h axes")],
    "Gather": [node("MatMul", "x w", "h"), constant("two", 2), node("Gather", "h two", axis=1)],
    "Mul": [node("MatMul", "x w", "h"), node("ReduceMean", "h", "m", axes=[1], keepdims=0), node("Mul", "m one")],
}


@pytest.mark.parametrize("name", ONNX)
def test_a_wire_of_one_number_a_row_of_an_onnx_file(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    w = torch.randn(6, 4)
    made = model(
        ONNX[name],
        [dense("w", w.numpy()), dense("v", w[:, :1].numpy()), dense("one", w[0, :1].numpy())],
        shape=["N", 6],
    )
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"]))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    wanted = {"ReduceMean": (X @ w).mean(1), "Squeeze": X @ w[:, 0], "Gather": (X @ w)[:, 2]}
    compiled = compile_model(load_onnx(tmp_path / "m.onnx"), X, low=-2, high=2)
    torch.testing.assert_close(
        compiled.graph.run(X)[compiled.graph.output], wanted.get(name, (X @ w).mean(1) * w[0, 0]), rtol=1e-4, atol=1e-5
    )
    assert compiled.error < 0.01 * compiled.spread


def test_a_vector_does_not_meet_the_batch() -> None:
    """(n,) plus (4,) is defined in torch only where n is 4: it would mix the batch with the vector."""
    with pytest.raises(ValueError, match=r"along the batch|does not start with the batch|must match"):
        check(Fn(lambda x, w: x.mean(1) + w, torch.randn(13)), 6, batch=13)
