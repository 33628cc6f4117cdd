"""Inputs with known answers: chosen so that no private run contradicts them, and no use to anybody but the client."""

import asyncio
from dataclasses import replace

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
from moiety_server.compiler.meaning import Meaning, Reveal
from moiety_shared import reference
from moiety_shared.crypto.prg import new_seed
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.canary import MOST, Canary, expand, places
from moiety_shared.messages.catalogue import Entry
from moiety_shared.messages.table import Column, Tabular
from moiety_shared.plan.plan import Input, Plan, Task
from moiety_shared.ring import Array
from moiety_shared.tabular import encode_ring
from tests import plans
from tests.client.test_results import Service, real
from tests.protocols.running import Run

Keys = tuple[PrivateKey, PrivateKey]
VALUES = Meaning(task="values")


def known(plan: Plan, count: int = 5) -> tuple[Canary, ...]:
    """Canaries of the small models, whose scores are exact."""
    return tuple(answered(plan, new_seed()) for _ in range(count))


def answered(plan: Plan, seed: bytes) -> Canary:
    output, outputs = plan.output, plans.scores(expand(seed, plan, None)[None])[0] / 16
    if output.size == 1:
        outputs = outputs.sum(keepdims=True)
    label = {"classes": int(outputs.argmax()), "binary": int(outputs[0] > output.threshold), "values": None}[
        output.task
    ]
    told = {"outputs": tuple(outputs.tolist()), "tolerance": 0.01} if output.kind == "logits" else {}
    return Canary.model_validate({"seed": seed.hex(), "label": label} | told)


GIVING = {
    "logits": plans.logits(),
    "softmax": plans.logits("softmax"),
    "labels": plans.labels(),
    "binary": plans.single(task="binary", final="sigmoid"),
    "values": plans.single(task="values"),
    "decision": plans.decision(),
}


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
    assert expand(bytes(range(32)), plan, None).tolist() == [-92, -95, -29, -86]
    many = np.stack([expand(new_seed(), plan, None) for _ in range(2000)])
    assert many.min() == -128 and many.max() == 128 and many.dtype == np.int32
    assert np.abs(many.mean()) < 5


def test_a_canary_of_a_table_is_a_row_that_the_encoder_makes() -> None:
    ages = Column(name="age", kind="number", low=0, high=120)
    late = Column(name="late", kind="bins", edges=(0.5, 1.5, 2.5), missing="flag")
    jobs = Column(name="job", kind="category", categories=("clerk", "nurse"), missing="fill", fill="nurse")
    table = Tabular(columns=(ages, late, jobs))
    plan = plans.logits().model_copy(update={"input": Input(shape=(7,), frac_bits=10, low=-1, high=1)})
    rows = np.stack([expand(new_seed(), plan, table) for _ in range(500)])
    assert rows.dtype == np.int32 and rows[:, 0].min() < -1000 and rows[:, 0].max() > 1000
    place, missing = rows[:, 1:4].sum(axis=1) // 1024, rows[:, 4] == 1024
    given = {
        "age": (rows[:, 0] + 1024) * 120 / 2048,
        "late": np.ma.array(place, mask=missing),
        "job": np.array(["clerk", "nurse"], dtype=object)[rows[:, 6] // 1024],
    }
    assert np.array_equal(encode_ring(table, given, frac_bits=10, ring_bits=32), rows)
    assert set(place.tolist()) == {0, 1, 2, 3} and 20 < missing.sum() < 120, "they differ, and some are missing"
    assert expand(bytes(range(32)), plan, table).tolist() == [-658, 1024, 1024, 0, 0, 0, 1024]


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


@pytest.mark.parametrize("name", GIVING)
def test_right_answers_pass(party_keys: Keys, x: Array, name: str) -> None:
    right = service(GIVING[name], party_keys)
    assert len(right.client().predict("small", real(x[:20]), canaries=20)) == 20
    type(right.entry).model_validate(right.entry.model_dump())


@pytest.mark.parametrize("name", GIVING)
def test_wrong_answers_are_not_handed_out(party_keys: Keys, x: Array, name: str) -> None:
    liar = Lying(GIVING[name], party_keys).client()
    assert len(liar.predict("small", real(x))) == len(x), "without canaries nobody notices"
    with pytest.raises(CanaryFailed, match="discard all answers") as caught:
        liar.predict("small", real(x), canaries=5)
    assert isinstance(caught.value, ResultRejected)


def test_an_output_that_is_off_is_noticed_though_the_label_is_right(party_keys: Keys, x: Array) -> None:
    s = service(plans.logits(), party_keys)
    off = tuple(c.model_copy(update={"outputs": (c.outputs[0] + 0.05, *c.outputs[1:])}) for c in s.entry.canaries)
    s.entry = s.entry.model_copy(update={"canaries": off})
    with pytest.raises(CanaryFailed):
        s.client().predict("small", real(x[:1]), canaries=1)


def test_where_there_are_none_the_client_is_told_so(party_keys: Keys, x: Array) -> None:
    for plan, count, text in (
        (plans.logits(), 1, "has no canaries"),
        (plans.count(), 1, "gives one count"),
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
    """In private runs, with their own rounding: what is published, as the client compares it."""
    plan, run = compiled.plan, Run(compiled.plan, compiled.weights)
    x = np.stack([c.elements(plan, None) for c in found])
    given = run.outputs(x).reshape(-1, *plan.output.shape)
    if plan.output.kind == "logits":
        given = given * plan.output.scale
        off = np.abs(given.reshape(len(x), -1)[:, places(plan.output.size)] - [c.outputs for c in found])
        assert (off.max(axis=1) <= [c.tolerance for c in found]).all()
    else:
        assert not any(c.outputs or c.tolerance for c in found), "no score is published that no client may learn"
    if plan.output.task != "values":
        labels = Prediction(plan.output, given, (), 0, 0, 0.0).labels
        assert labels.tolist() == [c.label for c in found]


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


@pytest.mark.parametrize(("task", "reveal"), [("values", "logits"), ("binary", "logits"), ("binary", "decision")])
def test_models_of_one_output_have_canaries(task: Task, reveal: Reveal) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)), torch.rand(100, 6)
    middle = float(model(x).detach().median()) if task == "binary" else None
    compiled = compile_model(model, x, low=0, high=1, reveal=reveal, meaning=Meaning(task=task, threshold=middle))
    found = canaries.choose(compiled)
    assert len(found) == MOST
    assert_hold(compiled, found)
    assert {c.label for c in found} == ({0, 1} if task == "binary" else {None})
    if reveal == "logits":  # they tell what the model answers, and not what the plan does
        x = torch.from_numpy(np.stack([c.elements(compiled.plan, None) for c in found])).double()
        exact = model((x * 2.0**-compiled.plan.input.frac_bits).float()).detach().numpy()
        np.testing.assert_allclose(exact[:, 0], [c.outputs[0] for c in found], rtol=0, atol=1e-7)


class Two(nn.Module):
    """Two outputs, of which one is a million times as large as the other."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(6, 1), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"small": self.small(x) / 1000, "large": self.large(x) * 1000}


def test_several_outputs_have_canaries_whatever_their_scales() -> None:
    torch.manual_seed(0)
    compiled = compile_model(Two(), torch.rand(100, 6), low=0, high=1)
    found = canaries.choose(compiled)
    assert len(found) == MOST
    assert_hold(compiled, found)
    assert all(c.tolerance < 0.1 * compiled.wire_spread for c in found)


def test_a_plan_that_is_not_the_model_has_none() -> None:
    """Canaries tell what the model answers, so a plan that answers something else cannot agree with any."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(100, 6)
    for bad in (compile_model(model, x, low=0, high=1), compile_model(model, x, low=0, high=1, meaning=VALUES)):
        assert canaries.choose(bad)
        bias = next(name for name in bad.weights if name.endswith("bias") and len(bad.weights[name]) == 2)
        changed = dict(bad.weights) | {bias: bad.weights[bias] + int(0.2 * bad.spread / bad.logits.output.scale)}
        assert canaries.choose(replace(bad, weights=changed)) == ()


@pytest.mark.parametrize("reveal", ["labels", "decision"])
def test_a_plan_that_labels_otherwise_than_the_model_has_none(reveal: Reveal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the outputs are right from which it makes labels: here each answer is the other class."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1 if reveal == "decision" else 2))
    x = torch.rand(100, 6)
    stated = Meaning(unit="logits", threshold=float(model(x).detach().median()) if reveal == "decision" else None)
    compiled = compile_model(model, x, low=0, high=1, reveal=reveal, meaning=stated)
    assert canaries.choose(compiled)
    whole = reference.run
    monkeypatch.setattr(
        reference, "run", lambda plan, *more: 1 - whole(plan, *more) if plan is compiled.plan else whole(plan, *more)
    )
    assert canaries.choose(compiled) == ()


def test_an_entry_has_canaries_that_its_plan_can_answer(party_keys: Keys) -> None:
    members = service(plans.logits(), party_keys).entry.model_dump()
    good = members["canaries"][0]
    for update in ({"label": None}, {"label": 5}, {"outputs": ()}, {"outputs": good["outputs"][:4]}):
        with pytest.raises(ValueError, match="none that the plan gives"):
            Entry.model_validate(members | {"canaries": [good | update]})


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
    values = expand(bytes(32), compiled.plan, None) / 2.0**compiled.plan.input.frac_bits
    assert (low <= values).all() and (values <= high).all()
    assert canaries.choose(compiled)


def test_a_range_that_no_scale_is_fine_enough_for_is_refused() -> None:
    inputs = torch.full((8, 3), 1e6 + 0.5)
    with pytest.raises(NotServable, match="a range too narrow for numbers of that size"):
        compile_model(nn.Linear(3, 2), inputs, low=1e6 + 0.45, high=1e6 + 0.55)
    for low, high in ((1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(NotServable, match="give one with --low and --high"):
            compile_model(nn.Linear(3, 2), torch.ones(8, 3), low=low, high=high)


def test_a_plan_whose_range_holds_no_value_is_none() -> None:
    plan = plans.logits()
    for members in ({"low": 0.1, "high": 0.2, "frac_bits": 2}, {"low": 0.0, "high": 1e300, "frac_bits": 60}):
        with pytest.raises(ValueError, match="input range"):
            Plan.model_validate(plan.model_dump() | {"input": plan.input.model_dump() | members})
