"""Products of matrices that are both computed from the input."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moiety_server.compiler.attention import MatMulNode
from moiety_server.compiler.compilation import compile_model, encode_rows
from moiety_server.compiler.onnx.graph import read_onnx
from tests.compiler.onnx_files import node
from tests.compiler.test_onnx import save
from tests.compiler.tracing import Fn, check, kinds, refused
from tests.protocols.running import Run

# x is (batch, 2, 3, 4)
PRODUCTS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "with itself": (lambda x: x @ x.transpose(2, 3), ["MatMul"]),
    "with another": (lambda x: x.mT @ x.relu(), ["Permute", "Clamp", "Permute", "MatMul"]),
    "of one matrix with several": (lambda x: x @ x[:, :1].mT, ["Slice", "Concat", "MatMul"]),
    "bmm": (lambda x: torch.bmm(x[:, 0], x[:, 1].mT), ["Slice", "Reshape", "Slice", "Reshape", "MatMul"]),
    "baddbmm": (lambda x: torch.baddbmm(x[:, 0, :, :3], x[:, 0], x[:, 1].mT, beta=2, alpha=0.5), []),
    "scaled": (lambda x: (x * 0.5) @ x.mT, ["MatMul", "Scale"]),
    "einsum, by heads": (lambda x: torch.einsum("bhid,bhjd->bhij", x, x), ["MatMul"]),
    "einsum, heads behind": (lambda x: torch.einsum("bihd,bjhd->bhij", x.transpose(1, 2), x.transpose(1, 2)), []),
    "einsum, no heads": (lambda x: torch.einsum("bhid,bhjk->bhdjki", x, x), []),
    "einsum, two letters summed": (lambda x: torch.einsum("bhid,bgid->bgh", x, x), []),
    "einsum, one number": (lambda x: torch.einsum("bhid,bhid->b", x, x).unsqueeze(1), []),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    function, expected = PRODUCTS[name]
    graph = check(function, 2, 3, 4)
    assert not expected or kinds(graph) == expected


@pytest.mark.parametrize(
    ("equation", "fragment"),
    [("bid,bjk->bij", "the einsum bid,bjk->bij is not supported"), ("bii,bij->bj", "is not supported")],
)
def test_other_equations_are_refused(equation: str, fragment: str) -> None:
    assert fragment in refused(lambda x: torch.einsum(equation, x, x), 3, 3)


ONNX: dict[str, tuple[list[Any], Callable[[Tensor], Tensor]]] = {
    "MatMul": ([node("Transpose", "x", "t", perm=[0, 1, 3, 2]), node("MatMul", "x t")], lambda x: x @ x.mT),
    "Einsum": ([node("Einsum", "x x", equation="bhid,bhjd->bhij")], lambda x: x @ x.mT),
}


@pytest.mark.parametrize("name", ONNX)
@pytest.mark.parametrize("batch", ["N", 1])
def test_onnx(tmp_path: Path, name: str, batch: str | int) -> None:
    nodes, expected = ONNX[name]
    graph = read_onnx(save(tmp_path, nodes, shape=(batch, 2, 3, 4)))
    x = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(graph.run(x)[graph.output], expected(x))


class Attending(nn.Module):
    """Attention without its softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.made = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (2, 4)).transpose(1, 2) for part in self.given(x).chunk(3, 2))
        made: Tensor = self.made(((q @ k.mT / 6) @ v).transpose(1, 2).flatten(2)).mean(1)
        return made


@pytest.mark.parametrize(("bits", "error"), [(32, 0.01), (64, 0.003), (None, 0.003)])
def test_plans_are_bit_exact_and_near_the_model(bits: int | None, error: float) -> None:
    torch.manual_seed(0)
    rows = torch.randn(64, 5, 8).clamp(-3, 3)
    made = compile_model(Attending().eval(), rows, low=-3, high=3, ring_bits=bits)
    assert made.plan.ring_bits == bits or (bits is None and made.plan.ring_bits == 64)
    assert made.relative_error < error
    assert sum(layer.op == "open" for layer in made.plan.layers) == 6, "x, q, k, v, the scores, what they weigh"
    run = Run(made.plan, made.weights)
    run.assert_bit_exact(encode_rows(made.plan, rows[:5]))


def test_ranges_of_products_are_proved() -> None:
    rows = torch.randn(64, 4, 8).clamp(-1, 1)
    made = compile_model(nn.Sequential(Fn(lambda x: x @ x.mT), nn.Linear(4, 2)).eval(), rows, low=-1, high=1)
    wire = next(made.wires[one.name] for one in made.graph.nodes if isinstance(one, MatMulNode))
    assert (wire.low, wire.high) == (-8, 8) and not made.measured
