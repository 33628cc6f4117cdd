"""Inputs with known answers: chosen so that no private run contradicts them, and no use to anybody but the client."""

import asyncio

import numpy as np
import pytest
import torch
from torch import nn

from moiety_client.canaries import Canaries
from moiety_client.client import Prediction
from moiety_client.errors import CanaryFailed, InvalidInput, ResultRejected
from moiety_server import canaries, sources
from moiety_server.compiler.compilation import Compiled, compile_model
from moiety_server.compiler.ir import NotServable
from moiety_shared.crypto.prg import new_seed
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.canary import MOST, Canary, expand
from moiety_shared.plan.plan import Plan
from moiety_shared.ring import Array
from tests import plans
from tests.client.test_results import Service, real
from tests.protocols.running import Run

Keys = tuple[PrivateKey, PrivateKey]


def known(plan: Plan, count: int = 5) -> tuple[Canary, ...]:
    """Canaries of the small models, whose scores are exact."""
    seeds = [new_seed() for _ in range(count)]
    scores = [plans.scores(expand(seed, plan)[None])[0] for seed in seeds]
    return tuple(
        Canary(seed=seed.hex(), label=int(y.argmax()), top=float(y.max()) / 16, tolerance=0.01)
        for seed, y in zip(seeds, scores, strict=True)
    )


def service(plan: Plan, keys: Keys) -> Service:
    made = Service(plan, keys)
    made.entry = made.entry.model_copy(update={"canaries": known(plan)})
    return made


class Lying(Service):
    """Computes with other weights than the owner uploaded: well-formed answers, all wrong."""

    def __init__(self, plan: Plan, keys: Keys) -> None:
        super().__init__(plan, keys)
        self.run = Run(plan, {name: -w for name, w in plans.weights().items()})
        self.entry = self.entry.model_copy(update={"canaries": known(plan)})


@pytest.fixture(scope="module")
def x() -> Array:
    return plans.random_inputs(230)


def test_an_expanded_canary_is_the_same_everywhere_and_inside_the_range() -> None:
    plan = plans.logits()
    assert expand(bytes(range(32)), plan).tolist() == [-92, -95, -29, -86]
    many = np.stack([expand(new_seed(), plan) for _ in range(2000)])
    assert many.min() == -128 and many.max() == 128 and many.dtype == np.int32
    assert np.abs(many.mean()) < 5


def test_own_answers_come_back_without_the_canaries(party_keys: Keys, x: Array) -> None:
    s = service(plans.logits(), party_keys)
    answer = s.client().predict("small", real(x), canaries=7)
    assert np.array_equal(answer.outputs, plans.scores(x) / 16.0)
    assert [len(r[0]) // 20 for r in s.results] == [100, 100, 37], "they count as inputs, over all requests"

    async def twin() -> Prediction:
        async with s.async_client() as client:
            return await client.predict("small", real(x[0]), canaries=2)

    assert np.array_equal(asyncio.run(twin()).outputs, plans.scores(x[:1]) / 16.0)


def test_of_labels_only_the_label_is_compared(party_keys: Keys, x: Array) -> None:
    answer = service(plans.labels(), party_keys).client().predict("small", real(x), canaries=3)
    assert np.array_equal(answer.labels, plans.scores(x).argmax(axis=1))


@pytest.mark.parametrize("plan", [plans.logits(), plans.labels()], ids=["logits", "labels"])
def test_wrong_answers_are_not_handed_out(party_keys: Keys, x: Array, plan: Plan) -> None:
    liar = Lying(plan, party_keys).client()
    assert len(liar.predict("small", real(x)).labels) == len(x), "without canaries nobody notices"
    with pytest.raises(CanaryFailed, match="believe nothing") as caught:
        liar.predict("small", real(x), canaries=5)
    assert isinstance(caught.value, ResultRejected)


def test_an_output_that_is_off_is_noticed_though_the_label_is_right(party_keys: Keys, x: Array) -> None:
    s = service(plans.logits(), party_keys)
    off = tuple(c.model_copy(update={"top": (c.top or 0) + 0.05}) for c in s.entry.canaries)
    s.entry = s.entry.model_copy(update={"canaries": off})
    with pytest.raises(CanaryFailed):
        s.client().predict("small", real(x[:1]), canaries=1)


def test_where_there_are_none_the_client_is_told_so(party_keys: Keys, x: Array) -> None:
    for plan, count, text in (
        (plans.logits(), 1, "has no canaries"),
        (plans.count(), 1, "only counts"),
        (plans.logits(), -1, "how many"),
    ):
        asked = Service(plan, party_keys)
        with pytest.raises(InvalidInput, match=text):
            asked.client().predict("small", real(x[:1]), canaries=count)
        assert not asked.results, "nothing was sent"


def test_their_rows_are_drawn_anew(party_keys: Keys) -> None:
    entry, elements = service(plans.logits(), party_keys).entry, np.full((9, plans.SIZE), 1000, np.int32)
    seen = set()
    for _ in range(300):
        mixed = Canaries(1).mixed(entry, elements)
        (row,) = np.flatnonzero((mixed != 1000).any(axis=1))
        seen.add(int(row))
    assert seen == set(range(10))


# The owner's choice


def assert_hold(compiled: Compiled, found: tuple[Canary, ...]) -> None:
    """In private runs, with their own rounding: the label and the largest output, both as published."""
    run = Run(compiled.logits, compiled.weights)
    x = np.stack([c.elements(compiled.logits) for c in found])
    outputs = run.outputs(x).reshape(len(x), -1) * compiled.logits.output.scale
    assert outputs.argmax(axis=1).tolist() == [c.label for c in found]
    if compiled.plan.output.kind == "labels":
        assert all(c.top is None for c in found), "the scores of a model that ranks are not published either"
        return
    off = np.abs(outputs.max(axis=1) - np.array([c.top for c in found], dtype=np.float64))
    assert (off <= [c.tolerance for c in found]).all()


@pytest.mark.parametrize("name", ["mnist", "lenet"])
def test_private_runs_agree_with_what_is_published(name: str) -> None:
    compiled = sources.load(name).compile()
    found = canaries.choose(compiled)
    assert len(found) == MOST and len({c.seed for c in found}) == MOST
    assert_hold(compiled, found)
    assert max(c.tolerance for c in found) < 0.2 * compiled.spread, "not so wide that anything fits"


def test_models_that_count_have_none_and_those_that_rank_have(monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.load("mnist-deep")
    assert canaries.choose(source.compile(reveal="count")) == ()
    compiled = source.compile(reveal="labels", top=3)
    assert_hold(compiled, canaries.choose(compiled))
    monkeypatch.setattr(canaries, "_WORK", 0)
    assert canaries.choose(compiled) == (), "a model may be too large"


def test_a_model_that_noise_drives_beyond_its_ranges_has_only_canaries_that_hold() -> None:
    """Measured ranges, from calibration data much smaller than what the declared range allows."""
    torch.manual_seed(0)
    deep = nn.Sequential(*[m for _ in range(10) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 4))
    compiled = compile_model(deep, torch.rand(64, 64) * 0.01, low=0, high=1, headroom=1)
    assert compiled.measured
    found = canaries.choose(compiled)
    if found:
        assert_hold(compiled, found)


def test_a_model_that_cannot_tell_has_none() -> None:
    torch.manual_seed(0)
    flat = nn.Linear(20, 3)
    with torch.no_grad():
        flat.weight[1:] = flat.weight[0]
        flat.bias.zero_()
    assert canaries.choose(compile_model(flat, torch.rand(50, 20), low=0, high=1)) == ()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.2), (-3.2, -3.1), (1000.1, 1000.2), (-1.0, 1.0)])
def test_every_input_range_holds_a_value_of_its_scale(low: float, high: float) -> None:
    """The scale is chosen for the weights, and may have no value in a narrow range: canaries are such values."""
    inputs = low + (high - low) * torch.linspace(0.1, 0.9, 24).reshape(8, 3)
    model = nn.Linear(3, 2)
    nn.init.constant_(model.bias, 3e7)  # so large outputs leave the input next to no fractional bits
    nn.init.constant_(model.bias[:1], -3e7)
    compiled = compile_model(model, inputs, low=low, high=high, ring_bits=32)
    values = expand(bytes(32), compiled.plan) / 2.0**compiled.plan.input.frac_bits
    assert (low <= values).all() and (values <= high).all()
    assert canaries.choose(compiled)


def test_a_range_that_no_scale_is_fine_enough_for_is_refused() -> None:
    inputs = torch.full((8, 3), 1e6 + 0.5)
    with pytest.raises(NotServable, match="a range too narrow for so large numbers"):
        compile_model(nn.Linear(3, 2), inputs, low=1e6 + 0.45, high=1e6 + 0.55)
    for low, high in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(NotServable, match="state one with --low and --high"):
            compile_model(nn.Linear(3, 2), torch.ones(8, 3), low=low, high=high)


def test_a_plan_whose_range_holds_no_value_is_none() -> None:
    plan = plans.logits()
    for members in ({"low": 0.1, "high": 0.2, "frac_bits": 2}, {"low": 0.0, "high": 1e300, "frac_bits": 60}):
        with pytest.raises(ValueError, match="input range"):
            Plan.model_validate(plan.model_dump() | {"input": plan.input.model_dump() | members})
