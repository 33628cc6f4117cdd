"""Sums of waves: tables that every machine makes alike, sums that stay in their range, and what rounding shows."""

import math

import numpy as np
import pytest

from moiety_shared import reference
from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.layers import Reshare
from moiety_shared.plan.lookups import Truncate
from moiety_shared.plan.waves import Wave, Waves, waves_of
from moiety_shared.protocols import waves
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.ring import Array, Ring
from tests.protocols.running import integers, plan_of, run_of

MOST_BITS, MOST_FRACTION = 16, 24


def some_waves(q: int = 10, **more: object) -> Waves:
    """A triangle, and something odd on top."""
    made = [
        Wave(cosine=round(40_000 / k**2), sine=3000 // k * (-1) ** k, table_bits=12 - k.bit_length())
        for k in range(1, 9)
    ]
    head = {"name": "f", "input": "fresh", "shape": (6,), "shift": 3, "opened_bits": q, "word_bits": 32}
    return Waves.model_validate(head | {"constant": -500_000, "waves": made} | more)


@pytest.mark.parametrize("fraction", [*range(1, MOST_FRACTION + 1), waves._FINE])
def test_no_cosine_is_near_the_middle_of_two_numbers(fraction: int) -> None:
    """float64 errs by about 2^-53 in a cosine. Here every entry is 100 times as far from where another machine's error
    could round it the other way."""
    scaled = np.cos(2 * np.pi / (1 << MOST_BITS) * np.arange(1 << MOST_BITS)) * 2.0**fraction
    middle = np.abs(scaled - np.floor(scaled) - 0.5)
    middle[(1 << MOST_BITS) // 4 :: (1 << MOST_BITS) // 2] = 0.5  # cosines of a right angle are 0 but for 2^-53
    if fraction <= MOST_FRACTION:
        assert middle.min() > 100 * 2.0 ** (fraction - 52)
    assert np.array_equal(waves.cosines(MOST_BITS, fraction), np.rint(scaled))
    assert np.array_equal(waves.cosines(MOST_BITS - 3, fraction), np.rint(scaled)[::8])


def every_result(layer: Waves) -> Array:
    """[t, t^]: the result for every value and every mask."""
    size = 1 << layer.opened_bits
    t, opened = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    return waves.reference(layer, t, opened).astype(np.int64)


def exactly(layer: Waves) -> Array:
    """[t]: the sum without rounding."""
    angle = 2 * np.pi * np.arange(1 << layer.opened_bits) / (1 << layer.opened_bits)
    found = layer.constant + np.zeros_like(angle)
    for k, wave in enumerate(layer.waves, 1):
        found += (wave.cosine * np.cos(k * angle) + wave.sine * np.sin(k * angle)) * 2.0**wave.table_bits
    return found


def test_results_are_the_waves_but_for_what_the_layer_states() -> None:
    """What rounding adds has the stated root mean square, for most t and over all masks, and no bias."""
    layer = some_waves()
    off = every_result(layer) - exactly(layer)[:, None]
    assert 0.8 < np.sqrt((off**2).mean()) / layer.rounding < 1.2
    assert abs(off.mean()) < 0.05 * layer.rounding


def test_what_is_left_of_a_result_hardly_depends_on_the_mask() -> None:
    """Two masks give different results, once the hidden bits are dropped with a dither, in less than one case of 4."""
    layer = some_waves()
    results = every_result(layer)
    dither = Stream(bytes(32)).words("dither", (len(results), 1), np.uint32) & ((1 << layer.hidden_bits) - 1)
    cut = (results + dither) >> layer.hidden_bits
    assert (cut != cut[:, :1]).mean() < 0.25
    assert (results != results[:, :1]).mean() > 0.99, "as they are, they tell masks apart"


def test_every_result_leaves_a_truncation_its_spare_bit() -> None:
    """At the largest constant and waves that a layer may have, for every value and mask."""
    most = Wave(cosine=300, sine=0, table_bits=4)
    room = (1 << 14) - 1 - math.floor(some_waves(6, word_bits=16, constant=0, waves=[most, most]).reach)
    results = np.abs(every_result(some_waves(6, word_bits=16, constant=room, waves=[most, most])))
    assert (1 << 14) - 700 < results.max() < 1 << 14, "all but what rounding may add, 2 x 317"
    with pytest.raises(ValueError, match="do not fit in its words"):
        some_waves(6, word_bits=16, constant=room + 1, waves=[most, most])


def test_the_largest_sum_of_waves_is_found_wherever_it_is() -> None:
    """Waves whose heights are far more than their sum ever is, up to the shortest that a layer may have."""
    cosines, sines = np.array([7.0, -7.0, 2.0, 5.0]), np.array([0.0, 3.0, -9.0, 4.0])
    t, k = np.arange(8)[:, None], np.arange(1, 5)
    exact = (cosines * np.cos(2 * np.pi * k * t / 8) + sines * np.sin(2 * np.pi * k * t / 8)).sum(axis=1)
    assert np.allclose(waves_of(cosines, sines, 8), exact)


def test_what_is_between_the_places_looked_at_is_bounded_as_well() -> None:
    """One wave peaks between two of 128 places, at 65,536 places; and a bound is hardly more than what it bounds."""
    half = 2 * np.pi / 128 / 2
    wave = Wave(cosine=round(2**28 * np.cos(half)), sine=round(2**28 * np.sin(half)), table_bits=1)
    layer = some_waves(16, word_bits=64, constant=0, waves=[wave])
    most = np.abs(waves_of(np.array([wave.cosine * 2.0]), np.array([wave.sine * 2.0]), 1 << 16)).max()
    assert most < layer.reach - wave.off < 1.001 * most
    assert np.abs(waves_of(np.array([wave.cosine * 2.0]), np.array([wave.sine * 2.0]), 128)).max() < 0.9998 * most


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("rows", [1, 200])
def test_many_values_and_few_are_dealt_alike(rows: int, bits: int) -> None:
    """For few values the dealer computes words, for many it looks them up. Any ring element goes in."""
    layer = some_waves(8)
    cut = Truncate(name="t", input="f", shape=(6,), shift=layer.hidden_bits, opened_bits=32 - layer.hidden_bits)
    run = run_of(plan_of(Reshare(name="fresh", input="input", shape=(6,)), layer, cut, shape=(6,), bits=bits))
    run.assert_bit_exact(run.random((rows, 6)))


def test_another_mask_is_noticed() -> None:
    layer = some_waves(8)
    cut = Truncate(name="t", input="f", shape=(6,), shift=layer.hidden_bits, opened_bits=32 - layer.hidden_bits)
    plan = plan_of(Reshare(name="fresh", input="input", shape=(6,)), layer, cut, shape=(6,))
    run, x = run_of(plan), integers((100, 6), 12)
    got = run.outputs(x)
    assert np.array_equal(got, run.expected(x))
    others = {"opened": lambda name, _: (run.masked[name] + 77) & 255}
    assert not np.array_equal(got, reference.run(plan, x, {}, lambda name, _: run.dithers[name], **others))


def test_without_masks_there_are_some() -> None:
    """An owner's expected error has what rounding adds: masks are not all 0."""
    layer = some_waves(6)
    t = Stream(bytes(32)).words("t", (40, 6), np.int8) & 63
    opened = reference.some_opened(layer, t)
    assert len(np.unique((opened - t) & 63)) == 64 and opened.min() >= 0 and opened.max() < 64


@pytest.mark.parametrize("word_bits", [32, 64])
def test_the_reference_of_many_values_is_that_of_each(word_bits: int) -> None:
    """Words of many values are looked up, those of few are computed. What is opened may be any ring element."""
    layer = some_waves(8).model_copy(update={"word_bits": word_bits})
    t = (Stream(bytes(32)).words("t", (2000,), np.int16) & 255).astype(np.int64) - 128
    opened = reference.some_opened(layer, t) + (Stream(bytes(32)).words("above", (2000,), np.int16) << 8)
    each = [waves.reference(layer, t[at : at + 100], opened[at : at + 100]) for at in range(0, 2000, 100)]
    assert np.array_equal(waves.reference(layer, t, opened), np.concatenate(each))


@pytest.mark.parametrize(("word_bits", "size"), [(32, 4), (33, 5), (40, 5), (41, 6), (48, 6), (49, 8)])
def test_words_travel_in_the_bytes_that_hold_them(word_bits: int, size: int) -> None:
    layer, ring, seeds = some_waves(8, word_bits=word_bits), Ring(word_bits), (bytes(32), bytes([1]) * 32)
    dealer = Dealer(Ring(64), 3, *map(Stream, seeds))
    waves.deal(dealer, layer)
    stated = layer.corrections(64)
    assert sum(c.row_bytes for c in stated) == size * layer.words * layer.size
    sent = {c.name: dealer.corrections[c.name] for c in stated}
    assert {(c.name, np.dtype(c.dtype)) for c in stated} == {(name, array.dtype) for name, array in sent.items()}
    first = waves.prepare(Holder(Ring(64), 0, 3, Stream(seeds[0]), {}), layer)
    second = waves.prepare(Holder(Ring(64), 1, 3, Stream(seeds[1]), sent), layer)
    r = (first.mask + second.mask).astype(np.int64) & 255
    assert np.array_equal(ring.wrap(first.words[:] + second.words[:]), ring.wrap(waves.every_word(layer, r)))
    for party in (first, second):
        assert party.lower.nbytes + party.upper.nbytes == 3 * size * layer.words * layer.size, "and stay in so many"
