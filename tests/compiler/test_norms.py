"""Norms divide by what depends on the input: a clamp keeps it where calibration data has it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler import ir, ranges
from moiety_server.compiler.compilation import Compiled, compile_model, outputs_of, run_float
from moiety_server.compiler.functions import FUNCTIONS
from moiety_server.compiler.trace import trace
from tests.compiler.tracing import Fn

NORMS: dict[str, nn.Module] = {
    "LayerNorm": nn.LayerNorm(32),
    "RMSNorm": nn.RMSNorm(32, eps=1e-6),
    "normalize": Fn(F.normalize),
    "by hand": Fn(lambda x: x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()),
}


def model(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), norm, nn.ReLU(), nn.Linear(32, 5)).eval()


def served(norm: nn.Module, calibration: Tensor) -> Compiled:
    return compile_model(model(norm), calibration, low=-1, high=1)


def rows(reach: float, size: int = 16) -> Tensor:
    return (torch.rand(200, size, generator=torch.Generator().manual_seed(1)) * 2 - 1) * reach


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_served(name: str) -> None:
    made = served(NORMS[name], rows(0.5))
    with torch.inference_mode():
        exact = model(NORMS[name])(rows(0.5)).double().numpy()
    assert np.abs(outputs_of(made, rows(0.5)) - exact).max() < 0.01 * exact.std()


@pytest.mark.parametrize("name", NORMS)
def test_an_input_beyond_the_limits_gets_the_answer_of_the_clamped_model(name: str) -> None:
    torch.manual_seed(0)
    made = compile_model(nn.Sequential(NORMS[name], nn.Linear(32, 5)).eval(), rows(0.3, 32), low=-1, high=1)
    clamped = [node for node in made.graph.nodes if isinstance(node, ir.ClampNode) and node.high is not None]
    assert clamped
    for far in (rows(1, 32), rows(0.02, 32)):
        wires = made.graph.run(far)
        assert any(bool((wires[one.inputs[0]] != wires[one.name]).any()) for one in clamped)
        exact = run_float(made.graph, far)
        assert np.abs(outputs_of(made, far) - exact).max() < 0.02 * exact.std() + 0.02 * made.spread


@pytest.mark.parametrize("name", NORMS)
def test_the_limits_are_powers_of_two_with_head_room(name: str) -> None:
    made = served(NORMS[name], rows(0.5))
    wires = made.graph.run(rows(0.5))
    steep = [n for n in made.graph.nodes if isinstance(n, ir.SmoothNode) and FUNCTIONS[n.function].is_steep]
    nodes = {node.name: node for node in made.graph.nodes}
    clamps = [one for one in (nodes[node.inputs[0]] for node in steep) if isinstance(one, ir.ClampNode)]
    assert clamps
    for clamp in clamps:
        assert clamp.high is not None and clamp.low * 2 <= float(wires[clamp.inputs[0]].min())
        assert clamp.high >= 2 * float(wires[clamp.inputs[0]].max())
        assert math.log2(clamp.low).is_integer() and math.log2(clamp.high).is_integer()
        assert clamp.name in made.measured


@pytest.mark.parametrize("name", NORMS)
def test_what_is_behind_a_clamp_is_measured_whatever_is_proved_before_it(name: str) -> None:
    analysis = ranges.analyse(trace(model(NORMS[name]), rows(0.5)), rows(0.5), low=-1, high=1)
    known = analysis.ranges(affordable=math.inf, headroom=4)
    (first, *_) = [node for node in analysis.graph.nodes if node.name in analysis.clamps]
    assert known[first.inputs[0]].proved and not known[first.name].proved and not known[analysis.graph.output].proved


@pytest.mark.parametrize("name", NORMS)
def test_calibration_inputs_that_are_too_different_are_refused(name: str) -> None:
    class Unbiased(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return NORMS[name](F.pad(x, (0, 16))) @ torch.ones(32, 3)  # type: ignore[no-any-return]

    few = rows(0.5)
    few[7] = 0
    with pytest.raises(ir.NotServable, match=r"as far as it is proved, and between .* on the calibration data"):
        compile_model(Unbiased(), few, low=-1, high=1)
