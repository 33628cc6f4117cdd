"""Norms, however a model writes them, and for rows whose sizes differ; other quotients divide by what is clamped."""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler import ir, ranges
from moiety_server.compiler.compilation import Compiled, compile_model, encode_rows, outputs_of, run_float
from moiety_server.compiler.functions import FUNCTIONS
from moiety_server.compiler.norms import DeviationNode, NormNode, SquaresNode
from moiety_server.compiler.onnx.graph import read_onnx
from moiety_server.compiler.trace import trace
from moiety_shared.plan.lookups import Truncate
from moiety_shared.plan.normalise import Normalise
from tests.compiler import onnx_files
from tests.compiler.tracing import Fn
from tests.protocols.running import Run

NORMS: dict[str, nn.Module] = {
    "LayerNorm": nn.LayerNorm(32),
    "RMSNorm": nn.RMSNorm(32, eps=1e-6),
    "GroupNorm": Fn(lambda x: F.group_norm(x.reshape(-1, 4, 8), 2).flatten(1)),
    "InstanceNorm": Fn(lambda x: F.instance_norm(x.reshape(-1, 2, 16)).flatten(1)),
    "normalize": Fn(F.normalize),
    "by its norm": Fn(lambda x: x / x.norm(dim=1, keepdim=True)),
    "by hand": Fn(lambda x: x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()),
    "times a root": Fn(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)),
    "less its mean, by hand": Fn(lambda x: _by_hand(x)),
}


def _by_hand(x: Tensor) -> Tensor:
    apart = x - x.mean(-1, keepdim=True)
    return apart / torch.sqrt(apart.pow(2).mean(-1, keepdim=True) + 1e-5)


def turned(norm: nn.Module) -> nn.Module:
    """What a norm gives of a vector that a secret matrix turned round."""
    torch.manual_seed(0)
    return Fn(lambda x, weight: norm(x @ weight), torch.linalg.qr(torch.randn(32, 32))[0]).eval()


def rows(octaves: float, seed: int, count: int = 200) -> Tensor:
    """Of sizes that spread over so many octaves."""
    torch.manual_seed(seed)
    return torch.randn(count, 32).clamp(-4, 4) * 2.0 ** (octaves * (torch.rand(count, 1) - 0.5))


def served(norm: nn.Module, octaves: float) -> Compiled:
    reach = float(4 * 2.0 ** (octaves / 2))
    return compile_model(turned(norm), rows(octaves, 1), low=-reach, high=reach)


def exact(norm: nn.Module, x: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return turned(norm)(x).double().numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("octaves", [0, 3, 6])
@pytest.mark.parametrize("name", NORMS)
def test_rows_of_all_sizes_are_normed_alike(name: str, octaves: float) -> None:
    """Within 1.5e-4 of their root mean square, the worst row within 4e-4: variances that differ by 2^12 at most."""
    norm, x = NORMS[name], rows(octaves, 2)
    made, wanted = served(norm, octaves), exact(NORMS[name], x)
    off = (outputs_of(made, x) - wanted) ** 2
    size = np.sqrt((wanted**2).mean())
    assert np.sqrt(off.mean()) < 1.5e-4 * size and np.sqrt(off.mean(axis=1).max()) < 4e-4 * size


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_found_however_it_is_written(name: str) -> None:
    made = trace(turned(NORMS[name]), rows(0, 1))
    kinds = {type(node) for node in made.nodes}
    assert {SquaresNode, NormNode} <= kinds and not kinds & {ir.SmoothNode, ir.MulNode}
    centred = name in ("LayerNorm", "GroupNorm", "InstanceNorm", "less its mean, by hand")
    assert (DeviationNode in kinds) == centred and not (centred and ir.AddNode in kinds)


OTHERS: dict[str, nn.Module] = {
    "the squares of another wire": Fn(lambda x: x / (x + 1).norm(dim=1, keepdim=True)),
    "a root of another sum": Fn(lambda x: x * (x * x.abs()).sum(1, keepdim=True).abs().sqrt()),
    "over another axis": Fn(lambda x: x.reshape(-1, 4, 4) / x.reshape(-1, 4, 4).norm(dim=1).unsqueeze(2)),
    "repeated along another axis": Fn(
        lambda x: x.reshape(-1, 4, 4) / x.reshape(-1, 4, 4).norm(dim=1).unsqueeze(2).expand(-1, 4, 4)
    ),
    "with a limit that shows": Fn(lambda x: F.normalize(x, eps=0.5)),
    "1 over a norm": Fn(lambda x: 1 / x.norm(dim=1, keepdim=True)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_norm_is_not_taken_for_one(name: str) -> None:
    x = torch.rand(5, 16) + 1
    graph = trace(nn.Sequential(nn.Linear(16, 16), OTHERS[name]), x)
    assert not any(isinstance(node, NormNode) for node in graph.nodes)


def test_what_loses_four_fifths_of_its_mean_is_not_taken_to_lose_it_all() -> None:
    """It is a norm of what is left, and no layer norm."""
    x = torch.rand(5, 16) + 1
    model = nn.Sequential(nn.Linear(16, 16), Fn(lambda x: F.rms_norm(x - x.sum(1, keepdim=True) / 20, (16,))))
    graph = trace(model, x)
    kinds = {type(node) for node in graph.nodes}
    assert NormNode in kinds and DeviationNode not in kinds
    torch.testing.assert_close(graph.run(x)[graph.output], model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ring_bits", [32, 64])
@pytest.mark.parametrize("name", ["LayerNorm", "InstanceNorm", "normalize"])
def test_private_norms_are_bit_exact(name: str, ring_bits: int) -> None:
    x = rows(3, 1, 20)
    made = compile_model(turned(NORMS[name]), x, low=-12, high=12, ring_bits=ring_bits)
    assert made.plan.ring_bits == ring_bits and any(isinstance(layer, Normalise) for layer in made.plan.layers)
    got = Run(made.plan, made.weights).assert_bit_exact(encode_rows(made.plan, x)) * made.plan.output.scale
    wanted = exact(NORMS[name], x)
    assert np.abs(got - wanted.reshape(got.shape)).max() < {32: 0.1, 64: 0.002}[ring_bits] * np.abs(wanted).max()


def test_there_is_head_room_on_both_sides() -> None:
    """Rows three times as large and a third as large as any that were shown; and rows of zeros."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 5)).eval()
    shown = rows(0, 1)
    made = compile_model(model, shown, low=-16, high=16)
    for times in (3, 1 / 3, 0):
        x = rows(0, 2) * times
        wanted = model(x).detach().double().numpy()
        assert np.abs(outputs_of(made, x) - wanted).max() < 0.002 * made.spread
    squares = next(node for node in made.graph.nodes if isinstance(node, SquaresNode))
    assert made.measured[squares.name] == pytest.approx(16), "a square goes as far as the square of the head-room"


def test_what_reads_a_norm_has_a_range_near_what_was_measured() -> None:
    """A norm rests on data, so a proof that is twenty times as wide would cost bits and make nothing sure."""
    plain = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 3)).eval()
    analysis = ranges.analyse(trace(plain, rows(0, 1)), rows(0, 1), low=-4, high=4)
    known = analysis.ranges(affordable=math.inf, headroom=4)
    (gelu,) = (node for node in analysis.graph.nodes if isinstance(node, ir.SmoothNode))
    least, most, _ = analysis.measured[gelu.inputs[0]]
    assert known[gelu.inputs[0]].reach <= 4 * max(-least, most) and not known[gelu.inputs[0]].proved


def test_rows_of_one_size_need_no_normal_form() -> None:
    """Where it is proved that the largest sum is less than 16 times the smallest one."""
    model = turned(Fn(lambda x: F.normalize(F.pad(x, (0, 1), value=12.0))))
    made = compile_model(model, rows(0, 1).clamp(-1, 1), low=-1, high=1)
    assert not any(isinstance(layer, Normalise) for layer in made.plan.layers)
    x = rows(0, 2).clamp(-1, 1)
    assert np.abs(outputs_of(made, x) - model(x).detach().double().numpy()).max() < 3e-4


# Quotients by the norm of something else: a clamp keeps it where calibration data has it.

CLAMPED: dict[str, nn.Module] = {
    "by the norm of others": Fn(lambda x: x[:, :16] / x[:, 16:].norm(dim=1, keepdim=True)),
    "by a deviation": Fn(lambda x: x / (x.var(1, keepdim=True) + 1e-6).sqrt()),
}


def model(norm: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), norm, nn.ReLU(), nn.LazyLinear(5)).eval()


def uniform(reach: float, size: int = 16) -> Tensor:
    return (torch.rand(200, size, generator=torch.Generator().manual_seed(1)) * 2 - 1) * reach


@pytest.mark.parametrize("name", CLAMPED)
def test_an_input_beyond_the_limits_gets_the_answer_of_the_clamped_model(name: str) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(CLAMPED[name], nn.LazyLinear(5)).eval()
    plain(uniform(0.3, 32))
    made = compile_model(plain, uniform(0.3, 32), low=-1, high=1)
    clamped = [node for node in made.graph.nodes if isinstance(node, ir.ClampNode) and node.high is not None]
    assert clamped
    for far in (uniform(1, 32), uniform(0.02, 32)):
        wires = made.graph.run(far)
        assert any(bool((wires[one.inputs[0]] != wires[one.name]).any()) for one in clamped)
        wanted = run_float(made.graph, far)
        assert np.abs(outputs_of(made, far) - wanted).max() < 0.02 * wanted.std() + 0.02 * made.spread


@pytest.mark.parametrize("name", CLAMPED)
def test_the_limits_are_powers_of_two_with_head_room(name: str) -> None:
    plain = model(CLAMPED[name])
    plain(uniform(0.5))
    made = compile_model(plain, uniform(0.5), low=-1, high=1)
    wires = made.graph.run(uniform(0.5))
    steep = [n for n in made.graph.nodes if isinstance(n, ir.SmoothNode) and FUNCTIONS[n.function].is_steep]
    nodes = {node.name: node for node in made.graph.nodes}
    clamps = [one for one in (nodes[node.inputs[0]] for node in steep) if isinstance(one, ir.ClampNode)]
    assert clamps
    for clamp in clamps:
        assert clamp.high is not None and clamp.low * 2 <= float(wires[clamp.inputs[0]].min())
        assert clamp.high >= 2 * float(wires[clamp.inputs[0]].max())
        assert math.log2(clamp.low).is_integer() and math.log2(clamp.high).is_integer()
        assert clamp.name in made.measured


@pytest.mark.parametrize("name", CLAMPED)
def test_what_is_behind_a_clamp_is_measured_whatever_is_proved_before_it(name: str) -> None:
    plain = model(CLAMPED[name])
    plain(uniform(0.5))
    analysis = ranges.analyse(trace(plain, uniform(0.5)), uniform(0.5), low=-1, high=1)
    known = analysis.ranges(affordable=math.inf, headroom=4)
    (first, *_) = [node for node in analysis.graph.nodes if node.name in analysis.clamps]
    assert known[first.inputs[0]].proved and not known[first.name].proved and not known[analysis.graph.output].proved


def test_calibration_inputs_that_are_too_different_are_refused() -> None:
    few = uniform(0.5, 32)
    few[7] = 1e-4
    plain = Fn(lambda x, weight: CLAMPED["by the norm of others"](x) @ weight, torch.ones(16, 3))
    with pytest.raises(ir.NotServable, match=r"as far as it is proved, and between .* on the calibration data"):
        compile_model(plain, few, low=-1, high=1)


@pytest.mark.parametrize("form", ["LayerNormalization", "RMSNormalization", "LpNormalization", "in seven operators"])
def test_norms_of_onnx_files_are_found_too(form: str, tmp_path: Path) -> None:
    """Also in the operators that exporters took before ONNX had layer norms."""
    n = onnx_files.N
    scale = onnx_files.constant("scale", np.linspace(0.5, 2, n), np.float32)
    nodes, opset = [onnx_files.node(form, "x scale", axis=-1)], 23
    if form == "LpNormalization":
        nodes = [onnx_files.node(form, "x", "z", axis=-1), onnx_files.node("Mul", "z scale")]
    elif form == "in seven operators":
        opset = 17
        nodes = [
            onnx_files.node("ReduceMean", "x", "mean", axes=[-1]),
            onnx_files.node("Sub", "x mean", "apart"),
            onnx_files.node("Pow", "apart two", "squares"),
            onnx_files.node("ReduceMean", "squares", "variance", axes=[-1]),
            onnx_files.node("Add", "variance least", "more"),
            onnx_files.node("Sqrt", "more", "root"),
            onnx_files.node("Div", "apart root", "z"),
            onnx_files.node("Mul", "z scale"),
        ]
    more = [onnx_files.constant("two", 2.0, np.float32), onnx_files.constant("least", 1e-5, np.float32)]
    onnx.save(onnx_files.model([scale, *more, *nodes], opset=opset), tmp_path / "m.onnx")
    graph = read_onnx(tmp_path / "m.onnx")
    assert [type(node) for node in graph.nodes if isinstance(node, NormNode | ir.SmoothNode)] == [NormNode]
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(0)).double()
    apart = x - x.mean(1, keepdim=True) if form in ("LayerNormalization", "in seven operators") else x
    squares = apart.square().sum(1, keepdim=True) if form == "LpNormalization" else apart.square().mean(1, keepdim=True)
    wanted = apart / squares.sqrt() * torch.linspace(0.5, 2, n)
    assert (graph.run(x.float())[graph.output].reshape(3, n) - wanted).abs().max() < 1e-4


class Residual(nn.Module):
    """A norm that a matrix and a residual read, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.norm, self.made = nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 32)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 2)
            self.norm.bias.uniform_(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.norm(self.given(x))
        return z + self.made(z)


def test_a_matrix_beside_a_residual_reads_the_norm_itself() -> None:
    """The norm is opened once, and its scale costs the matrix no round."""
    torch.manual_seed(0)
    model, x = Residual().eval(), rows(0, 1)
    made = compile_model(model, x, low=-4, high=4)
    matrix = [node for node in made.graph.nodes if isinstance(node, ir.LinearNode)][-1]
    assert matrix.inputs[0] in {node.name for node in made.graph.nodes if isinstance(node, NormNode)}
    assert [type(node) for node in made.graph.nodes].count(ir.ConvNode) == 1
    with torch.inference_mode():
        assert np.abs(outputs_of(made, x) - model(x).numpy()).max() < 0.01


def test_a_product_in_front_of_a_norm_leaves_room_for_its_mean() -> None:
    """Nothing is cut by a bit or two so that n x less a sum of x fits: that would take a round."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(256, 4096), nn.LayerNorm(4096), nn.Linear(4096, 2)).eval(), torch.rand(4, 256)
    made = compile_model(model, x, low=0, high=1, ring_bits=64)
    assert min(layer.shift for layer in made.plan.layers if isinstance(layer, Truncate)) > 8
