"""Every parser against broken messages: a value that packs back to the same bytes, or a documented refusal."""

import json
import tracemalloc
import zipfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moiety_shared.plan.layers import MAX_ELEMENTS
from moiety_shared.plan.lookups import _touches
from moiety_shared.plan.plan import Plan
from tests import plans
from tests.fuzz import targets
from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS, check, corpus, every_layer

EXAMPLES = settings(
    max_examples=300, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_packed_is_taken(name: str) -> None:
    for raw in TARGETS[name].seeds():
        assert check(TARGETS[name], raw)


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_does_no_harm(name: str) -> None:
    found = corpus(name)
    assert found and any(check(TARGETS[name], raw) for raw in found), "the corpus holds valid messages too"


@pytest.mark.parametrize("name", TARGETS)
def test_broken_messages_do_no_harm(name: str) -> None:
    target = TARGETS[name]

    @EXAMPLES
    @given(st.one_of(mutated(corpus(name)), st.binary(max_size=300)))
    def run(raw: bytes) -> None:
        tracemalloc.start()
        try:
            check(target, raw)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < (1 << 20) + 64 * len(raw), "memory is a small multiple of the message"

    run()


def changed(plan: Plan, layer: str, **members: Any) -> bytes:
    document = json.loads(plan.canonical())
    for found in document["layers"]:
        if found["name"] == layer:
            found |= members
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("layer", "members"),
    [
        ("pool", {"kernel": [2**31, 2**31], "dilation": [2**31, 2**31], "stride": [2**31, 2**31]}),
        ("pool", {"kernel": [2**31, 2**31], "output_size": [2**31, 2**31]}),
        ("c", {"out_channels": 2**31, "kernel": [2**31, 2**31], "padding": [65535, 65535]}),
        ("c", {"out_channels": 2**30, "groups": 1}),
        ("c", {"transposed": True, "stride": [2**31, 2**31]}),
        ("p", {"before": [65536] * 3}),
        ("u", {"factors": [2**31, 2**31]}),
        ("s", {"stop": 2**70}),
        ("s", {"step": 2**70, "shape": [2**31] * 8}),
        ("r", {"to": [1] * 10**6}),
        ("r", {"to": [-1] * 10**6}),
        ("sp", {"kernel": [2**31, 2**31]}),
        ("cat", {"shapes": [[2**31] * 8] * 2}),
        ("cat", {"inputs": ["sp"] * 10**5}),
        ("table", {"values": [[10**30] * 10**5]}),
        ("waves", {"waves": [{"cosine": 10**30, "sine": 0, "table_bits": 10}] * 10**5}),
        ("waves", {"opened_bits": 62, "constant": 10**30}),
        ("exp2", {"opened_bits": 16, "octave_bits": 0, "height_bits": 10**30}),
        ("exp2", {"top": 10**30}),
        ("exp2", {"opened_bits": 15}),
        ("pieces", {"opened_bits": 62, "piece_bits": 61, "lowest": 10**30}),
        ("pieces", {"frac_bits": 10**6, "degree": 10**6}),
        ("n", {"hinges": [16] * 10**5}),
        ("n", {"hinges": [10**300]}),
    ],
)
def test_sizes_in_a_plan_are_checked_and_never_used(layer: str, members: dict[str, Any]) -> None:
    raw = changed(every_layer(), layer, **members)
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError) as caught:
            Plan.model_validate_json(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.error_count() < 10 and peak < (1 << 20) + 64 * len(raw)


@given(st.integers(-9, 20), st.integers(1, 9), st.integers(1, 5), st.integers(1, 9))
def test_windows_are_found_without_trying_every_tap(start: int, taps: int, step: int, size: int) -> None:
    assert _touches(start, taps, step, size) == any(0 <= start + tap * step < size for tap in range(taps))


def test_weights_beyond_all_measure_are_refused() -> None:
    plan = json.loads(plans.logits().canonical())
    features = 1 << 16
    plan["input"]["shape"] = plan["layers"][0]["shape"] = plan["layers"][1]["shape"] = [features]
    plan["layers"][1]["out_features"] = MAX_ELEMENTS // features + 1
    plan["output"]["shape"] = [MAX_ELEMENTS // features + 1]
    with pytest.raises(ValidationError, match="more weights"):
        Plan.model_validate(plan)


def test_the_targets_are_not_blind() -> None:
    """A parser that takes what does not pack back, or raises anything else, is noticed."""
    lenient = targets.Target(lambda raw: targets.same(raw.strip(b"\0"), raw), (), lambda: iter([]))
    with pytest.raises(AssertionError):
        check(lenient, b"x\0")
    with pytest.raises(zipfile.BadZipFile):
        check(targets.Target(lambda _: _bad(), (ValueError,), lambda: iter([])), b"")


def _bad() -> None:
    raise zipfile.BadZipFile
