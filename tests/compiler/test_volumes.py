"""3-d convolutions and pools: what they compute is what torch and ONNX compute."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler.compilation import compile_model
from moiety_server.compiler.onnx.graph import read_onnx
from tests.compiler.test_onnx import save
from tests.compiler.tracing import check

quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
small = st.integers(1, 3)
triples = st.tuples(small, small, small)
pads = st.tuples(*[st.integers(0, 1)] * 3)
sizes = st.tuples(*[st.integers(3, 6)] * 3)


@quick
@given(size=sizes, kernel=triples, stride=triples, padding=pads, dilation=triples, groups=st.integers(1, 2))
def test_convolutions(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...],
    dilation: tuple[int, ...], groups: int,
) -> None:  # fmt: skip
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    assume(all(n + 2 * p >= r for n, p, r in zip(size, padding, reach, strict=True)))
    check(nn.Conv3d(2, 4, kernel, stride, padding, dilation, groups), 2, *size)


def test_a_convolution_pads_to_the_same_size() -> None:
    check(nn.Conv3d(1, 2, (2, 3, 4), padding="same"), 1, 4, 5, 6)


@quick
@given(size=sizes, kernel=st.tuples(*[st.integers(2, 3)] * 3), stride=triples, padding=pads, ceil=st.booleans())
def test_pools(
    size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...], ceil: bool
) -> None:
    check(lambda x: F.max_pool3d(x, kernel, stride, padding, 1, ceil), 2, *size)
    check(lambda x: F.avg_pool3d(x, kernel, stride, padding, ceil, size[0] % 2 == 0), 2, *size)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 1), (4, 2, 3)])
def test_adaptive_pools(size: tuple[int, ...]) -> None:
    check(nn.AdaptiveAvgPool3d(size), 2, 4, 6, 5)
    check(nn.AdaptiveMaxPool3d(size), 2, 4, 6, 5)
    check(lambda x: F.avg_pool3d(x, 2, divisor_override=3), 2, 4, 6, 5)


def test_a_network_of_volumes_runs_as_a_plan_and_opens_each_wire_once() -> None:
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(24, 3)
    ).eval()
    compiled = compile_model(model, torch.rand(24, 1, 4, 4, 4), low=0, high=1)
    assert compiled.error < 0.01 * compiled.spread
    read = [layer.input for layer in compiled.plan.layers if layer.op == "conv"]
    assert len(read) == 3 and len(set(read)) == 1


@quick
@given(
    size=st.tuples(*[st.integers(3, 5)] * 3),
    kernel=st.tuples(*[st.integers(2, 3)] * 3),
    stride=st.tuples(*[st.integers(1, 2)] * 3),
    sides=st.tuples(*[st.integers(0, 1)] * 6),
)
def test_operators_of_onnx(
    tmp_path: Path, size: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], sides: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], strides=list(stride), pads=list(sides)),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    secrets = {"w": torch.randn(3, 2, *kernel), "b": torch.randn(3)}
    path = save(tmp_path, nodes, ("N", 2, *size), secrets)
    x = torch.randn(2, 2, *size)
    graph = read_onnx(path)
    expected: Tensor = torch.from_numpy(ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})[0])
    torch.testing.assert_close(graph.run(x)[graph.output], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("more", [{}, {"auto_pad": "SAME_UPPER"}, {"pads": [0, 1, 1, 0, 1, 1]}])
def test_pools_of_onnx(tmp_path: Path, kind: str, more: dict[str, object]) -> None:
    made = helper.make_node(kind, ["x"], ["y"], kernel_shape=[2, 3, 3], strides=[2, 1, 2], **more)
    path = save(tmp_path, [made], ("N", 2, 4, 5, 5))
    x = torch.randn(3, 2, 4, 5, 5)
    graph = read_onnx(path)
    expected = torch.from_numpy(ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})[0])
    torch.testing.assert_close(graph.run(x)[graph.output], expected, rtol=1e-4, atol=1e-4)
