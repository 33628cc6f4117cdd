"""Softmax in the middle of a network: how near it comes, in how many passes, and beyond the scores that were seen."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler import ir
from moiety_server.compiler.builder import Builder
from moiety_server.compiler.compilation import Compiled, compile_model, encode_rows
from moiety_server.compiler.lowering.softmax import slope_of
from moiety_server.compiler.softmax import CentredNode, SoftmaxNode
from moiety_shared import reference
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.local import Keep
from moiety_shared.plan.normalise import Normalise
from moiety_shared.ring import Array
from tests.compiler.tracing import Fn
from tests.protocols.running import Run

TOKENS, WIDTH = 3, 8


def network(
    keys: int, scale: float, *, allowed: Tensor | None = None, logarithm: bool = False, axis: int = 1
) -> ir.Graph:
    """Scores of so many keys for each token, a softmax, and a linear layer that reads it."""
    torch.manual_seed(0)
    b = Builder()
    x = b.linear(b.input((TOKENS, WIDTH)), torch.randn(keys, WIDTH) * scale, torch.randn(keys) * scale)
    if axis == 0:
        x = b.permute(x, [1, 0])
    y = b.softmax(x, axis, allowed, logarithm=logarithm)
    y = b.permute(y, [1, 0]) if axis == 0 else y
    out = b.linear(y, torch.randn(5, keys) / (keys * scale if logarithm else 1), torch.zeros(5))
    return ir.Graph(list(b.nodes.values()), out.name)


def inputs(rows: int = 64) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(rows, TOKENS, WIDTH) * 2 - 1


def weights_of(compiled: Compiled, x: Tensor) -> tuple[Array, Array]:
    """The softmax's values in the plan and in float."""
    node = next(node for node in compiled.graph.nodes if isinstance(node, SoftmaxNode))
    wire, seen = compiled.wires[node.name], dict[str, Array]()
    reference.run(compiled.logits, encode_rows(compiled.logits, x), compiled.weights, watch=seen.__setitem__)
    return seen[wire.name] * wire.unit, compiled.graph.run(x)[node.name].double().numpy()


@pytest.mark.parametrize(
    ("keys", "scale", "passes", "most", "usual"),
    [(16, 1.0, 1, 1e-3, 1e-4), (128, 1.0, 1, 7e-4, 2e-5), (128, 2.0, 2, 2e-3, 1e-4), (64, 5.0, 3, 4e-3, 3e-4)],
)
def test_weights_are_near_in_one_pass_or_several(
    keys: int, scale: float, passes: int, most: float, usual: float
) -> None:
    """A power errs by the step of its exponent, 0.0014 of it at most, and the sum of a row by as much."""
    compiled, x = compile_model(network(keys, scale), inputs(), low=-1, high=1), inputs(200)[64:]
    got, exact = weights_of(compiled, x)
    assert len([layer for layer in compiled.plan.layers if isinstance(layer, Normalise)]) == passes
    assert np.abs(got - exact).max() < most and np.sqrt(((got - exact) ** 2).mean()) < usual
    assert np.abs(got.sum(axis=-1) - 1).max() < 4e-3 and got.min() >= -1e-5 and got.max() < 1.002
    assert compiled.relative_error < 0.01 and compiled.plan.ring_bits == 64


@pytest.mark.parametrize(("scale", "passes"), [(1.0, 1), (5.0, 3)])
def test_two_parties_compute_it(scale: float, passes: int) -> None:
    """In 7 rounds, and 5 for each pass more; beside them two products' openings, and a cut of scores of 61 bits."""
    compiled = compile_model(network(12, scale), inputs(), low=-1, high=1)
    Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, inputs(5)))
    assert compiled.plan.rounds == 2 + 1 + 7 + 5 * (passes - 1)


@pytest.mark.parametrize(("keys", "logarithm"), [(4, False), (8, False), (8, True)])
def test_scores_that_lie_close_together_fit_a_ring_of_32_bits(keys: int, logarithm: bool) -> None:
    compiled = compile_model(network(keys, 0.4, logarithm=logarithm), inputs(), low=-1, high=1, ring_bits=32)
    got, exact = weights_of(compiled, inputs(200)[64:])
    assert np.abs(got - exact).max() < (0.02 if logarithm else 0.004)
    Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, inputs(5)))


def test_scores_that_do_not_are_refused_there() -> None:
    with pytest.raises(ir.NotServable, match="too far apart, which have no room in a 32-bit ring"):
        compile_model(network(16, 1.0), inputs(), low=-1, high=1, ring_bits=32)


def causal(keys: int) -> Tensor:
    return torch.ones(TOKENS, keys).tril(keys - TOKENS).bool()


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("allowed", [causal(3), causal(12), torch.arange(12) % 3 > 0], ids=["triangle", "band", "some"])
def test_keys_that_are_left_out_get_nothing(allowed: Tensor, logarithm: bool) -> None:
    """Whatever their scores are; and rows of 1, 2 and 3 keys have means of their own."""
    keys = allowed.shape[-1]
    compiled = compile_model(
        network(keys, 2.0, allowed=allowed, logarithm=logarithm), inputs(), low=-1, high=1, ring_bits=64
    )
    got, exact = weights_of(compiled, inputs(20))
    assert np.abs(got - exact).max() < (0.01 if logarithm else 0.003)
    assert (got[:, ~allowed.expand(TOKENS, keys).numpy()] == 0).all()
    assert sum(isinstance(layer, Keep) for layer in compiled.plan.layers) >= 4
    Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, inputs(5)))


@pytest.mark.parametrize("axis", [0, 1])
def test_over_any_axis_and_its_logarithm(axis: int) -> None:
    compiled = compile_model(network(9, 2.0, logarithm=True, axis=axis), inputs(), low=-1, high=1)
    got, exact = weights_of(compiled, inputs(20))
    assert got.max() <= 0.002 and np.abs(got - exact).max() < 0.003
    Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, inputs(5)))


def test_a_softmax_of_the_input_itself() -> None:
    """The client chose its shares, so there are fresh ones before any low bits are dropped."""

    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(WIDTH, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last((x * 3).softmax(-1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    compiled = compile_model(Direct().eval(), inputs(), low=-1, high=1)
    assert [layer.op for layer in compiled.plan.layers].count("reshare") == 1
    Run(compiled.plan, compiled.weights).assert_bit_exact(encode_rows(compiled.plan, inputs(5)))


def test_what_is_proved_needs_no_calibration() -> None:
    """Scores of a narrow input cannot go further than the head-room. Of others the powers of two are named."""
    proved, measured = (compile_model(network(12, scale), inputs(), low=-1, high=1) for scale in (0.05, 5.0))
    for compiled in (proved, measured):
        powers = {layer.name for layer in compiled.plan.layers if isinstance(layer, Exp2)}
        assert powers & compiled.measured.keys() == (powers if compiled is measured else set())
    assert all(1 < measured.measured[power] < 4 for power in powers), "the head-room is added to an exponent"


def test_scores_too_far_apart_are_refused() -> None:
    with pytest.raises(ir.NotServable, match="octaves above their mean"):
        compile_model(network(128, 40.0), inputs(), low=-1, high=1)


def test_attention_that_no_ring_has_room_for_is_refused_for_what_the_wide_ring_lacks() -> None:
    """The narrow ring comes last there, and no softmax has room in it."""
    weight = torch.eye(WIDTH) * 40
    model = Fn(lambda x, weight: F.scaled_dot_product_attention(x @ weight, x @ weight, x), weight)
    with pytest.raises(ir.NotServable, match="octaves above their mean"):
        compile_model(model, inputs(), low=-1, high=1)


def test_a_row_without_a_key_is_refused() -> None:
    with pytest.raises(ir.NotServable, match="without a key"):
        network(3, 1.0, allowed=torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1]]))


@pytest.mark.parametrize(
    ("gap", "many", "few", "slope"),
    [(4, 7, 7, 1), (17, 7, 7, 1), (18, 7, 7, 2), (10, 7, 0, 1), (11, 7, 0, 2), (44, 7, 0, 8), (60, 7, 7, 4)],
)
def test_passes_are_as_few_as_the_sums_allow(gap: float, many: float, few: float, slope: int) -> None:
    assert slope_of(gap, many, few, 20) == slope


@cache
def seen_narrowly() -> Compiled:
    """Compiled for inputs up to 60 from some up to 1."""
    return compile_model(network(12, 1.0), inputs(), low=-60, high=60)


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 60), st.integers(0, 2**32))
def test_scores_beyond_those_that_were_seen(scale: float, seed: int) -> None:
    """Nothing breaks. Within the head-room two parties give what the functionality says, bit for bit, and the weights
    are right."""
    compiled = seen_narrowly()
    x = (torch.rand(3, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * scale
    run, encoded = Run(compiled.plan, compiled.weights), encode_rows(compiled.plan, x)
    got = run.outputs(encoded)
    node = next(node for node in compiled.graph.nodes if isinstance(node, CentredNode))
    wire, scores = compiled.wires[node.name], compiled.graph.run(x)[node.name]
    if wire.low <= scores.min() and scores.max() <= wire.high:
        assert np.array_equal(got, run.expected(encoded))
        assert np.abs(np.subtract(*weights_of(compiled, x))).max() < 0.01
