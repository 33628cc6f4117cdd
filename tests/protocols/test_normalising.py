"""Functions of wide values: brought into a narrow range exactly, and then met by polynomials as well as they state."""

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from moiety_shared.plan.layers import Reshare
from moiety_shared.plan.local import Concat, Slice
from moiety_shared.plan.lookups import Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Function, Pieces
from moiety_shared.protocols import pieces
from moiety_shared.ring import Array, Ring
from tests.protocols.running import integers, plan_of, run_of

EXACT: dict[Function, Callable[[Array], Array]] = {
    "log2": np.log2,
    "rsqrt": lambda x: x**-0.5,
    "reciprocal": lambda x: 1 / x,
}
FUNCTIONS = get_args(Function)
SIZE = (40,)


def by_pieces(function: Function, **more: Any) -> Pieces:
    """A function on 15/16 to 16, as norms and softmaxes read it."""
    head: dict[str, Any] = {
        "name": "f",
        "input": "y",
        "shape": (1, *SIZE),
        "shift": 0,
        "opened_bits": 16,
        "word_bits": 60,
    }
    made: dict[str, Any] = {
        "frac_bits": 12,
        "lowest": 3840,
        "piece_bits": 6,
        "degree": 3,
        "value_bits": 30,
        "table_bits": 16,
    }
    return Pieces.model_validate({**head, **made, "function": function, **more})


def results(layer: Pieces, low: int, count: int = 64) -> tuple[Array, Array]:
    """Every t from `low` and, [t, mask], the result under so many masks, in units of the function."""
    t = np.arange(low, 1 << layer.opened_bits)
    masks = integers((len(t), count), 16, np.int64)
    found = pieces.reference(
        layer, np.broadcast_to(t[:, None], masks.shape), (t[:, None] + masks) & ((1 << layer.opened_bits) - 1)
    )
    return t / 2.0**layer.frac_bits, found / 2.0 ** (layer.value_bits + layer.table_bits)


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_polynomials_miss_a_function_by_no_more_than_they_state(function: Function, degree: int) -> None:
    layer = by_pieces(function, degree=degree)
    x, found = results(layer, layer.lowest, 16)
    missed = np.abs(found - EXACT[function](x)[:, None]).max()
    assert layer.miss / 4 < missed < layer.miss


@pytest.mark.parametrize("function", FUNCTIONS)
def test_rounding_shows_no_more_than_is_stated(function: Function) -> None:
    """Where words and tables are short, and polynomials good."""
    layer = by_pieces(function, piece_bits=7, word_bits=32, value_bits=12, table_bits=12)
    x, found = results(layer, layer.lowest)
    assert np.sqrt(((found - EXACT[function](x)[:, None]) ** 2).mean()) < layer.rounding / 2.0**24
    off = (found - EXACT[function](x)[:, None])[x < 1.2]
    assert 0.3 < np.sqrt((off**2).mean()) * 2.0**24 / layer.rounding < 1.1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_result_leaves_a_truncation_its_spare_bit(function: Function) -> None:
    """Below the lowest value as well, where t^ decides between values that the function has elsewhere."""
    loose = by_pieces(function, value_bits=8, table_bits=8)
    least = int(np.log2(loose.reach)) + 3
    layer = by_pieces(function, value_bits=8, table_bits=8, word_bits=least)
    _, found = results(layer, 0)
    assert (1 << (least - 4)) < np.abs(found).max() * 2.0**16 < (1 << (least - 2))
    with pytest.raises(ValueError, match="do not fit in its words"):
        by_pieces(function, value_bits=8, table_bits=8, word_bits=least - 1)


def test_below_its_lowest_value_a_function_may_be_that_of_another() -> None:
    """0.9 is well served down to one piece above 0, and 0.01 is not served at all."""
    layer = by_pieces("reciprocal", lowest=3000)
    x, found = results(layer, 0)
    off = np.abs(found - EXACT["reciprocal"](np.maximum(x, 1e-9))[:, None])
    assert off[3000:].max() < layer.miss and off[40].min() > 1
    assert np.ptp(found[40]) > 0.5, "t^ decides"


@pytest.mark.parametrize("piece_bits", [5, 7])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_left_of_a_result_hardly_depends_on_the_mask(function: Function, piece_bits: int) -> None:
    """Where polynomials miss, and where words are short: two masks give different results, once the hidden bits are
    dropped with a dither, in less than one case of 4."""
    layer = by_pieces(function, piece_bits=piece_bits, value_bits=14, table_bits=12)
    _, found = results(layer, layer.lowest, 16)
    whole = np.rint(found * 2.0 ** (layer.value_bits + layer.table_bits)).astype(np.int64)
    dither = integers((len(whole), 1), 63, np.int64) & ((1 << layer.hidden_bits) - 1)
    cut = (whole + dither) >> layer.hidden_bits
    assert (cut != cut[:, :1]).mean() < 0.25
    assert (whole != whole[:, :1]).mean() > 0.9, "as they are, they tell masks apart"


@pytest.mark.parametrize("power", [1, 2, 3])
@pytest.mark.parametrize("piece", [8, 15])
def test_public_powers_are_those_of_whole_numbers(piece: int, power: int) -> None:
    """Both parties' are equal on every machine: they are compared with Python's own numbers."""
    found = pieces.powers(piece, 16, power, Ring(64))
    whole = [((w**power << 17) + (1 << piece * power)) >> (piece * power + 1) for w in range(1 << piece)]
    assert found.tolist() == whole


WIDE = Normalise(
    name="n",
    input="v",
    shape=SIZE,
    shift=11,
    opened_bits=53,
    range_bits=20,
    digit_bits=5,
    hinges=(16, 256, 4096, 65536),
)


def wide_values(rows: int) -> Array:
    """Of all sizes from 1 to 2^20 units of 2^11."""
    octaves = integers((rows, *SIZE), 32, np.int64) % (20 << 20)
    return np.rint(2.0 ** (11 + octaves / 2.0**20)).astype(np.int64)


def test_wide_values_come_into_a_narrow_range_with_all_their_bits() -> None:
    run, v = run_of(plan_of(Reshare(name="v", input="input", shape=SIZE), WIDE, shape=SIZE, bits=64)), wide_values(200)
    y, scale, reached = run.assert_bit_exact(v).transpose(1, 0, 2)
    assert np.array_equal(y, v * 16 ** (4 - reached)) and np.array_equal(scale, 4 ** (4 - reached))
    unit = 1 << (11 + 16)
    assert (y >= unit * 15 // 16).all() and (y < unit * 16 * 17 // 16).all()
    exact = sum(v >> 11 >= hinge for hinge in WIDE.hinges)
    off = reached != exact
    assert (reached >= exact).all() and off.mean() < 0.02
    assert (((v[off] >> 11) + 1)[:, None] == WIDE.hinges).any(axis=1).all(), (
        "v^ decides within one unit of a hinge alone"
    )


@pytest.mark.parametrize("bits", [32, 64])
def test_a_function_of_a_wide_value_is_met_over_all_its_range(bits: int) -> None:
    """1 / sqrt(v), from v's normal form: 512 words a value."""
    wide = WIDE if bits == 64 else WIDE.model_copy(update={"shift": 6, "opened_bits": 26})
    layer = by_pieces("rsqrt", shift=wide.shift + 4, piece_bits=7, word_bits=32, value_bits=16, table_bits=13)
    given, one = (3, *SIZE), (1, *SIZE)
    run = run_of(
        plan_of(
            Reshare(name="v", input="input", shape=SIZE),
            wide,
            Slice(name="y", input="n", shape=given, axis=0, start=0, stop=1),
            Slice(name="s", input="n", shape=given, axis=0, start=1, stop=2),
            layer,
            Truncate(name="cut", input="f", shape=one, shift=layer.hidden_bits, opened_bits=32 - layer.hidden_bits),
            Concat(name="both", inputs=("cut", "s"), shapes=(one, one), axis=0),
            shape=SIZE,
            bits=bits,
        )
    )
    v = wide_values(100) >> (11 - wide.shift)
    root, scale = run.assert_bit_exact(v.astype(run.ring.dtype)).transpose(1, 0, 2) / 2.0 ** (29 - layer.hidden_bits)
    off = root * scale * 2.0 ** (29 - layer.hidden_bits - (wide.shift + 16) / 2) * np.sqrt(v) - 1
    well = v >= 1 << wide.shift
    assert np.abs(off[well]).max() < 6e-4 and np.sqrt((off[well] ** 2).mean()) < 1.5e-4
