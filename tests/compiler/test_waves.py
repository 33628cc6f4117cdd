"""Smooth functions as waves: how near they come, when they are taken, and what becomes of values beyond their range."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moiety_server.compiler import compilation, ir
from moiety_server.compiler.compilation import compile_model, encode_rows
from moiety_server.compiler.lowering import waves
from moiety_server.compiler.lowering.wires import ScaledWire
from moiety_shared.plan.local import Combine
from moiety_shared.plan.lookups import Truncate
from moiety_shared.plan.reduced import Reduce
from moiety_shared.plan.waves import Waves
from moiety_shared.protocols.waves import reference
from moiety_shared.ring import Array
from tests.protocols.running import Run

FRAC = 24
CLOSE = 0.00007  # of the usual values, which are 4 times their root mean square
NEAR = {32: 0.0005, 40: CLOSE, 64: CLOSE}
ROUNDED = {32: 0.0012, 40: 0.00001, 64: 0}
RINGS = {32: 32, 40: 64, 64: 64}


def smooth(function: str) -> ir.SmoothNode:
    return ir.SmoothNode(name="f", inputs=("x",), shape=(1,), origin="", function=function)


def approximation(fit: waves.Fit, x: Array, bits: int) -> Array:
    """What the layer gives for x and for masks of all sizes, with the line."""
    layer, frac = waves.layer_of(fit, ScaledWire("x", (len(x),), 32, FRAC, 1.0, x.min(), x.max()), "w", bits, fit.reach)
    t = np.rint(x * 2.0**FRAC).astype(np.int64) * fit.turns >> layer.shift
    opened = (t + 40503 * np.arange(len(t))) & ((1 << layer.opened_bits) - 1)
    return fit.slope * x + reference(layer, t, opened) * 2.0**-frac  # type: ignore[no-any-return]


@pytest.mark.parametrize("bits", [32, 40, 64])
@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        ("gelu", -8, 8), ("gelu", -3, 13), ("gelu_tanh", -6, 6), ("silu", -16, 16), ("silu", -2, 20),
        ("sigmoid", -8, 8), ("sigmoid", 0, 5), ("tanh", -4, 4), ("softplus", -9, 9), ("erf", -3, 3),
    ],
)  # fmt: skip
def test_waves_are_near_the_function(function: str, low: float, high: float, bits: int) -> None:
    """Over the whole range, within what is stated of the largest value, the rounding of the index, and that of words
    and tables."""
    x, node = np.linspace(low, high, 5001), smooth(function)
    exact = node.forward(torch.from_numpy(x)).numpy()
    fit, *others = waves.fits(node, ScaledWire("x", (1,), 32, FRAC, 1.0, low, high), 100.0, bits, RINGS[bits])
    assert all(fit.price <= other.price and other.error <= NEAR[bits] for other in (fit, *others))
    index = 2 * 2.3 * (high - low) / 2 ** (14 if bits == 32 else 16)  # two steps, where f rises by 1 a unit at most
    near = NEAR[bits] + ROUNDED[bits]
    assert np.abs(approximation(fit, x, bits) - exact).max() < near * np.abs(exact).max() + index


def test_values_far_from_the_usual_ones_take_no_waves() -> None:
    """They may be met less closely, by so much as is stated, and usual ones as closely as if none were far."""
    x, wire = np.linspace(-30, 30, 5001), ScaledWire("x", (1,), 64, 40, 1.0, -30, 30)
    exact = smooth("silu").forward(torch.from_numpy(x)).numpy()
    alike, fit = (waves.fits(smooth("silu"), wire, 0.6, 40, 64, typical)[0] for typical in (np.inf, 1.0))
    assert len(fit.cosines) <= 0.9 * len(alike.cosines)
    angle = 2 * np.pi * fit.turns * 2.0 ** (40 - fit.period_bits) * np.outer(np.arange(1, len(fit.cosines) + 1), x)
    error = np.abs(fit.slope * x + fit.constant + fit.cosines @ np.cos(angle) + fit.sines @ np.sin(angle) - exact)
    close = 1.01 * CLOSE * np.maximum(2.4, np.abs(exact))
    assert (error < close * np.minimum(np.exp(x**2 / 16), 50)).all()
    assert error[np.abs(x) < 2].max() < 2 * CLOSE * 2.4 * 1.01 and error.max() > 10 * CLOSE * 2.4


@pytest.mark.parametrize("bits", [32, 64])
def test_a_line_is_added_before_anything_is_opened_where_the_ring_has_room(bits: int) -> None:
    """Then each function opens its index and what is left of the sum, and nothing else."""
    compiled = compile_model(network(nn.SiLU()), inputs(), low=-1, high=1, ring_bits=bits)
    kinds = [type(layer) for layer in compiled.plan.layers]
    assert kinds.count(Waves) == 2
    assert (kinds.count(Truncate), kinds.count(Reduce)) == ((2, 2) if bits == 64 else (4, 0))


@pytest.mark.parametrize("bits", [32, 40, 64])
@pytest.mark.parametrize(
    ("function", "low", "high"),
    [("elu", -30, 30), ("exp", -9, 9), ("softsign", -9, 9), ("sqrt", 0.05, 9), ("tan", -1.4, 1.4), ("silu", -999, 999)],
)
def test_functions_with_kinks_or_steep_ends_stay_parabolas(function: str, low: float, high: float, bits: int) -> None:
    assert waves.fits(smooth(function), ScaledWire("x", (1,), 32, 16, 1.0, low, high), 1.0, bits, RINGS[bits]) == []


def network(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(16, 128), activation, nn.Linear(128, 128), activation, nn.Linear(128, 10)).eval()
    for weight in (made[0].weight, made[2].weight, made[4].weight):
        weight.data *= 2
    return made


def inputs() -> Tensor:
    torch.manual_seed(1)
    return torch.rand(200, 16) * 2 - 1


@pytest.mark.parametrize(
    ("activation", "bits"), [(nn.GELU(), 32), (nn.GELU(), 64), (nn.SiLU(), 64), (nn.Sigmoid(), 64), (nn.Tanh(), 64)]
)
def test_networks_of_waves_are_as_near_and_cost_less(
    monkeypatch: pytest.MonkeyPatch, activation: nn.Module, bits: int
) -> None:
    model, x = network(activation), inputs()
    with torch.inference_mode():
        expected = model(x).double().numpy()
    compiled = compile_model(model, x, low=-1, high=1, ring_bits=bits)
    made = [layer.word_bits for layer in compiled.plan.layers if isinstance(layer, Waves)]
    assert made and set(made) == {min(bits, 40)}
    got = Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, x))
    assert np.abs(got * compiled.plan.output.scale - expected).max() < (0.02 if bits == 32 else 0.01) * expected.std()
    monkeypatch.setattr(waves, "write", lambda *_: None)
    parabolic = compile_model(model, x, low=-1, high=1, ring_bits=bits)
    one, other = compiled.plan.cost(1), parabolic.plan.cost(1)
    assert one.rounds <= other.rounds - 4 and one.online_bytes < other.online_bytes * 0.75
    assert one.offline_bytes < other.offline_bytes


def test_where_waves_err_too_much_the_plan_has_parabolas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_WITH_WAVES", 1e-9)
    compiled = compile_model(network(nn.GELU()), inputs(), low=-1, high=1)
    assert not any(isinstance(layer, Waves) for layer in compiled.plan.layers)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("function", [nn.GELU(), nn.CELU(), nn.Softplus()])
def test_where_a_function_is_a_line_there_are_no_waves(function: nn.Module, bits: int) -> None:
    """Nothing bends there, or as good as nothing: waves as low as rounding would take bits that no ring has."""
    first, last = nn.Linear(16, 8), nn.Linear(8, 3)
    nn.init.constant_(first.bias, 60)
    model = nn.Sequential(first, function, last).eval()
    compiled = compile_model(model, inputs(), low=-1, high=1, ring_bits=bits)
    assert not any(isinstance(layer, Waves) for layer in compiled.plan.layers)
    with torch.inference_mode():
        expected = model(inputs()).double().numpy()
    got = Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, inputs()))
    assert np.abs(got * compiled.plan.output.scale - expected).max() < 0.05 * expected.std() + 2e-4 * 60


@pytest.mark.parametrize("function", [nn.GELU(), nn.Sigmoid()])
def test_waves_at_the_end_are_cut_before_they_are_given_out(function: nn.Module) -> None:
    """A sigmoid at the end of several outputs is the client's to apply, but not one whose values are added up."""

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 6)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = function(self.linear(x))
            return y[:, :3] + y[:, 3:]

    compiled = compile_model(Added().eval(), inputs(), low=-1, high=1, ring_bits=64)
    layers = {layer.name: layer for layer in compiled.plan.layers}
    found = [layer for layer in layers.values() if isinstance(layer, Waves)]
    assert found
    for layer in found:
        readers = [other for other in layers.values() if layer.name in other.reads]
        readers = [
            o for r in readers for o in layers.values() if isinstance(r, Combine) and r.name in o.reads
        ] or readers
        assert readers and all(isinstance(r, Truncate) and r.shift >= layer.hidden_bits for r in readers)


def test_beyond_the_calibrated_range_outputs_stay_bounded() -> None:
    """Values beyond what was measured, with head-room: waves repeat, and give nothing larger than they ever do."""
    torch.manual_seed(0)
    first, last = nn.Linear(16, 16), nn.Linear(16, 4)
    model = nn.Sequential(first, nn.Tanh(), last).eval()
    compiled = compile_model(model, inputs() / 8, low=-1, high=1, headroom=2.0)
    assert any(isinstance(layer, Waves) for layer in compiled.plan.layers)
    got = Run(compiled.plan, compiled.weights).outputs(encode_rows(compiled.plan, inputs()))
    most = float((last.weight.detach().abs().sum(1) + last.bias.detach().abs()).max())
    assert np.abs(got * compiled.plan.output.scale).max() < 3 * most
