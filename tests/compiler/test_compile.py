"""From torch to a plan: ranges that hold, scales that fit, outputs that agree, models that are refused."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server import sources
from moiety_server.compiler import ir, ranges
from moiety_server.compiler.compilation import Compiled, compile_model, encode_rows
from moiety_server.compiler.functions import FUNCTIONS
from moiety_server.compiler.inspection import inspect
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.lowering import smooth
from moiety_server.compiler.lowering.wires import ScaledWire
from moiety_server.compiler.scales import Precision
from moiety_server.compiler.trace import trace
from moiety_server.zoo import network, samples
from moiety_shared import reference
from moiety_shared.plan.layers import Linear, Reshare
from moiety_shared.plan.lookups import MaxPool, ReLU, Table, TopK
from moiety_shared.plan.waves import Waves
from moiety_shared.protocols import graph as protocols
from tests.compiler.tracing import Fn
from tests.protocols.running import Run


@pytest.mark.parametrize("ring_bits", [32, 64])
def test_a_matrix_of_zeros_is_served(ring_bits: int) -> None:
    """Some networks begin with a last layer of zeros."""
    model, x = chain(8, 8, 3), torch.rand(4, 8)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    for value in last.parameters():
        nn.init.zeros_(value)
    compiled = compile_model(model, x, low=0, high=1, ring_bits=ring_bits)
    assert not reference.run(compiled.plan, encode_rows(compiled.plan, x), compiled.weights).any()


def chain(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def private(compiled: Compiled, x: Tensor) -> np.ndarray:
    """Real outputs of a private run, which is also held against the plain evaluator."""
    run = Run(compiled.plan, compiled.weights)
    return run.assert_bit_exact(encode_rows(compiled.plan, x)) * compiled.plan.output.scale


@pytest.mark.parametrize("sizes", [(5, 7, 3), (4, 8, 8, 2), (6, 3)])
def test_no_input_of_the_range_exceeds_a_proved_range(sizes: tuple[int, ...]) -> None:
    graph = trace(chain(*sizes), torch.zeros(2, sizes[0]))
    inputs = torch.rand(4000, sizes[0]) * 3 - 1
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 2.0])] * sizes[0]).reshape(-1, sizes[0])
    known = ranges.analyse(graph, inputs, low=-1, high=2).ranges(affordable=math.inf, headroom=1)
    for x in (inputs, corners):
        for name, values in graph.run(x).items():
            assert known[name].proved
            assert known[name].low - 1e-5 <= float(values.min()) and float(values.max()) <= known[name].high + 1e-5


def test_a_range_that_cannot_be_proved_cheaply_is_measured_and_says_so() -> None:
    torch.manual_seed(0)
    deep = nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 4))
    compiled = compile_model(deep, torch.rand(64, 64), low=0, high=1)
    assert compiled.measured, "intervals widen with depth"
    assert not compile_model(chain(20, 30, 5), torch.rand(50, 20), low=0, high=1).measured


@pytest.mark.parametrize("headroom", [4.0, 8.0])
def test_a_measured_range_tells_its_head_room(headroom: float) -> None:
    """The widest input that the head-room allows drives the last sum as far, and no further."""
    torch.manual_seed(0)
    sums = nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 4))
    compiled = compile_model(sums, torch.rand(64, 64), low=0, high=1, headroom=headroom)
    last = compiled.graph.nodes[-1].name
    seen = compiled.graph.run(torch.rand(64, 64))[last].abs().max()
    told = next(line for line in inspect("deep", compiled).layers if line.name == last)
    assert told.range == "data" and told.headroom == compiled.measured[last] == pytest.approx(headroom)
    assert compiled.wires[last].high == pytest.approx(headroom * float(seen), rel=0.2)
    proved = inspect("chain", compile_model(chain(20, 30, 5), torch.rand(50, 20), low=0, high=1)).layers
    assert {line.range for line in proved} == {"proved"} and not any(line.headroom for line in proved)


def test_the_mnist_network_compiles_to_the_stated_plan() -> None:
    compiled = sources.load("mnist").compile()
    kinds = [layer.op for layer in compiled.plan.layers]
    assert kinds == ["open", "linear", "relu", "open", "linear"]
    assert compiled.error < 0.05 and not compiled.measured, "no input in the range can overflow"
    cost = compiled.plan.cost(128)
    assert cost.rounds == 5 and cost.online_bytes / 128 < 6_800 and cost.offline_bytes / 128 < 17_100


def test_lenet_costs_what_it_should() -> None:
    compiled = sources.load("lenet").compile()
    cost = compiled.plan.cost(1)
    assert cost.online_bytes < 120_000 and cost.offline_bytes < 341_000
    assert compiled.agreement == 1 and compiled.error < 0.01 * compiled.spread
    labels = sources.load("lenet").compile(reveal="labels")
    assert labels.plan.rounds - compiled.plan.rounds == 4


def test_the_transformer_answers_as_in_float() -> None:
    compiled = sources.load("rows").compile()
    assert compiled.agreement == 1 and compiled.error < 0.005 * compiled.spread
    assert compiled.plan.ring_bits == 64 and compiled.plan.cost(1).rounds < 120
    pictures = network.normalise(samples.images()[0][:2], "rows")
    with torch.inference_mode():
        exact = network.load(samples.FOLDER / "rows.safetensors", "rows")(pictures).double().numpy()
    got = private(compiled, pictures)
    assert np.abs(got - exact).max() < 0.01 * compiled.spread


@pytest.mark.parametrize(
    ("name", "right"), [("mnist", 0.97), ("mnist-deep", 0.98), ("lenet", 0.99), ("mobile", 0.985), ("rows", 0.98)]
)
def test_the_shipped_weights_are_trained_networks(name: str, right: float) -> None:
    pixels, labels = samples.images()
    model = network.load(samples.FOLDER / f"{name}.safetensors", name)
    assert network.accuracy(model, pixels, labels, name) > right
    assert all(path.stat().st_size < 2_000_000 for path in samples.FOLDER.iterdir())


class Residual(nn.Module):
    """One block of each kind that networks for pictures are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
        self.narrow = nn.Conv2d(8, 5, 1)
        self.wide = nn.Conv2d(8, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.hardswish(self.depthwise(x)) * F.hardsigmoid(self.squeeze(x))
        x = x + y - 0.5 * F.silu(y)
        a = F.max_pool2d(F.relu(self.narrow(x)), 3, stride=2, padding=1)
        b = F.leaky_relu(self.wide(x), 0.1)
        x = torch.cat([a, b], dim=1)
        return self.head(torch.flatten(F.avg_pool2d(x, 4), 1))


def test_a_network_of_every_kind_of_block_runs_privately_as_in_float() -> None:
    torch.manual_seed(0)
    model = Residual().train(False)
    x = torch.rand(24, 3, 8, 8) * 2 - 1
    compiled = compile_model(model, x, low=-1, high=1)
    with torch.inference_mode():
        expected = model(x).double().numpy()
    got = private(compiled, x)
    assert np.abs(got - expected).max() < 0.02 * expected.std()
    assert compiled.error < 0.02 * expected.std()


@pytest.mark.parametrize("first", [nn.Sigmoid(), nn.GELU(), nn.ReLU(), nn.MaxPool1d(2), nn.Hardtanh(-0.5, 0.7)])
def test_a_network_that_begins_with_a_look_up(first: nn.Module) -> None:
    """No low bits are dropped of the shares that a client chose, and outputs are as near as behind a product."""
    torch.manual_seed(2)
    x = torch.rand(60, 1, 20) * 4 - 2
    model = nn.Sequential(first, nn.Flatten(), nn.Linear(10 if isinstance(first, nn.MaxPool1d) else 20, 6)).eval()
    compiled = compile_model(model, x, low=-2, high=2)
    with torch.inference_mode():
        expected = model(x).double().numpy()
    run, rows = Run(compiled.plan, compiled.weights), encode_rows(compiled.plan, x)
    got = run.assert_bit_exact(rows) * compiled.plan.output.scale
    assert np.abs(got - expected).max() < 0.002 * expected.std()
    smooth = isinstance(first, nn.Sigmoid | nn.GELU)
    assert any(isinstance(layer, Reshare) for layer in compiled.plan.layers) == smooth
    # Both shares of every row are the client's own: the dithers are not.
    rows = np.resize(rows[:1], (500, rows.shape[1]))
    parties = [
        protocols.evaluate(compiled.plan, p, shares, prepared, run.models[p])
        for p, (shares, (_, prepared)) in enumerate(zip((rows * 0, rows), run.ready(rows), strict=True))
    ]
    run.drive(*parties)
    if smooth:
        looked_up = next(layer for layer in compiled.plan.layers if isinstance(layer, Table | Waves))
        dither = (run.dithers[looked_up.name] + 0.5) / 2.0**looked_up.shift
        assert abs(dither.mean() - 0.5) < 0.02 and len(np.unique(dither)) == 1 << looked_up.shift


@pytest.mark.parametrize("reveal", ["labels", "count"])
def test_labels_and_counts_are_those_of_the_logits(reveal: str) -> None:
    torch.manual_seed(1)
    model, x = chain(10, 16, 7), torch.rand(40, 10)
    with torch.inference_mode():
        order = model(x).argsort(dim=1, descending=True).numpy()
    compiled = compile_model(model, x, low=0, high=1, reveal=reveal, top=3 if reveal == "labels" else 1)
    run, rows = Run(compiled.plan, compiled.weights), encode_rows(compiled.plan, x)
    if reveal == "labels":
        places = run.assert_bit_exact(rows)
        assert [[int(np.flatnonzero(row == place)[0]) for place in (1, 2, 3)] for row in places] == order[
            :, :3
        ].tolist()
        return
    claimed = np.where(np.arange(40) % 3 == 0, order[:, 1], order[:, 0])
    right = run.assert_bit_exact(np.concatenate((rows, claimed[:, None].astype(rows.dtype)), axis=1))
    assert right.sum() == sum(i % 3 != 0 for i in range(40))


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.data())
def test_random_convolutional_networks_agree_with_torch(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 1 << 30)))
    channels, size = data.draw(st.integers(1, 4)), data.draw(st.integers(10, 13))
    x = torch.rand(12, channels, size, size) - 0.5
    layers: list[nn.Module] = []
    current = channels
    for _ in range(data.draw(st.integers(1, 3))):
        out = data.draw(st.integers(1, 6))
        kernel = data.draw(st.sampled_from([1, 2, 3]))
        layers.append(
            nn.Conv2d(current, out, kernel, padding=data.draw(st.integers(0, 1)), bias=data.draw(st.booleans()))
        )
        layers.append(data.draw(st.sampled_from([nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.SiLU(), nn.Identity()])))
        layers.append(data.draw(st.sampled_from([nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1), nn.BatchNorm2d(out)])))
        current = out
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(current, 3)).train(False)
    compiled = compile_model(model, x, low=-0.5, high=0.5)
    with torch.inference_mode():
        expected = model(x).double().numpy()
    spread = max(float(expected.std()), float(np.abs(expected).max()) / 100)
    assert np.abs(private(compiled, x) - expected).max() < 0.03 * spread


# Where a function is tried, and how close its table comes to it there, in parts of the largest value (at least 1).
SMOOTH = {
    "exp": (-3.0, 3.0, 0.0005),
    "sin": (-9.0, 9.0, 0.0025),  # at 9 the parabola's terms are 40 times its value
    "cos": (-9.0, 9.0, 0.005),
    "softsign": (-9.0, 9.0, 0.002),  # its second derivative jumps at 0
    "sinh": (-3.0, 3.0, 0.0005),
    "cosh": (-3.0, 3.0, 0.0005),
    "tan": (-1.4, 1.4, 0.006),
    "asin": (-0.95, 0.95, 0.001),
    "acos": (-0.95, 0.95, 0.0005),
    "atanh": (-0.9, 0.9, 0.0015),
    "acosh": (1.2, 9.0, 0.0005),
    "log": (0.2, 9.0, 0.0005),
    "sqrt": (0.05, 9.0, 0.0025),
    "rsqrt": (0.3, 9.0, 0.0005),
    "reciprocal": (0.3, 9.0, 0.0015),
}


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_smooth_functions_are_close(function: str) -> None:
    node = ir.SmoothNode(name="f", inputs=("x",), shape=(1,), origin="", function=function)
    low, high, close = SMOOTH.get(function, (-9.0, 9.0, 0.0005))
    assert FUNCTIONS[function].allows(low, high)
    x = np.linspace(low, high, 20_001)
    exact = node.forward(torch.from_numpy(x)).numpy()
    limits = (min(exact.min(), -1.0), max(exact.max(), 1.0))
    wire = ScaledWire("x", (1,), 32, 24, 1.0, low, high)
    of = smooth.parabolas(node, wire, limits, 10, Precision.of(32), 13)
    ring = np.rint(x * 2.0**24).astype(np.int64)
    for dither in (0, (1 << of.shift) - 1, (1 << of.shift) // 3):
        index = (ring + dither >> of.shift) & ((1 << of.index_bits) - 1)
        got = np.array(of.curves)[index] * 2.0**-of.curve_bits * x + np.array(of.slopes)[index] * 2.0**-of.slope_bits
        assert np.abs(got).max() <= of.steepest
        got = np.array(of.offsets)[index] * 2.0**-of.offset_bits + got * x
        assert np.abs(got - exact).max() < close * max(np.abs(exact).max(), 1)


def test_values_too_large_for_a_table_are_refused() -> None:
    node = ir.SmoothNode(name="f", inputs=("x",), shape=(1,), origin="the layer", function="gelu")
    wire = ScaledWire("x", (1,), 64, 24, 1.0, -1e200, 1e200)
    with pytest.raises(NotServable, match=r"the layer: gelu of values up to 1e.200 is beyond"):
        smooth.parabolas(node, wire, (-1.0, 1e200), 10, Precision.of(64), 13)


def test_what_cannot_be_served_is_refused() -> None:
    pairs = nn.Linear(4, 4)
    nn.init.eye_(pairs.weight)  # numbers of 0 to 1 may be 0, so their logarithm has no bound from below
    for model, message in (
        (nn.Sequential(pairs, Fn(lambda x: x.square().log())), "log"),
        (nn.Sequential(nn.ReLU()), "no weights to hide"),
    ):
        with pytest.raises(NotServable, match=message):
            compile_model(model, torch.rand(8, 4), low=0, high=1)


def test_calibration_outside_of_the_declared_range_is_refused() -> None:
    with pytest.raises(NotServable, match="outside of the input range"):
        compile_model(chain(4, 2), torch.rand(8, 4) * 3, low=0, high=1)


def test_a_model_that_yields_nan_is_refused() -> None:
    model = chain(4, 4, 2)
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(NotServable, match="NaN"):
        compile_model(model, torch.rand(8, 4), low=0, high=1)


def test_labels_of_what_has_no_classes_are_refused() -> None:
    with pytest.raises(NotServable, match="classes"):
        compile_model(nn.Conv2d(1, 2, 3), torch.rand(4, 1, 6, 6), low=0, high=1, reveal="labels")


def test_a_model_too_coarse_for_32_bits_gets_64() -> None:
    torch.manual_seed(0)
    model = chain(64, 64, 2)
    with torch.no_grad():
        model[2].weight[:, :32] *= 1e4
        model[2].weight[:, 32:] *= 1e-1
        model[2].weight[0] = model[2].weight[1] + torch.randn(64) * 1e-3
        model[2].bias[:] = torch.tensor([0.0, 0.0])
    x = torch.rand(50, 64)
    coarse, chosen = (compile_model(model, x, low=0, high=1, ring_bits=bits) for bits in (32, None))
    assert coarse.plan.ring_bits == 32 and chosen.error <= coarse.error


def test_more_bits_are_more_exact() -> None:
    model, rows = chain(20, 30, 5), torch.rand(50, 20)
    errors = [compile_model(model, rows, low=0, high=1, ring_bits=bits).error for bits in (32, 64)]
    assert errors[1] < errors[0] / 10 and errors[0] < 0.01


def test_compared_bits_are_trimmed_to_the_range() -> None:
    plan = sources.load("lenet").compile().plan
    pool, relu = (next(x for x in plan.layers if isinstance(x, kind)) for kind in (MaxPool, ReLU))
    assert (pool.range_bits, relu.range_bits) == (15, 14), "differences need a bit more than values"
    assert all(
        layer.range_bits < layer.opened_bits for layer in plan.layers if isinstance(layer, ReLU | MaxPool | TopK)
    )


def test_the_plan_check_is_the_float_model_and_not_itself() -> None:
    """A weight that is encoded wrongly shows in the expected error."""
    compiled = compile_model(chain(6, 5, 3), torch.rand(20, 6), low=0, high=1)
    wrong = {name: array.copy() for name, array in compiled.weights.items()}
    first = next(layer.name for layer in compiled.plan.layers if isinstance(layer, Linear))
    wrong[f"{first}.weight"] *= 2
    x = encode_rows(compiled.plan, torch.rand(20, 6))
    right, other = (reference.run(compiled.plan, x, w) for w in (compiled.weights, wrong))
    assert not np.array_equal(right, other)
