"""Models of token ids whose embedding is secret: the parties look ids up, as exactly as a client does in a table."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moiety_server import texts
from moiety_server.compiler.compilation import Compiled, outputs_of, run_float
from moiety_server.compiler.embedding import Digits, EmbeddingNode
from moiety_server.compiler.ir import NotServable
from moiety_server.source import ModelSource
from moiety_shared.messages.tokens import MOST_DIGIT, SecretTokens
from moiety_shared.plan.plan import Output, Plan
from moiety_shared.ring import Array
from tests.compiler.test_tokens import LENGTH, PAD, WORDS, Attending, Convolution, Masked, Mean, ids
from tests.protocols.running import Run

ONE, TWO = Digits(WORDS), Digits(8, 5)


@pytest.fixture(params=[ONE, TWO], ids=["one digit", "two digits"])
def digits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Digits:
    """What the compiler chooses for an embedding."""
    monkeypatch.setattr(Digits, "of", lambda *_: request.param)
    return request.param  # type: ignore[no-any-return]


def secret(model: nn.Module, given: Tensor | dict[str, Tensor], **how: Any) -> ModelSource:
    return texts.of_module("secret", model.eval(), given, secret=True, **how)


def outputs(compiled: Compiled, source: ModelSource) -> Array:
    assert isinstance(source.calibration, Tensor)
    return outputs_of(compiled, source.calibration)


@pytest.mark.parametrize("kind", [Mean, Attending, Convolution])
def test_the_answers_are_those_of_a_published_embedding(digits: Digits, kind: type[Mean]) -> None:
    model = kind().eval()
    published, hidden = texts.of_module("public", model, ids()), secret(model, ids())
    plain, looked_up = published.compile(ring_bits=64), hidden.compile(ring_bits=64)
    theirs, ours = outputs(plain, published), outputs(looked_up, hidden)
    assert np.abs(theirs - ours).max() < 0.002 * theirs.std()
    assert looked_up.plan.rounds <= plain.plan.rounds + 1 + digits.count


def test_a_look_up_rounds_nothing(digits: Digits) -> None:
    """What the parties look up are the table's values as the plan encodes them, to the last bit."""
    model = Convolution().eval()
    source = secret(model, ids())
    compiled = source.compile(ring_bits=32)
    (node,) = (node for node in compiled.graph.nodes if isinstance(node, EmbeddingNode))
    wire, plan = compiled.wires[node.name], compiled.plan
    until = [layer.name for layer in plan.layers].index(wire.name) + 1
    table = Plan(
        ring_bits=32, input=plan.input, layers=plan.layers[:until], output=Output(wire=wire.name, shape=node.shape)
    )
    assert isinstance(source.calibration, Tensor)
    got = Run(table, dict(compiled.weights)).assert_bit_exact(
        source.calibration.reshape(len(ids()), -1).numpy().astype(np.int32)
    )
    assert np.array_equal(got, np.rint(model.word(ids()).detach().double().numpy() * 2.0**wire.frac))


def test_a_mask_of_padding_is_secret_as_well(digits: Digits) -> None:
    words = ids()
    mask = (words != PAD).float()
    source = secret(Masked(), {"ids": words, "attention_mask": mask.long()})
    exact = Masked().eval()(words, mask).detach().numpy()
    assert np.abs(outputs(source.compile(), source) - exact).max() < 0.01 * exact.std()


def test_whatever_is_shared_is_an_id(digits: Digits) -> None:
    """The parties compute what is declared of any ring element, and a client has no answers but those to ids."""
    source = secret(Mean(), ids())
    compiled = source.compile(ring_bits=32)
    run = Run(compiled.plan, dict(compiled.weights))
    wild = np.array([[-1, 5, 63, 64, 1 << 20, -(1 << 31)]], dtype=np.int32)
    shared = np.repeat(wild[..., None], digits.count, axis=2).reshape(1, -1)
    got = run.assert_bit_exact(shared)
    values = shared.reshape(LENGTH, digits.count) % [1 << max((n - 1).bit_length(), 2) for n in digits.values]
    meant = np.where(values < digits.values, values, 0) @ [*digits.values[1:], 1]
    exact = Mean().eval()(torch.from_numpy(np.where(meant < WORDS, meant, 0))[None]).detach().numpy()
    assert np.abs(got.astype(float) * compiled.plan.output.scale - exact).max() < 0.01 * outputs(compiled, source).std()


def test_ids_beyond_the_vocabulary_are_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Digits, "of", lambda *_: Digits(16, 3))
    compiled = secret(Convolution(), ids()).compile()
    rows = torch.tensor([[[2.0, 15.0]] * LENGTH, [[0.0, 0.0]] * LENGTH])  # id 47, and id 0
    one, other = outputs_of(compiled, rows)
    assert np.array_equal(one, other)


def test_canaries_of_any_digits_have_the_plans_answers(digits: Digits) -> None:
    """What the float model makes of digits that no id has is what the parties compute."""
    compiled = secret(Convolution(), ids()).compile()
    torch.manual_seed(2)
    rows = torch.randint(0, digits.largest + 1, (32, LENGTH, digits.count)).float()
    exact = run_float(compiled.graph, rows)
    assert np.abs(outputs_of(compiled, rows) - exact).max() < 0.02 * exact.std()


def test_an_entry_holds_no_value_of_the_embedding(digits: Digits) -> None:
    model = Mean()
    source = secret(model, ids())
    assert source.attached == () and "is secret" in source.tells[0]
    how, compiled = source.preprocessing, source.compile()
    assert isinstance(how, SecretTokens) and how.files == ()
    assert how.digits == digits.values and how.size == compiled.plan.input.size
    other = Mean()
    with torch.no_grad():
        order = torch.randperm(WORDS)  # other values in the same ranges
        other.word.weight.copy_(other.word.weight[order])
    again = secret(other, torch.argsort(order)[ids()])  # the same rows are looked up, so the same values are met
    assert again.preprocessing == how
    assert again.compile().plan == compiled.plan


def test_verified_runs_take_them(digits: Digits) -> None:
    assert secret(Convolution(), ids()).compile(ring_bits=32).verified().plan.verified


def test_they_are_clamped_already() -> None:
    source = secret(Mean(), ids())
    assert source.compile(clamp_inputs=True).plan == source.compile().plan


@pytest.mark.parametrize(
    ("vocabulary", "width", "values"),
    [
        (1, 8, (2,)),
        (96, 96, (96,)),
        (500, 32, (500,)),
        (2000, 64, (4, 512)),
        (2048, 1024, (2048,)),
        (30522, 129, (15, 2048)),
        (MOST_DIGIT**2, 1, (2048, 2048)),
    ],
)
def test_digits_are_few_words(vocabulary: int, width: int, values: tuple[int, ...]) -> None:
    assert Digits.of(vocabulary, width).values == values


def test_too_many_ids_are_refused() -> None:
    with pytest.raises(NotServable, match="a secret embedding has 4,194,304 ids at most, not 4,194,305"):
        Digits.of(MOST_DIGIT**2 + 1, 8)
