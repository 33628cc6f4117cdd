"""With `clamp_inputs`, whatever ring element a client shares becomes a value of the declared range, whatever the masks
are; and so answers are those of inputs that lie in it."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.assessment import is_linear
from moiety_server.cli.model_options import ModelOptions
from moiety_server.compiler import inspection, ranges, scales
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.compilation import Compiled, compile_model, encode_rows
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.lowering import inputs
from moiety_server.compiler.lowering.inputs import Declared
from moiety_server.compiler.lowering.wires import ScaledWire, Writer
from moiety_server.compiler.scales import Precision
from moiety_server.compiler.simplification import finish
from moiety_server.compiler.tabular.reading import read_tabular
from moiety_server.source import ModelSource
from moiety_shared import reference
from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.lookups import ReLU, Table, Truncate
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.plan import Input, Output, Plan
from moiety_shared.plan.waves import Waves
from moiety_shared.ring import Array
from tests.compiler.forests import Forest
from tests.compiler.tables import encode, numbers, save
from tests.protocols.functionality import functionality_beyond
from tests.protocols.running import Run
from tests.protocols.verified.running import Upload, accepted, drive

RANGES = [  # low, high, fractional bits
    (0.0, 1.0, 0),
    (0.0, 1.0, 8),
    (0.0, 255 / 256, 8),
    (-1.0, 1.0, 13),
    (-0.4242, 2.8215, 10),
    (-3.0, -2.0, 4),
    (100.0, 102.3, 1),
    (-1e6, -1e6 + 1000, 0),
    (5.0, 67.0, 0),
]


@cache
def clamp_of(low: float, high: float, frac: int, bits: int = 32) -> tuple[Plan, dict[str, Array]]:
    """A plan of one value that is a clamp and nothing else."""
    b = Builder()
    graph = finish([*b.nodes.values(), b.input((1,))], "input")
    analysis = ranges.analyse(graph, torch.tensor([[low], [high]]), low=low, high=high)
    known, precision = analysis.sure(), Precision.of(bits)
    writer = Writer(graph, known, scales.choose(graph, known, precision), precision)
    wire = inputs.clamped(writer, ScaledWire("input", (1,), bits, frac, 1.0, low, high), Declared(low, high, True))
    plan = Plan(
        ring_bits=bits,  # type: ignore[arg-type]
        input=Input(shape=(1,), frac_bits=frac, low=low, high=high),
        layers=tuple(writer.layers),
        output=Output(wire=wire.name, shape=(1,)),
    )
    return plan, writer.weights


def ends(low: float, high: float, frac: int) -> tuple[int, int]:
    return round(low * 2.0**frac), round(high * 2.0**frac)


def read_bits(plan: Plan) -> int:
    """The bits of an element that the clamp depends on."""
    first = plan.layers[0]
    assert isinstance(first, ReLU | Table)
    return first.range_bits + 1 if isinstance(first, ReLU) else first.opened_bits


@pytest.mark.parametrize("given", RANGES)
def test_every_ring_element_becomes_a_value_of_the_range(given: tuple[float, float, int]) -> None:
    """All elements modulo 2^17: the clamp reads no more of their bits. In the range and near it, it is what one calls
    a clamp."""
    plan, weights = clamp_of(*given)
    least, largest = ends(*given)
    bits = read_bits(plan)
    assert bits <= 16
    x = (np.arange(1 << 17) - (1 << 16) + least).astype(np.int32)
    got = reference.run(plan, x[:, None], weights)[:, 0]
    assert (got >= least).all() and (got <= largest).all()
    if isinstance(plan.layers[0], Table):
        room = ((1 << bits) - (largest - least) - 1) // 2
        near = (x >= least - room) & (x <= largest + room)
    else:
        near = (x >= least - (1 << (bits - 1))) & (x < least + (1 << (bits - 1)))
    assert near[(x == least - 1) | (x == largest + 1)].all()
    assert np.array_equal(got[near], x[near].clip(least, largest))
    far = np.array([1 << 31, (1 << 31) - 1, 1 << 30], dtype=np.int64) + np.arange(1 << 9)[:, None]
    far = far.astype(np.int32).reshape(-1)
    again = reference.run(plan, far[:, None], weights)[:, 0]
    assert np.array_equal(again, got[(far.astype(np.int64) - x[0]) % (1 << bits)])


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("given", RANGES)
def test_no_mask_decides_what_an_element_becomes(given: tuple[float, float, int], bits: int) -> None:
    plan, weights = clamp_of(*given, bits)
    least, largest = ends(*given)
    half = 1 << (bits - 1)
    edges = [least, largest, least - 1, largest + 1, least + half, largest - half, half - 1, -half, 0]
    steps = 1 << (read_bits(plan) - 1)  # where `above` jumps
    edges += [least + steps, least + steps - 1, largest + steps, largest + steps + 1, least - steps, least - steps - 1]
    drawn = Stream(bytes(32)).words("x", (20,), np.int64) >> (64 - bits)
    x = np.array([(e + half) % (2 * half) - half for e in [*edges, *drawn.tolist()]], dtype=f"<i{bits // 8}")
    many = np.repeat(x, 40)[:, None]
    got = Run(plan, weights).assert_bit_exact(many).reshape(len(x), 40)
    assert (got == got[:, :1]).all() and (got >= least).all() and (got <= largest).all()
    within = (x >= least) & (x <= largest)
    assert np.array_equal(got[within, 0], x[within])


def test_what_a_value_costs() -> None:
    """As docs/benchmarks.md says: a pixel of MNIST, and a bit."""
    pixels, bits = (clamp_of(*RANGES[at])[0].cost(8) for at in (4, 0))
    assert (pixels.rounds, pixels.offline_bytes, pixels.online_bytes) == (6, 8 * 54, 8 * 6.25)
    assert (bits.rounds, bits.offline_bytes, bits.online_bytes) == (2, 8 * 5, 8 * 2 + 1)


@pytest.mark.parametrize("bits", [2, 3])
def test_on_a_tiny_ring_all_elements_all_ranges(bits: int) -> None:
    """`above`, and then `over`, of every element of a ring of 6 bits, for all ranges of so many bits: by the definition
    that tests/protocols/test_exhaustive.py holds ReLU to under all masks, beyond its range as well."""
    t = np.arange(-32, 32).reshape(-1, 1)
    head = {"name": "r", "input": "x", "shape": (1,), "shift": 0, "opened_bits": 6, "range_bits": bits}
    for least in range(-8, 8):
        for steps in range((1 << (bits - 1)) - 1, (1 << bits) - 1):
            above = functionality_beyond(ReLU(**head, hinges=(least,)), t)
            over = functionality_beyond(ReLU(**head, hinges=(steps,)), above)
            got = least + above - over
            assert got.min() == least and got.max() == least + steps
            within = (t >= least) & (t <= least + steps)
            assert np.array_equal(got[within], t[within])
            at_once = least + functionality_beyond(ReLU(**head, hinges=(least, least + steps)), t)
            assert np.array_equal(at_once[within], t[within])
            assert at_once.min() < least  # why one layer of two hinges does not do


class Attending(nn.Module):
    """Attention and a GELU, without norms: all that a client could push out of its range."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.up, self.out = nn.Linear(4, 6), nn.Linear(18, 2)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.query(x) @ self.key(x).transpose(-1, -2)).softmax(-1)
        made: Tensor = self.out(F.gelu(self.up(weights @ self.value(x) + x)).flatten(1))
        return made


LOW, HIGH = -2.0, 2.0


@cache
def attending(clamped: bool) -> Compiled:
    torch.manual_seed(0)
    model, rows = Attending().eval(), torch.rand(64, 3, 4) * (HIGH - LOW) + LOW
    return compile_model(model, rows, low=LOW, high=HIGH, ring_bits=32, clamp_inputs=clamped)


def wild(frac: int) -> Array:
    """Inputs that a cheating client shares: (4, 12)."""
    high, half = round(HIGH * 2.0**frac), 1 << 31
    ends = np.resize([half - 1, -half, high + 1, -high - 1], 12)
    far = np.resize([1 << 30, -1 << 30, 3 * high, -5 * high, 123456789], 12)
    drawn = Stream(bytes(32), "wild").words("x", (12,), np.int32)
    return np.stack([ends, np.full(12, high + 1), far, drawn]).astype(np.int32)


def within(compiled: Compiled, x: Array) -> Array:
    """What the clamp of a plan makes of inputs (rows, values)."""
    frac = compiled.plan.input.frac_bits
    plan, weights = clamp_of(LOW, HIGH, frac)
    got: Array = reference.run(plan, x.reshape(-1, 1), weights).reshape(x.shape)
    assert np.abs(got).max() <= round(HIGH * 2.0**frac)
    return got


def test_a_cheating_clients_answers_are_those_of_inputs_in_the_range() -> None:
    """Of fifty runs, each under masks of its own, to the last bit; but for the layers' dithers they are the same."""
    made = attending(clamped=True)
    assert {type(layer) for layer in made.plan.layers} >= {Truncate, Waves, Exp2, Pieces}
    x = wild(made.plan.input.frac_bits).repeat(50, axis=0)
    run = Run(made.plan, made.weights)
    got = run.assert_bit_exact(x)
    assert np.array_equal(got, run.expected(within(made, x)))
    spread = np.ptp(got.reshape(4, 50, 2), axis=1) * made.plan.output.scale / made.spread
    assert spread.max() < 0.05


def test_without_the_clamp_masks_decide() -> None:
    made = attending(clamped=False)
    assert made.clamp == ()
    run = Run(made.plan, made.weights)
    got = run.outputs(wild(made.plan.input.frac_bits).repeat(50, axis=0))
    spread = np.ptp(got.reshape(4, 50, 2), axis=1) * made.plan.output.scale / made.spread
    assert spread.max() > 1


def test_in_verified_runs_too() -> None:
    made = attending(clamped=True)
    upload, x = Upload(made.verified().plan, made.weights), wild(made.plan.input.frac_bits)
    bundle = upload.deal(len(x))
    got = accepted(upload, bundle, x, drive(upload.sessions(bundle, x)))
    assert got is not None and np.array_equal(got, upload.expected(bundle, within(made, x)))


def test_inputs_of_the_range_stay_as_they_are() -> None:
    """At the cost that the plan states, and no less exact than without."""
    made, plain = attending(clamped=True), attending(clamped=False)
    assert made.relative_error == pytest.approx(plain.relative_error, rel=0.2)
    torch.manual_seed(2)
    x = encode_rows(made.plan, torch.rand(8, 3, 4) * (HIGH - LOW) + LOW)
    assert np.array_equal(within(made, x), x)
    Run(made.plan, made.weights).assert_bit_exact(x)
    assert made.plan.rounds == plain.plan.rounds + 6


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def test_a_linear_model_is_told_to_be_one_and_what_the_clamp_costs() -> None:
    rows = torch.rand(20, 3)
    source = ModelSource("line", linear(), rows, 0.0, 1.0)
    made, plain = ModelOptions(clamp_inputs=True).compiled(source), ModelOptions().compiled(source)
    assert is_linear(made) and is_linear(plain)
    assert (plain.plan.rounds, made.plan.rounds) == (1, 7)
    found, before = inspection.inspect("line", made), inspection.inspect("line", plain)
    assert before.clamping is None and found.clamping is not None
    assert (found.clamping.rounds, found.clamping.comparisons) == (6, 6)
    names = set(made.clamp)
    assert found.clamping.offline_bytes == sum(one.provider_bytes for one in found.layers if one.name in names)


def test_a_range_of_more_steps_than_are_compared_is_refused() -> None:
    rows = torch.rand(20, 3) * 2e6
    with pytest.raises(NotServable, match=r"takes 0 to 2e\+06, over 32,766 steps to clamp.*smaller input range"):
        compile_model(linear(), rows, low=0, high=2e6, ring_bits=32, clamp_inputs=True)


def test_the_bits_of_trees_are_bits(tmp_path: Path) -> None:
    """Of a tree ensemble a client shares a bit for each edge. Nothing else than 0 and 1 can be asked about."""
    forest = Forest(3)
    path, columns = save(tmp_path, [forest.regressor(outputs=1)]), list(forest.rows().T)
    model = read_tabular(path, numbers("a", "b", "c"))
    rows = encode(model.table, columns).float()
    made = compile_model(model.graph, rows, low=model.low, high=model.high, meaning=model.meaning, clamp_inputs=True)
    assert isinstance(made.plan.layers[0], Table) and made.plan.input.frac_bits == 0
    plain = compile_model(model.graph, rows, low=model.low, high=model.high, meaning=model.meaning)
    assert made.plan.rounds == plain.plan.rounds + 2
    bits = encode_rows(made.plan, rows)[:8]
    assert np.array_equal(reference.run(made.plan, bits, made.weights), reference.run(plain.plan, bits, plain.weights))
    wild = Stream(bytes(32)).words("x", (40, bits.shape[1]), bits.dtype)
    wild[:2] = [[2], [-1]]
    meant = np.array([0, 1, 1, 0])[wild & 3].astype(bits.dtype)
    run = Run(made.plan, made.weights)
    got = run.assert_bit_exact(wild)
    assert np.array_equal(got, run.expected(meant))
    assert not np.array_equal(
        reference.run(plain.plan, wild, plain.weights), reference.run(plain.plan, meant, plain.weights)
    )
