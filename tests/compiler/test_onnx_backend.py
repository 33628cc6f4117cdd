"""ONNX's own node tests: each is right, or refused by name; none crashes, none differs.

`onnx_backend` says how they are counted.
"""

import pytest
import torch
from onnx import defs

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.compilation import Compiled, compile_model
from moiety_server.compiler.ir import NotServable
from tests.compiler import onnx_backend
from tests.compiler.onnx_backend import Tried

pytestmark = pytest.mark.long
_RIGHT = 600  # of the 1,210 cases of onnx 1.23; a version with other cases has about as many
_RUN = 450  # of those, the compiler takes with a Linear layer behind
_ROWS = 64


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Tried]]:
    folder = tmp_path_factory.mktemp("onnx")
    return {case.name: onnx_backend.attempt(case, folder) for case in onnx_backend.cases()}


def test_every_case_is_right_or_refused(suite: dict[str, list[Tried]]) -> None:
    decided = {name: onnx_backend.outcome(tried) for name, tried in suite.items()}
    assert {name: one.text for name, one in decided.items() if one.outcome == "crashed"} == {}
    assert {name: one.text for name, one in decided.items() if one.outcome == "wrong"} == {}
    right = sum(one.outcome == "right" for one in decided.values())
    assert right >= _RIGHT * len(decided) // 1210, f"{right} of {len(decided)}"


def test_every_refusal_names_the_place_and_a_way_out(suite: dict[str, list[Tried]]) -> None:
    operators = {schema.name for schema in defs.get_all_schemas()}
    for name, tried in suite.items():
        for one in tried:
            if one.outcome == "refused":
                place, _, rest = one.text.partition(": ")
                named = place in ("the model", "m.onnx") or place.startswith("the model's input")
                assert named or place.rpartition("(")[2].rstrip(")") in operators, (name, one.text)
                assert ". Instead: " in rest or "m.onnx" in place, (name, one.text)


def test_what_is_right_and_compiles_runs_as_a_plan(suite: dict[str, list[Tried]]) -> None:
    """With one Linear layer behind it, in plain fixed point: what is not taken is refused by name, what is taken is as
    exact as what is published unasked."""
    taken = 0
    for name, tried in suite.items():
        one = onnx_backend.outcome(tried)
        if one.outcome != "right" or one.graph is None or one.rows is None:
            continue
        try:
            compiled = _runs(one.graph, one.rows)
        except NotServable as error:
            assert ": " in str(error), name
            continue
        assert compiled.is_accurate, (name, compiled.relative_error)
        taken += 1
    assert taken >= _RUN * len(suite) // 1210, taken


def _runs(graph: ir.Graph, rows: torch.Tensor) -> Compiled:
    """Compile the graph with a Linear layer behind, and return its plan, compared with the float network."""
    torch.manual_seed(0)
    behind = _followed(graph)
    low, high = float(rows.min()), float(rows.max())
    spread = max(high - low, 1e-3)
    data = (rows.repeat(-(-_ROWS // len(rows)), *(1,) * (rows.dim() - 1)) + torch.rand(1)).clamp(low, high)
    noise = torch.rand(data.shape) * 0.2 * spread
    data = (data - noise).clamp(low, high)
    return compile_model(behind, data, low=low, high=low + spread)


def _followed(graph: ir.Graph) -> ir.Graph:
    """The graph with its outputs flattened and multiplied by a secret matrix."""
    b = Builder()
    b.nodes = {node.name: node for node in graph.nodes}
    last = b.nodes[graph.output]
    size = 1
    for n in last.shape:
        size *= n
    b.scope, b.origin = "behind", "behind (Linear)"
    output = b.linear(b.reshape(last, (size,)), torch.randn(3, size) / size**0.5)
    return ir.Graph(tuple(b.nodes.values()), output.name)
