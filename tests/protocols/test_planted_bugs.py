"""The exhaustive test with a bug planted: it must notice."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moiety_shared.plan.lookups import Decide, OneHot, ReLU, Truncate
from moiety_shared.protocols import decide, one_hot, relu
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation
from moiety_shared.ring import Array, Ring
from tests.protocols.bugs import (
    Patch,
    bare,
    change_masks,
    changed_bytes,
    half_a_mask,
    half_the_bits,
    no_beta_in_select,
    no_bit,
    no_coefficient,
    no_mask,
    no_monomial,
    one_bit_twice,
    one_for_all,
    one_mask,
    value_masks_again,
    without_row,
    wrong,
    wrong_beta,
)
from tests.protocols.cases import CASES, compared, decided
from tests.protocols.enumeration import Axis, Leak
from tests.protocols.exhaustion import Case, check


def lifted_from(bits: Callable[[ReLU], int]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(relu, "compared_ring", lambda layer: Ring(bits(layer)))


@pytest.mark.parametrize("name", ["relu: range below what is opened", "relu: 2 digits of 2 bits"])
def test_a_lift_of_more_bits_than_are_compared_is_noticed(monkeypatch: Patch, name: str) -> None:
    """The lift that 0.1 had: right for every value in range, and no others."""
    lifted_from(lambda layer: layer.opened_bits)(monkeypatch)
    check(CASES[name], private=False)
    with pytest.raises(AssertionError, match="wrong for"):
        check(CASES[name], private=False, beyond=True)


LEAKS: list[tuple[str, str, Callable[[Patch], None]]] = [
    ("truncate: 3 of 4 bits", "no mask", no_mask("value")),
    ("truncate: 3 of 4 bits", "half a mask", half_a_mask),
    ("truncate: 3 of 4 bits", "even masks", lambda p: change_masks(p, "value", lambda r: r * 2 % 8)),
    ("truncate: 3 of 4 bits", "bare c and m", bare("lift")),
    ("relu: 2 digits of 1 bit", "no mask", no_mask("value")),
    ("relu: 2 digits of 1 bit", "half a mask", half_a_mask),
    ("relu: 2 digits of 1 bit", "no a_0", no_bit(2, "a_0")),
    ("relu: 2 digits of 1 bit", "no a_1", no_bit(2, "a_1")),
    ("relu: 2 digits of 1 bit", "no e_1", no_bit(2, "e_1")),
    ("relu: 2 digits of 1 bit", "no beta", no_bit(2, "c")),
    ("relu: 2 digits of 1 bit", "one bit twice", one_bit_twice(2, "a_1", "e_1")),
    ("relu: 1 digit, all there is of its sign", "half the bits", half_the_bits),
    ("relu: 1 digit, all there is of its sign", "bare tables", bare("tables")),
    ("relu: 2 digits, all there is of its sign", "half the bits", half_the_bits),
    ("relu: 2 digits, all there is of its sign", "bare tables", bare("tables")),
    ("relu: 2 digits, all there is of its sign", "a bare monomial", bare("monomials")),
    ("relu: 4 digits", "no e_2", no_bit(4, "e_2")),
    ("relu: 4 digits", "no e_3", no_bit(4, "e_3")),
    ("relu: two hinges", "no beta", no_bit(1, "c")),
    ("relu: two hinges", "one set of bits", changed_bytes(one_for_all)),
    ("pool: 1 x 2", "no mask", no_mask("value")),
    ("pool: 1 x 2", "one mask", one_mask("value")),
    ("pool: 1 x 2", "no a", no_bit(1, "a_0")),
    ("pool: 1 x 2", "no beta", no_bit(1, "c")),
    ("pool: 1 x 3", "no mask for the differences", no_mask("differences")),
    ("pool: 1 x 3", "masks used again", value_masks_again),
    ("pool: 1 x 3", "one set of bits", changed_bytes(one_for_all)),
    ("pool: 2 x 2", "no mask for the differences", no_mask("differences")),
    ("decide: one hinge, 2 digits", "no mask", no_mask("value")),
    ("decide: one hinge, 2 digits", "no e_1", no_bit(2, "e_1")),
    ("decide: one hinge, 2 digits", "no beta", no_bit(2, "c")),
    ("decide: between two hinges", "no beta", no_bit(1, "c")),
    ("decide: between two hinges", "one set of bits", changed_bytes(one_for_all)),
    ("one-hot: 3 classes, all there is", "no mask", no_mask("value")),
    ("one-hot: 3 classes, all there is", "half a mask", half_a_mask),
    ("one-hot: 3 classes, all there is", "a bare row", bare("row")),
    ("one-hot: 5 classes of 8 indices", "even masks", lambda p: change_masks(p, "value", lambda r: r * 2 % 8)),
    ("top 2 of 2, words", "no mask", no_mask("value")),
    ("top 2 of 2, words", "one mask", one_mask("value")),
    ("top 2 of 2, words", "no e_1", no_bit(2, "e_1")),
    ("top 2 of 2, words", "no beta", no_bit(2, "c")),
    ("top 2 of 2, words", "no mask for the ranks", no_mask("rank")),
    ("top 2 of 3, words", "one set of bits", changed_bytes(one_for_all)),
    ("top 1 of 3, share", "no mask for the ranks", no_mask("rank")),
    ("top 1 of 3, share", "one mask for the ranks", one_mask("rank")),
    ("table: 2 bits, all there is", "no mask", no_mask("value")),
    ("table: 2 bits, all there is", "half a mask", half_a_mask),
    ("table: 2 bits, all there is", "no output mask", changed_bytes(np.zeros_like)),
    ("table: 2 bits, all there is", "a bare one-hot row", bare("one_hot")),
    ("table: 2 bits, all there is", "bare beta", bare("beta")),
    ("waves: one of 2 bits, all there is", "no mask", no_mask("value")),
    ("waves: one of 2 bits, all there is", "half a mask", half_a_mask),
    ("waves: one of 2 bits, all there is", "bare words", bare("words")),
    ("waves: two of 4 bits", "even masks", lambda p: change_masks(p, "value", lambda r: r * 2 % 16)),
    ("exp2: whole octaves, all there is", "no mask", no_mask("value")),
    ("exp2: whole octaves, all there is", "half a mask", half_a_mask),
    ("exp2: whole octaves, all there is", "bare words", bare("words")),
    ("exp2: two spans of 4 octaves", "even masks", lambda p: change_masks(p, "value", lambda r: r * 2 % 16)),
    ("pieces: a line, 4 bits", "no mask", no_mask("value")),
    ("pieces: a line, 4 bits", "half a mask", half_a_mask),
    ("pieces: parabolas, 5 bits", "even masks", lambda p: change_masks(p, "value", lambda r: r * 2 % 32)),
    ("normalise: one hinge, all there is", "no mask", no_mask("value")),
    ("normalise: one hinge, all there is", "half a mask", half_a_mask),
    ("normalise: one hinge, all there is", "bare beta and beta r", bare("beta")),
    ("normalise: one hinge, 2 digits", "no lower mask", lambda p: change_masks(p, "value", lambda r: r * 4 % 64)),
    ("normalise: one hinge, 2 digits", "no a_1", no_bit(2, "a_1")),
    ("normalise: one hinge, 2 digits", "no beta", no_bit(2, "c")),
    ("normalise: two hinges", "one set of bits", changed_bytes(one_for_all)),
    ("table: 3 bits, two functions", "one output mask", changed_bytes(one_for_all)),
]
ERRORS: list[tuple[str, str, Callable[[Patch], None]]] = [
    ("truncate: 3 of 4 bits", "no c", wrong("lift", without_row(0))),
    ("truncate: 3 of 4 bits", "no m", wrong("lift", without_row(1))),
    ("relu: 2 digits of 1 bit", "no monomial", no_monomial(0)),
    *(("relu: 3 digits", f"no monomial {bit}", no_monomial(bit)) for bit in range(5)),
    *(("relu: 2 digits of 1 bit", f"no coefficient {bit}", no_coefficient(bit)) for bit in range(6)),
    *(
        ("relu: 2 digits of 1 bit", f"table word {bit}", wrong("tables", lambda v, b=bit: v ^ (1 << b)))
        for bit in (0, 1, 2)
    ),
    ("relu: 2 digits of 1 bit", "a wrong beta", wrong_beta),
    ("relu: 2 digits of 1 bit", "no beta in select", no_beta_in_select),
    *(("relu: 2 digits of 1 bit", f"select without {row}", wrong("select", without_row(row))) for row in range(2)),
    ("relu: 2 digits of 1 bit", "no beta m", wrong("carry", np.zeros_like)),
    ("relu: 2 digits of 1 bit", "no m", wrong("lift", without_row(1))),
    ("decide: one hinge", "no beta", wrong("beta", np.zeros_like)),
    ("decide: one hinge", "a wrong beta", wrong_beta),
    ("one-hot: 5 classes of 8 indices", "a wrong row", wrong("row", lambda v: np.roll(v, 1, axis=1))),
    ("pool: 1 x 3", "no beta in select", no_beta_in_select),
    *(("pool: 1 x 3", f"select without {row}", wrong("select", without_row(row))) for row in range(2)),
    ("top 2 of 2, words", "no beta in the ranks", wrong("beta", np.zeros_like)),
    ("top 2 of 2, words", "a wrong table", wrong("ranks", lambda v: np.roll(v, 1, axis=1))),
    ("top 1 of 2, share", "a wrong table", wrong("ranks", lambda v: np.roll(v, 1, axis=1))),
    ("table: 2 bits", "a wrong one-hot row", wrong("one_hot", lambda v: v ^ 3)),
    ("table: 2 bits", "no beta", wrong("beta", np.zeros_like)),
    *(("pieces: a line, 4 bits", f"no word {row}", wrong("words", without_row(row))) for row in range(4)),
    ("pieces: cubics, 5 bits", "pieces in another order", wrong("words", lambda v: np.roll(v, 1, axis=1))),
    ("pieces: cubics, 5 bits", "a word one too large", wrong("words", lambda v: v + (np.arange(32) == 31)[:, None])),
    *(("normalise: two hinges", f"without beta {row}", wrong("beta", without_row(row))) for row in range(2)),
    ("normalise: one hinge, 2 digits", "a wrong beta", wrong_beta),
    *(("waves: two of 4 bits", f"no word {row}", wrong("words", without_row(row))) for row in range(4)),
    ("waves: two of 4 bits", "waves in another order", wrong("words", lambda v: np.roll(v, 2, axis=1))),
    *(("exp2: two spans of 4 octaves", f"no word {row}", wrong("words", without_row(row))) for row in range(2)),
    ("exp2: two spans of 4 octaves", "spans in another order", wrong("words", lambda v: np.roll(v, 1, axis=1))),
    ("exp2: two spans of 4 octaves", "words one too large", wrong("words", lambda v: v + 1)),
    ("waves: two of 4 bits", "a word one too large", wrong("words", lambda v: v + (np.arange(4) == 1)[:, None])),
]


def ids(bugs: list[tuple[str, str, Callable[[Patch], None]]]) -> list[str]:
    return [f"{case} - {bug}" for case, bug, _ in bugs]


@pytest.mark.parametrize(("name", "bug", "plant"), LEAKS, ids=ids(LEAKS))
def test_a_leak_is_noticed(monkeypatch: Patch, name: str, bug: str, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        check(CASES[name])


@pytest.mark.parametrize(("name", "bug", "plant"), ERRORS, ids=ids(ERRORS))
def test_a_wrong_result_is_noticed(monkeypatch: Patch, name: str, bug: str, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="wrong for"):
        check(CASES[name])


# Decisions and labels: numbers that are counted must be bits, and labels one class, whatever a client shares.


def sums_of_hinges(patch: Patch) -> None:
    """Decisions as 0.1 made them: max(0, t - h) - max(0, t - h - 1), which is no bit where a comparison wraps."""

    def evaluate(ring: Ring, party: int, layer: Decide, x: Array, prepared: Any) -> Evaluation:
        low = min(layer.hinges)
        hinges = ReLU(**{**layer.model_dump(exclude={"op"}), "hinges": (low - 1, low)})
        return relu.evaluate(ring, party, hinges, x, prepared)

    def deal(dealer: Dealer, layer: Decide) -> None:
        relu.deal(dealer, ReLU(**{**layer.model_dump(exclude={"op"}), "hinges": (0, 0)}))

    def prepare(holder: Holder, layer: Decide) -> Any:
        return relu.prepare(holder, ReLU(**{**layer.model_dump(exclude={"op"}), "hinges": (0, 0)}))

    for name, function in (("evaluate", evaluate), ("deal", deal), ("prepare", prepare)):
        patch.setattr(decide, name, function)


def test_decisions_that_are_no_bits_are_noticed(monkeypatch: Patch) -> None:
    case = compared(4, decided(0, 3, 2, 2, 1), 0, only=range(-3, 4))
    sums_of_hinges(monkeypatch)
    monkeypatch.setattr(Decide, "comparisons", property(lambda self: 2 * self.size))
    check(case, private=False)
    with pytest.raises(AssertionError, match="wrong for"):
        check(case, private=False, beyond=True)


def unfolded(patch: Patch) -> None:
    """Indices beyond the classes have no class."""
    original = one_hot.evaluate

    def evaluate(ring: Ring, party: int, layer: OneHot, x: Array, prepared: one_hot.PreparedOneHot) -> Evaluation:
        every = layer.model_copy(update={"classes": 1 << layer.opened_bits})
        rows = yield from original(ring, party, every, x, prepared)
        return rows[:, : layer.classes]

    patch.setattr(one_hot, "evaluate", evaluate)


def test_an_index_without_a_class_is_noticed(monkeypatch: Patch) -> None:
    check(CASES["one-hot: 8 classes of 8 indices"], private=False)
    unfolded(monkeypatch)
    with pytest.raises(AssertionError, match="wrong for"):
        check(CASES["one-hot: 5 classes of 8 indices"], private=False)


# A mask used for two wires: only a pair of wires can show it.

PAIR = Case(3, Truncate(name="t", input="x", shape=(2,), shift=1, opened_bits=2), 3, (Axis("value", 2, 2),))


def test_two_wires_under_two_masks_are_private() -> None:
    check(PAIR)


def test_one_mask_for_two_wires_is_noticed(monkeypatch: Patch) -> None:
    one_mask("value")(monkeypatch)
    with pytest.raises(Leak):
        check(PAIR)
