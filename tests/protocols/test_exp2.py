"""Powers of two: tables that every machine makes alike, what rounding shows, and values beyond the domain."""

from fractions import Fraction

import numpy as np
import pytest

from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.layers import Reshare
from moiety_shared.plan.lookups import ReLU, Truncate
from moiety_shared.protocols import exp2
from moiety_shared.ring import Array
from tests.protocols.running import integers, plan_of, run_of


def an_exp2(**more: object) -> Exp2:
    """Four spans of 8 octaves, of which 24 are the domain, in steps of 1/16 octave."""
    head = {"name": "f", "input": "fresh", "shape": (6,), "shift": 3, "opened_bits": 9, "word_bits": 32}
    return Exp2.model_validate(
        head | {"octave_bits": 4, "span_bits": 7, "top": 21, "height_bits": 16, "table_bits": 11} | more
    )


@pytest.mark.parametrize(("bits", "fraction"), [(0, 5), (3, 40), (5, 12), (4, -3)])
def test_powers_are_rounded_exactly(bits: int, fraction: int) -> None:
    """By whole numbers alone: y is the power, rounded, where (2 y - 1)^n <= 2^(n + n fraction + j) < (2 y + 1)^n."""
    n = 1 << bits
    for j, y in enumerate(exp2.powers(bits, fraction).tolist()):
        least, most = (Fraction(2) ** (-n) * Fraction(2 * y + side) ** n for side in (-1, 1))
        assert least <= Fraction(2) ** (n * fraction + j) < most or (
            y == 0 and Fraction(2) ** (n * fraction + j) < most
        )


def every_result(layer: Exp2) -> tuple[Array, Array]:
    """All t, from top down; and [t, t^] the result for every mask."""
    size = 1 << layer.opened_bits
    t, opened = np.meshgrid(layer.top - np.arange(size), np.arange(size), indexing="ij")
    return t[:, 0], exp2.reference(layer, t, opened).astype(np.int64)


def exactly(layer: Exp2, t: Array) -> Array:
    found: Array = 2.0 ** ((t - layer.top) / 2.0**layer.octave_bits + layer.height_bits + layer.table_bits)
    return found


def test_results_are_powers_but_for_what_the_layer_states() -> None:
    """What rounding adds has the stated root mean square at the top, and less elsewhere; it is a part of the value,
    and a few units of the lowest word."""
    layer = an_exp2()
    t, results = every_result(layer)
    off = (results - exactly(layer, t)[:, None])[t >= layer.lowest]
    squares = np.sqrt((off**2).mean(axis=1))
    assert 0.8 < squares[0] / layer.rounding < 1.2 and squares.max() < 1.3 * layer.rounding
    spread = exactly(layer, t[t >= layer.lowest]) * 2.0**-layer.table_bits + 2.0 ** (layer.table_bits + 8)
    assert (squares < spread).all() and abs(off.mean()) < 0.1 * layer.rounding


def test_above_the_domain_the_mask_says_which_of_two_powers_it_is() -> None:
    """For t less than a span above top: that of t or of t - 2^q, the nearer to top the likelier. In the domain it is
    that of t. The words have room for the powers above."""
    layer = an_exp2(word_bits=48)
    t, results = every_result(layer)
    inside = t >= layer.lowest
    assert inside.sum() == (1 << layer.opened_bits) - (1 << layer.span_bits) + 1

    def are_power_of(t: Array) -> Array:
        near = 2.0**-layer.table_bits * exactly(layer, t) + 2.0 ** (layer.table_bits + 9)
        found: Array = np.abs(results[-len(t) :] - exactly(layer, t)[:, None]) < 2 * near[:, None]
        return found

    low, high = are_power_of(t), are_power_of(t[~inside] + (1 << layer.opened_bits))
    assert low[inside].all() and (low[~inside] ^ high).all()
    shares = high.mean(axis=1)
    assert np.allclose(shares, np.arange(1, len(shares) + 1) / (len(shares) + 1))


def test_results_in_the_domain_leave_a_truncation_its_spare_bit() -> None:
    """With the highest words and tables that a layer may have."""
    layer = an_exp2(height_bits=18, word_bits=32)
    t, results = every_result(layer)
    assert np.abs(results[t >= layer.lowest]).max() < 1 << 30
    with pytest.raises(ValueError, match="do not fit in its words"):
        an_exp2(height_bits=19)


def test_what_is_left_of_a_result_hardly_depends_on_the_mask() -> None:
    """Two masks give different results, once the hidden bits are dropped with a dither, in less than one case of 4."""
    layer = an_exp2()
    t, results = every_result(layer)
    results = results[t >= layer.lowest][:64]
    dither = Stream(bytes(32)).words("dither", (len(results), 1), np.uint32) & ((1 << layer.hidden_bits) - 1)
    cut = (results + dither) >> layer.hidden_bits
    assert (cut != cut[:, :1]).mean() < 0.25
    assert (results != results[:, :1]).mean() > 0.9, "as they are, they tell masks apart"


@pytest.mark.parametrize(("bits", "q"), [(32, 9), (64, 16)])
@pytest.mark.parametrize("rows", [1, 40])
def test_two_parties_compute_it(rows: int, bits: int, q: int) -> None:
    """Any ring element goes in: what reads the result is a comparison, which takes all."""
    layer = an_exp2(opened_bits=q, octave_bits=q - 5, span_bits=q - 2)
    read = ReLU(name="t", input="f", shape=(6,), shift=layer.hidden_bits, opened_bits=12, range_bits=11)
    run = run_of(plan_of(Reshare(name="fresh", input="input", shape=(6,)), layer, read, shape=(6,), bits=bits))
    run.assert_bit_exact(run.random((rows, 6)))


def test_another_mask_is_noticed() -> None:
    layer = an_exp2(top=130, shift=0)
    cut = Truncate(name="t", input="f", shape=(6,), shift=layer.hidden_bits, opened_bits=32 - layer.hidden_bits)
    plan = plan_of(Reshare(name="fresh", input="input", shape=(6,)), layer, cut, shape=(6,))
    run, x = run_of(plan), integers((100, 6))
    got = run.outputs(x)
    assert np.array_equal(got, run.expected(x))
    run.masked = {name: (opened + 77) & 511 for name, opened in run.masked.items()}
    assert not np.array_equal(got, run.expected(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"octave_bits": 7}, "spans of at least two octaves"),
        ({"span_bits": 9}, "spans of at least two octaves"),
        ({"opened_bits": 12}, "2 to 16 of them"),
        ({"height_bits": 7}, "more octaves than its words have bits"),
    ],
)
def test_layers_that_make_no_sense_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        an_exp2(**wrong)
