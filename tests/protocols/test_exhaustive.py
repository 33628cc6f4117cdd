"""On tiny rings: all inputs, all randomness. The result is exactly the functionality's, and what a party sees is
distributed alike for every secret. Then the same tests with a bug planted: they must notice."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.layers import Conv, Linear, Mul, Open, Reshare
from moiety_shared.plan.local import Reshape
from moiety_shared.plan.lookups import (
    Comparison,
    Decide,
    Hinged,
    MaxPool,
    OneHot,
    Opened,
    ReLU,
    Table,
    TopK,
    Truncate,
)
from moiety_shared.plan.plan import Input, Output, Plan
from moiety_shared.protocols import (
    decide,
    graph,
    max_pool,
    one_hot,
    reduce,
    relu,
    reshare,
    select,
    sign,
    table,
    top_k,
    truncation,
)
from moiety_shared.protocols import product as products
from moiety_shared.protocols.dealing import Dealer, Holder, uniform
from moiety_shared.protocols.opening import Evaluation, Kind, Opening, alone, lockstep
from moiety_shared.protocols.product import Weights
from moiety_shared.ring import Array, Ring
from tests.protocols.enumeration import Axis, Column, Leak, Tape, Views, enumerate_axes, histogram

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Thousands of products of one number each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PROTOCOLS: dict[type[Opened], Any] = {
    Truncate: truncation,
    ReLU: relu,
    Decide: decide,
    OneHot: one_hot,
    MaxPool: max_pool,
    TopK: top_k,
    Table: table,
}


@dataclass(frozen=True)
class Case:
    """A layer in the ring Z_{2^k}, and what is enumerated.

    `share_bits` are the low bits of alice's shares of the input that take every value: k, or just those that hold the
    dither. `alice` and `bob` name words of their streams, among them alice's shares of what the dealer fixes; what is
    not named is zero, and is not looked at. The dealer's own secret bits are enumerated always. Where bob's halves of
    the masks are not, alice's stand for the whole mask, which neither party knows.
    """

    k: int
    layer: Opened
    share_bits: int
    alice: tuple[Axis, ...]
    bob: tuple[Axis, ...] = ()
    only: tuple[int, ...] | None = None

    @property
    def secrets(self) -> Iterator[tuple[int, ...]]:
        """All inputs whose values are in the layer's stated range under every dither."""
        return (secret for secret, inside in self._inputs(self.only) if inside)

    @property
    def beyond(self) -> Iterator[tuple[int, ...]]:
        """All others, which an honest client never brings about; of three values and more some far apart."""
        quarter = 1 << (self.k - 2)
        far = (-quarter, 0, quarter - 1) if self.layer.size > 2 else None
        return (secret for secret, inside in self._inputs(far) if not inside)

    def _inputs(self, only: Iterable[int] | None) -> Iterator[tuple[tuple[int, ...], bool]]:
        half, low = 1 << (self.k - 1), (1 << self.layer.shift) - 1
        for secret in product(only or range(-half, half), repeat=self.layer.size):
            ends = [((x >> self.layer.shift), (x + low) >> self.layer.shift) for x in secret]
            yield secret, all(in_range(self.k, self.layer, t) for t in product(*ends))


def in_range(k: int, layer: Opened, t: tuple[int, ...]) -> bool:
    """What the layers state about the values they are given."""
    match layer:
        case Truncate():
            middle = 1 << (layer.opened_bits - 2)
            return layer.opened_bits == k or all(-middle <= value < middle for value in t)
        case Hinged():
            compared = [value - h for value in t for h in layer.hinges]
        case MaxPool() | TopK():
            compared = [a - b for a, b in combinations(t, 2)]
        case _:
            return True
    return all(-(1 << layer.range_bits) <= v < 1 << layer.range_bits for v in compared)


def functionality(layer: Opened, t: Array) -> Array:
    """The layer's definition, on true integers (rows, *shape). A pool's window is its whole input here."""
    match layer:
        case Truncate():
            return t
        case ReLU():
            terms = [np.where(t > h, t - h, 0) for h in layer.hinges]
            return np.asarray(sum(terms[::2]) - sum(terms[1::2]))
        case MaxPool():
            return t.max(axis=(2, 3), keepdims=True)
        case Decide():
            return np.asarray(sum(t >= h for h in layer.hinges)) % 2
        case OneHot():
            index = t % 2**layer.opened_bits
            return (np.where(index < layer.classes, index, 0) == np.arange(layer.classes)) * 1
        case Table():
            return np.stack([np.array(values)[t % 2**layer.opened_bits] for values in layer.values], axis=1)
        case TopK():
            places = np.arange(layer.size)
            ahead = (t[:, None] > t[:, :, None]) | ((t[:, None] == t[:, :, None]) & (places < places[:, None]))
            rank = ahead.sum(axis=2)
            return (rank == 0) * 1 if layer.result == "share" else np.where(rank < layer.k, rank + 1, 0)
    raise TypeError(layer.op)  # type: ignore[attr-defined]


def functionality_beyond(layer: Opened, t: Array) -> Array:
    """What is made of values that are not in range: every comparison reads its value mod 2^(B+1), and no more."""
    if isinstance(layer, Table):
        return functionality(layer, t)
    assert isinstance(layer, Comparison)
    modulus = 2 << layer.range_bits

    def negative(v: Array) -> Array:
        return v % modulus >= modulus // 2

    def winner(values: list[Array]) -> Array:
        while len(values) > 1:
            met = [np.where(negative(a - b), b, a) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = met + values[2 * len(met) :]
        return values[0]

    match layer:
        case ReLU():
            return sum((-1) ** i * np.where(negative(t - h), 0, (t - h) % modulus) for i, h in enumerate(layer.hinges))
        case Decide():
            return np.asarray(sum(~negative(t - h) for h in layer.hinges)) % 2
        case MaxPool():
            rows = [winner([t[:, 0, i, j] for j in range(t.shape[3])]) for i in range(t.shape[2])]
            return winner(rows)[:, None, None, None]
        case TopK():
            places = np.arange(layer.size)
            upper = negative(t[:, :, None] - t[:, None])  # [i, j]: i lost to j, for i < j
            lost = np.where(places[:, None] < places, upper, (places[:, None] > places) & ~upper.transpose(0, 2, 1))
            rank = lost.sum(axis=2)
            return (rank == 0) * 1 if layer.result == "share" else np.where(rank < layer.k, rank + 1, 0)
    raise TypeError(layer.op)  # type: ignore[attr-defined]


def enumerated(case: Case) -> tuple[Array, dict[str, Array], dict[str, Array], dict[str, Array]]:
    """alice's shares of the input, and the columns of alice's, bob's and the dealer's own streams."""
    comparisons, lookups = 0, 0
    if isinstance(case.layer, Comparison):
        comparisons, lookups = case.layer.comparisons, case.layer.lookups
    own = Axis("masks", comparisons, lookups + 1)
    axes = (Axis("x", case.layer.size, case.share_bits), own, *case.alice, *case.bob)
    share, bits, *columns = enumerate_axes(axes)
    masks = (bits & ((1 << lookups) - 1)) | bits >> lookups << 7  # as sign.py lays the bits out in a byte
    names = [axis.name for axis in case.alice], [axis.name for axis in case.bob]
    ends = dict(zip(names[0], columns, strict=False)), dict(zip(names[1], columns[len(names[0]) :], strict=True))
    return share, *ends, {"masks": masks} if comparisons else {}


def evaluation(ring: Ring, party: int, layer: Opened, x: Array, prepared: Any) -> Evaluation:
    match layer:
        case MaxPool():
            return max_pool.evaluate(reduce.opened_ring(layer), party, layer, x, prepared)
        case TopK():
            return top_k.evaluate(party, layer, x, prepared)
        case _:
            return PROTOCOLS[type(layer)].evaluate(ring, party, layer, x, prepared)  # type: ignore[no-any-return]


def seen_bits(layer: Opened, opening: Opening) -> int:
    """How many bits an opened word has."""
    if opening.kind is Kind.RING:
        assert opening.ring is not None
        return opening.ring.bits
    return layer.lookups if isinstance(layer, Comparison) and opening.kind is Kind.WORDS else 1


def check(case: Case, *, private: bool = True, beyond: bool = False) -> None:
    """Every result is right; every party's view is uniform, whatever the secret. Right is what the secret and the
    dither alone decide: no mask does, in range or `beyond`."""
    ring, layer, protocol = Ring(case.k), case.layer, PROTOCOLS[type(case.layer)]
    share, of_alice, of_bob, own = enumerated(case)
    rows = len(share)
    dealer = Dealer(ring, rows, Tape(of_alice), Tape(of_bob), Tape(own))
    protocol.deal(dealer, layer)
    holders = Holder(ring, 0, rows, Tape(of_alice), {}), Holder(ring, 1, rows, Tape(of_bob), dealer.corrections)
    prepared = [protocol.prepare(holder, layer) for holder in holders]
    shape = (rows, *layer.shape)
    x0 = share.astype(ring.dtype)
    low = (1 << layer.shift) - 1
    views = Views("alice"), Views("bob")
    seen = 0
    for secret in case.beyond if beyond else case.secrets:
        seen += 1
        x = np.array(secret, dtype=ring.dtype)
        x1 = ring.wrap(x - x0)
        opened: list[Column] = []
        shares = lockstep(
            alone(evaluation(ring, 0, layer, x0.reshape(shape), prepared[0])),
            alone(evaluation(ring, 1, layer, x1.reshape(shape), prepared[1])),
            lambda opening, value: opened.append((value, seen_bits(layer, opening))),  # noqa: B023
        )
        t = ((x.astype(np.int64) + (low - (share & low))) >> layer.shift).reshape(shape)
        expected = (functionality_beyond if beyond else functionality)(layer, t)
        if isinstance(layer, TopK) and layer.result == "words":
            result = shares[0] ^ shares[1]
        else:
            given = reduce.opened_ring(layer) if isinstance(layer, MaxPool) else ring
            result, expected = given.wrap(shares[0] + shares[1]), expected & ((1 << given.bits) - 1)
        assert result.shape == expected.shape and np.array_equal(result, expected), f"wrong for {secret}"
        if private:
            known = (1 << case.share_bits) - 1
            fixed = [axis for axis in case.alice if axis.name in dealer.corrections]
            corrections = [(dealer.corrections[axis.name], axis.bits) for axis in fixed]
            alices = [(of_alice[axis.name], axis.bits) for axis in case.alice if case.bob]
            bobs = [(of_bob[axis.name], axis.bits) for axis in case.bob]
            views[0].add(secret, histogram([(x0 & known, case.share_bits), *alices, *opened]))
            views[1].add(secret, histogram([(x1 & known, case.share_bits), *bobs, *corrections, *opened]))
    assert seen
    if private:
        for view in views:
            view.assert_uniform()


def truncate(shift: int, opened_bits: int) -> Truncate:
    return Truncate(name="t", input="x", shape=(1,), shift=shift, opened_bits=opened_bits)


def wide(k: int, layer: Truncate) -> Case:
    """Every bit of everything that either party ever holds."""
    q = layer.opened_bits
    return Case(k, layer, k, (Axis("value", 1, q), Axis("lift", 2, k)), (Axis("value", 1, q),))


def compared(k: int, layer: Opened, share_bits: int, *, both: bool = False, only: Any = None, **names: int) -> Case:
    """The masks of the values, of alice or of both, and alice's words of the named masks."""
    mask = Axis("value", layer.size, layer.opened_bits)
    small = layer.rank_bits if isinstance(layer, TopK) else layer.opened_bits
    others = tuple(Axis(name, count, small) for name, count in names.items())
    return Case(k, layer, share_bits, (mask, *others), (mask,) if both else (), only)


def hinged(shift: int, q: int, B: int, digit: int, hinges: tuple[int, ...] = (0,)) -> ReLU:
    return ReLU(
        name="r", input="x", shape=(1,), shift=shift, opened_bits=q, range_bits=B, digit_bits=digit, hinges=hinges
    )


def decided(shift: int, q: int, B: int, digit: int, *hinges: int) -> Decide:
    return Decide(**hinged(shift, q, B, digit, hinges).model_dump(exclude={"op"}))


def indexed(k: int, classes: int, *, full: bool = False) -> Case:
    """The masks of both; in full also all that the dealer fixes."""
    w = max((classes - 1).bit_length(), 2)
    layer = OneHot(name="h", input="labels", opened_bits=w, classes=classes)
    mask, row = Axis("value", 1, w), Axis("row", 1 << w, k)
    return Case(k, layer, k, (mask, row) if full else (mask,), (mask,))


def pool(shape: tuple[int, int], shift: int, q: int, B: int, digit: int) -> MaxPool:
    return MaxPool(
        name="m",
        input="x",
        shape=(1, *shape),
        kernel=shape,
        stride=shape,
        output_size=(1, 1),
        shift=shift,
        opened_bits=q,
        range_bits=B,
        digit_bits=digit,
    )


def ranked(n: int, result: Any, shift: int, q: int, B: int, digit: int, k: int = 1) -> TopK:
    return TopK(
        name="k",
        input="x",
        shape=(n,),
        shift=shift,
        opened_bits=q,
        range_bits=B,
        digit_bits=digit,
        k=k,
        result=result,
    )


def looked_up(shift: int, m: int, *values: tuple[int, ...]) -> Table:
    return Table(name="f", input="x", shape=(1,), shift=shift, opened_bits=m, values=values)


def table_case(k: int, layer: Table, *, full: bool = False) -> Case:
    """The masks of value and output bits of both; in full also all that the dealer fixes."""
    masks = Axis("value", 1, layer.opened_bits), Axis("masks", sum(layer.widths), 1)
    fixed = Axis("one_hot", layer.words, 1 << layer.opened_bits), Axis("beta", sum(layer.widths), k)
    return Case(k, layer, k, (*masks, *fixed) if full else masks, masks)


CASES = {
    "truncate: 3 of 4 bits": wide(4, truncate(1, 3)),
    "truncate: 2 of 4 bits": wide(4, truncate(2, 2)),
    "truncate: the middle bits": wide(4, truncate(1, 2)),
    "truncate: the low bits": wide(4, truncate(0, 3)),
    "truncate: nothing to lift": wide(4, truncate(0, 4)),
    "truncate: a large shift": wide(5, truncate(3, 2)),
    "relu: 1 digit of 3 bits": compared(6, hinged(2, 4, 3, 3), 6, both=True),
    "relu: 1 digit, the smallest range": compared(4, hinged(1, 2, 1, 1), 4, both=True),
    "relu: 2 digits of 1 bit": compared(5, hinged(1, 3, 2, 1), 5, both=True),
    "relu: 2 digits of 2 bits": compared(6, hinged(0, 6, 4, 2), 0),
    "relu: a short top digit": compared(5, hinged(1, 4, 3, 2), 5, both=True),
    "relu: 3 digits": compared(4, hinged(0, 4, 3, 1), 4, both=True),
    "relu: 4 digits": compared(6, hinged(1, 5, 4, 1), 1),
    "relu: range below what is opened": compared(7, hinged(2, 5, 3, 2), 2, both=True),
    "relu: nothing to lift": compared(4, hinged(0, 4, 3, 2), 4, both=True),
    "relu: two hinges": compared(5, hinged(1, 4, 3, 3, (-1, 2)), 5, both=True),
    "relu: two hinges, 2 digits": compared(4, hinged(0, 4, 3, 2, (-1, 2)), 0, both=True),
    "relu: hinges in no order": compared(5, hinged(0, 4, 3, 3, (2, -1, 0)), 0, both=True),
    "relu: a hinge above the range of what is opened": compared(6, hinged(0, 4, 3, 3, (5,)), 0, both=True),
    "decide: one hinge": compared(5, decided(1, 4, 3, 3, 1), 5, both=True),
    "decide: one hinge, 2 digits": compared(5, decided(1, 3, 2, 1, 0), 5, both=True),
    "decide: between two hinges": compared(5, decided(1, 4, 3, 3, -1, 2), 5, both=True),
    "decide: three hinges": compared(5, decided(0, 4, 2, 2, 1, -1, 0), 0, both=True),
    "one-hot: 3 classes, all there is": indexed(2, 3, full=True),
    "one-hot: 5 classes of 8 indices": indexed(4, 5),
    "one-hot: 8 classes of 8 indices": indexed(4, 8),
    "one-hot: 2 classes": indexed(3, 2),
    "pool: 1 x 2": compared(4, pool((1, 2), 1, 3, 2, 2), 4),
    "pool: 1 x 2, 2 digits": compared(3, pool((1, 2), 0, 3, 2, 1), 0, both=True),
    "pool: 2 x 1": compared(3, pool((2, 1), 0, 3, 2, 2), 3),
    "pool: 1 x 3": compared(4, pool((1, 3), 0, 3, 2, 2), 0, only=range(-3, 2), differences=1),
    "pool: 2 x 2": compared(3, pool((2, 2), 0, 2, 1, 1), 0, only=range(-2, 3), differences=1),
    "top 1 of 2, words": compared(4, ranked(2, "words", 1, 3, 2, 2), 1, rank=2),
    "top 2 of 2, words": compared(3, ranked(2, "words", 0, 3, 2, 1, 2), 0, rank=2),
    "top 1 of 2, share": compared(3, ranked(2, "share", 0, 3, 2, 1), 0, rank=2),
    "top 1 of 3, share": compared(3, ranked(3, "share", 0, 2, 1, 1), 0, only=(-1, 0, 1), rank=3),
    "top 2 of 3, words": compared(3, ranked(3, "words", 0, 2, 1, 1, 2), 0, only=(-1, 0, 1), rank=3),
    "table: 2 bits, all there is": table_case(3, looked_up(1, 2, (0, 1, 1, 0)), full=True),
    "table: 2 bits": table_case(4, looked_up(2, 2, (-1, 2, 1, 0))),
    "table: 3 bits, two functions": table_case(
        4, looked_up(1, 3, (5, 2, 4, 3, 5, 5, 3, 2), (0, -1, 0, 0, -1, 0, 0, 0))
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_exact_and_private(name: str) -> None:
    check(CASES[name])


# Values out of range. A client shares ring elements that nobody checks, so it can bring them about.


def has_beyond(case: Case) -> bool:
    return not isinstance(case.layer, Truncate) and next(case.beyond, None) is not None


BEYOND = [name for name, case in CASES.items() if has_beyond(case)]


@pytest.mark.parametrize("name", BEYOND)
def test_beyond_the_range_no_mask_decides(name: str) -> None:
    check(CASES[name], beyond=True)


@pytest.mark.parametrize("name", [name for name in CASES if isinstance(CASES[name].layer, Comparison)])
def test_within_the_range_both_definitions_agree(name: str) -> None:
    case = CASES[name]
    for secret in case.secrets:
        t = (np.array(secret).reshape(1, *case.layer.shape)) >> case.layer.shift
        assert np.array_equal(functionality(case.layer, t), functionality_beyond(case.layer, t))


def lifted_from(bits: Callable[[ReLU], int]) -> Callable[[Patch], None]:
    return lambda patch: patch.setattr(relu, "compared_ring", lambda layer: Ring(bits(layer)))


@pytest.mark.parametrize("name", ["relu: range below what is opened", "relu: 2 digits of 2 bits"])
def test_a_lift_of_more_bits_than_are_compared_is_noticed(monkeypatch: Patch, name: str) -> None:
    """The lift that 0.1 had: right for every value in range, and no others."""
    lifted_from(lambda layer: layer.opened_bits)(monkeypatch)
    check(CASES[name], private=False)
    with pytest.raises(AssertionError, match="wrong for"):
        check(CASES[name], private=False, beyond=True)


@pytest.mark.parametrize("result", ["words", "share"])
def test_top_k_of_any_three_values_is_exact(result: str) -> None:
    check(compared(3, ranked(3, result, 0, 3, 2, 2, 2 if result == "words" else 1), 0), private=False)


@dataclass(frozen=True)
class At(Case):
    """One secret, whether it is in range or not."""

    secret: int = 0

    @property
    def secrets(self) -> Iterator[tuple[int, ...]]:
        yield (self.secret,)


@pytest.mark.parametrize(("secret", "exact"), [(-3, False), (-2, True), (2, True), (3, False)])
def test_where_truncation_ends(secret: int, exact: bool) -> None:
    """|t| <= 2^(q - 2) is lifted right under every mask; further out some mask gives a wrong result."""
    case = At(*vars(CASES["truncate: the low bits"]).values(), secret=secret)
    if exact:
        check(case)
    else:
        with pytest.raises(AssertionError, match="wrong for"):
            check(case)


# Planted bugs. Each is named for what it leaves out; the test that is run is the one above.


def change_masks(patch: Patch, name: str, change: Callable[[Array], Array]) -> None:
    """Of dealer and parties alike, so that results stay right."""
    for side in (Dealer, Holder):

        def mask(self: Any, n: str, *rest: Any, original: Any = side.mask) -> Array:
            found = original(self, n, *rest)
            return change(found) if n == name else found

        patch.setattr(side, "mask", mask)


def no_mask(name: str) -> Callable[[Patch], None]:
    return lambda patch: change_masks(patch, name, np.zeros_like)


def one_mask(name: str) -> Callable[[Patch], None]:
    """The first value's mask for all of them."""
    return lambda patch: change_masks(patch, name, lambda r: np.repeat(r[:, :1], r.shape[1], 1))


def half_a_mask(patch: Patch) -> None:
    """alice's halves alone, which she knows."""
    original = Holder.mask

    def mask(self: Any, n: str, shape: tuple[int, ...], ring: Ring | None = None) -> Array:
        return uniform(ring or self.ring, self._alice, n, (self.rows, *shape))

    patch.setattr(Dealer, "mask", mask)
    patch.setattr(Holder, "mask", lambda self, *given: original(self, *given) * (1 - self.party))


def mask_bits(kept: int) -> Callable[[Patch], None]:
    """Only some of a comparison's secret bits: a, then e, and beta on top."""
    original = Dealer.secret_bytes
    return lambda patch: patch.setattr(Dealer, "secret_bytes", lambda *given: original(*given) & np.uint8(kept))


def one_set_of_bits(patch: Patch) -> None:
    """The first comparison's secret bits for all."""
    original = Dealer.secret_bytes
    patch.setattr(Dealer, "secret_bytes", lambda *given: np.repeat(original(*given)[:, :1], given[2][0], 1))


def output_masks(change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    def plant(patch: Patch) -> None:
        for side in (Dealer, Holder):
            original = side.mask_words
            patch.setattr(side, "mask_words", lambda *given, original=original: change(original(*given)))

    return plant


def value_masks_again(patch: Patch) -> None:
    """A pool's later differences under masks of its inputs."""
    original = max_pool._differences

    def differences(layer: MaxPool, source: Any, r: Array) -> Array:
        found = original(layer, source, r)
        fresh = layer.comparisons - layer.levels[0]
        return np.concatenate((found[:, : layer.levels[0]], r[:, :fresh]), axis=1)

    patch.setattr(max_pool, "_differences", differences)


def wrong(name: str, change: Callable[[Array], Array]) -> Callable[[Patch], None]:
    """The dealer fixes another value."""

    def plant(patch: Patch) -> None:
        for method in ("fix", "fix_words"):
            original = getattr(Dealer, method)

            def fix(self: Any, n: str, value: Array, *rest: Any, original: Any = original) -> None:
                original(self, n, change(value.copy()) if n == name else value, *rest)

            patch.setattr(Dealer, method, fix)

    return plant


def bare(name: str) -> Callable[[Patch], None]:
    """bob is sent the value itself, and alice's share of it is nothing."""

    def plant(patch: Patch) -> None:
        fixed, fixed_words = Holder.fixed, Holder.fixed_words
        fix, fix_words = Dealer.fix, Dealer.fix_words

        def send(self: Any, n: str, value: Array, ring: Ring | None = None) -> None:
            fix(self, n, value, ring)
            if n == name:
                self.corrections[n] = (ring or self.ring).wrap(value)

        def send_words(self: Any, n: str, value: Array) -> None:
            fix_words(self, n, value)
            if n == name:
                self.corrections[n] = value

        def zero(original: Any) -> Any:
            return lambda self, n, *rest: original(self, n, *rest) * (0 if n == name and self.party == 0 else 1)

        patch.setattr(Dealer, "fix", send)
        patch.setattr(Dealer, "fix_words", send_words)
        patch.setattr(Holder, "fixed", zero(fixed))
        patch.setattr(Holder, "fixed_words", zero(fixed_words))

    return plant


def no_beta_in_select(patch: Patch) -> None:
    original = select.deal
    patch.setattr(select, "deal", lambda dealer, beta, *rest: original(dealer, beta * 0, *rest))


def no_monomial(bit: int) -> Callable[[Patch], None]:
    original = sign.monomial_words
    return lambda patch: patch.setattr(sign, "monomial_words", lambda *given: original(*given) & ~np.uint8(1 << bit))


def without_row(row: int) -> Callable[[Array], Array]:
    def change(value: Array) -> Array:
        value[:, row] = 0
        return value

    return change


LEAKS: list[tuple[str, str, Callable[[Patch], None]]] = [
    ("truncate: 3 of 4 bits", "no mask", no_mask("value")),
    ("truncate: 3 of 4 bits", "half a mask", half_a_mask),
    ("truncate: 3 of 4 bits", "even masks", lambda p: change_masks(p, "value", lambda r: r * 2 % 8)),
    ("truncate: 3 of 4 bits", "bare rho and mu", bare("lift")),
    ("relu: 2 digits of 1 bit", "no mask", no_mask("value")),
    ("relu: 2 digits of 1 bit", "half a mask", half_a_mask),
    ("relu: 2 digits of 1 bit", "no a_0", mask_bits(0xFE)),
    ("relu: 2 digits of 1 bit", "no a_1", mask_bits(0xFD)),
    ("relu: 2 digits of 1 bit", "no e_1", mask_bits(0xFB)),
    ("relu: 2 digits of 1 bit", "no beta", mask_bits(0x7F)),
    ("relu: 4 digits", "no e_2", mask_bits(0xDF)),
    ("relu: 4 digits", "no e_3", mask_bits(0xBF)),
    ("relu: two hinges", "no beta", mask_bits(0x7F)),
    ("relu: two hinges", "one set of bits", one_set_of_bits),
    ("pool: 1 x 2", "no mask", no_mask("value")),
    ("pool: 1 x 2", "one mask", one_mask("value")),
    ("pool: 1 x 2", "no a", mask_bits(0x80)),
    ("pool: 1 x 2", "no beta", mask_bits(0x7F)),
    ("pool: 1 x 3", "no mask for the differences", no_mask("differences")),
    ("pool: 1 x 3", "masks used again", value_masks_again),
    ("pool: 1 x 3", "one set of bits", one_set_of_bits),
    ("pool: 2 x 2", "no mask for the differences", no_mask("differences")),
    ("decide: one hinge, 2 digits", "no mask", no_mask("value")),
    ("decide: one hinge, 2 digits", "no e_1", mask_bits(0xFB)),
    ("decide: one hinge, 2 digits", "no beta", mask_bits(0x7F)),
    ("decide: between two hinges", "no beta", mask_bits(0x7F)),
    ("decide: between two hinges", "one set of bits", one_set_of_bits),
    ("one-hot: 3 classes, all there is", "no mask", no_mask("value")),
    ("one-hot: 3 classes, all there is", "half a mask", half_a_mask),
    ("one-hot: 3 classes, all there is", "a bare row", bare("row")),
    ("one-hot: 5 classes of 8 indices", "even masks", lambda p: change_masks(p, "value", lambda r: r * 2 % 8)),
    ("top 2 of 2, words", "no mask", no_mask("value")),
    ("top 2 of 2, words", "one mask", one_mask("value")),
    ("top 2 of 2, words", "no e_1", mask_bits(0xFB)),
    ("top 2 of 2, words", "no beta", mask_bits(0x7F)),
    ("top 2 of 2, words", "no mask for the ranks", no_mask("rank")),
    ("top 2 of 3, words", "one set of bits", one_set_of_bits),
    ("top 1 of 3, share", "no mask for the ranks", no_mask("rank")),
    ("top 1 of 3, share", "one mask for the ranks", one_mask("rank")),
    ("table: 2 bits, all there is", "no mask", no_mask("value")),
    ("table: 2 bits, all there is", "half a mask", half_a_mask),
    ("table: 2 bits, all there is", "no output mask", output_masks(np.zeros_like)),
    ("table: 2 bits, all there is", "a bare one-hot row", bare("one_hot")),
    ("table: 2 bits, all there is", "bare beta", bare("beta")),
    ("table: 3 bits, two functions", "one output mask", output_masks(lambda b: np.repeat(b[:, :1], b.shape[1], 1))),
]
ERRORS: list[tuple[str, str, Callable[[Patch], None]]] = [
    ("truncate: 3 of 4 bits", "no rho", wrong("lift", without_row(0))),
    ("truncate: 3 of 4 bits", "no mu", wrong("lift", without_row(1))),
    *(("relu: 2 digits of 1 bit", f"no monomial {bit}", no_monomial(bit)) for bit in range(1, 5)),
    *(
        ("relu: 2 digits of 1 bit", f"table word {bit}", wrong("tables", lambda v, b=bit: v ^ (1 << b)))
        for bit in (0, 1)
    ),
    ("relu: 2 digits of 1 bit", "a wrong constant", wrong("monomials", lambda v: v ^ 1)),
    ("relu: 2 digits of 1 bit", "no beta in select", no_beta_in_select),
    *(("relu: 2 digits of 1 bit", f"select without {row}", wrong("select", without_row(row))) for row in range(3)),
    ("relu: 2 digits of 1 bit", "no mu", wrong("lift", without_row(1))),
    ("decide: one hinge", "no beta", wrong("beta", np.zeros_like)),
    ("decide: one hinge", "a wrong constant", wrong("monomials", lambda v: v ^ 1)),
    ("one-hot: 5 classes of 8 indices", "a wrong row", wrong("row", lambda v: np.roll(v, 1, axis=1))),
    ("pool: 1 x 3", "no beta in select", no_beta_in_select),
    *(("pool: 1 x 3", f"select without {row}", wrong("select", without_row(row))) for row in range(2)),
    ("top 2 of 2, words", "no beta in the ranks", wrong("beta", np.zeros_like)),
    ("top 2 of 2, words", "a wrong table", wrong("ranks", lambda v: np.roll(v, 1, axis=1))),
    ("top 1 of 2, share", "a wrong table", wrong("ranks", lambda v: np.roll(v, 1, axis=1))),
    ("table: 2 bits", "a wrong one-hot row", wrong("one_hot", lambda v: v ^ 3)),
    ("table: 2 bits", "no beta", wrong("beta", np.zeros_like)),
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

    def evaluate(ring: Ring, party: int, layer: OneHot, x: Array, prepared: one_hot.Prepared) -> Evaluation:
        every = layer.model_copy(update={"classes": 1 << layer.opened_bits})
        rows = yield from original(ring, party, every, x, prepared)
        return rows[:, : layer.classes]

    patch.setattr(one_hot, "evaluate", evaluate)


def test_an_index_without_a_class_is_noticed(monkeypatch: Patch) -> None:
    check(CASES["one-hot: 8 classes of 8 indices"], private=False)
    unfolded(monkeypatch)
    with pytest.raises(AssertionError, match="wrong for"):
        check(CASES["one-hot: 5 classes of 8 indices"], private=False)


# Fresh shares: alice's, and the dither in its low bits, are uniform whatever both shares were.


def check_reshared(k: int) -> None:
    ring, layer = Ring(k), Reshare(name="f", input="x", shape=(1,))
    (zero,) = enumerate_axes([Axis("zero", 1, k)])
    dealer = Dealer(ring, len(zero), Tape({"zero": zero}), Tape(), Tape())
    reshare.deal(dealer, layer)
    holders = Holder(ring, 0, len(zero), Tape({"zero": zero}), {}), Holder(ring, 1, 0, Tape(), dealer.corrections)
    prepared = [reshare.prepare(holder, layer) for holder in holders]
    view = Views("alice")
    for shares in product(range(1 << k), repeat=2):
        one, other = (
            reshare.evaluate(ring, np.full(zero.shape, x, dtype=ring.dtype), of)
            for x, of in zip(shares, prepared, strict=True)
        )
        assert (ring.wrap(one + other) == sum(shares) % (1 << k)).all(), f"wrong for {shares}"
        view.add(shares, histogram([(one, k)]))
    view.assert_uniform()


def test_fresh_shares_are_uniform_whatever_the_clients_were() -> None:
    check_reshared(4)


def test_shares_that_stay_the_clients_are_noticed(monkeypatch: Patch) -> None:
    bare("zero")(monkeypatch)
    with pytest.raises(Leak):
        check_reshared(4)


# A mask used for two wires: only a pair of wires can show it.

PAIR = Case(3, Truncate(name="t", input="x", shape=(2,), shift=1, opened_bits=2), 3, (Axis("value", 2, 2),))


def test_two_wires_under_two_masks_are_private() -> None:
    check(PAIR)


def test_one_mask_for_two_wires_is_noticed(monkeypatch: Patch) -> None:
    one_mask("value")(monkeypatch)
    with pytest.raises(Leak):
        check(PAIR)


# Linear and Conv: weights and inputs, both shared, everything each party sees.

LINEAR = Linear(name="l", input="o", shape=(1,), out_features=1, bias=False)
CONV = Conv(name="l", input="o", shape=(1, 1, 1), out_channels=1, kernel=(1, 1), bias=False)


def check_weighted(k: int, layer: products.Weighted) -> None:
    size = 1 << k
    columns = enumerate_axes([Axis(name, 1, k) for name in ("r0", "r1", "c0", "x0")])
    views = Views("alice"), Views("bob")
    for x, w in product(range(size), repeat=2):
        seen: list[Array] = []
        for model in product(range(size), repeat=2):
            histograms = weighted_histograms(Ring(k), layer, x, w, model, columns)
            seen = [a + b for a, b in zip(seen, histograms, strict=True)] if seen else histograms
        for view, found in zip(views, seen, strict=True):
            view.add((x, w), found)


def weighted_histograms(
    ring: Ring, layer: products.Weighted, x: int, w: int, model: tuple[int, int], columns: list[Array]
) -> list[Array]:
    (s0, s1), (r0, r1, c0, x0), rows, bits = model, columns, len(columns[0]), ring.bits
    opening = Open(name="o", input="input", shape=layer.shape)

    def weight(value: int) -> Array:
        return ring.wrap(np.full(layer.weights()["weight"], value, dtype=ring.dtype))

    masks = weight(s0), weight(s1)
    whole = products.mask_weight(ring, weight(w), masks)
    models = [Weights(whole, products.weight_share(ring, p, whole, masks[p].copy()), None) for p in (0, 1)]
    dealer = Dealer(ring, rows, Tape({"product": c0}), Tape(), Tape())
    inputs = Tape({"input": r0}), Tape({"input": r1})
    mask = products.deal_open(Dealer(ring, rows, *inputs, Tape()), opening)
    products.deal(dealer, layer, mask, ring.wrap(masks[0] + masks[1]))
    x1 = ring.wrap(np.int16(x) - x0.astype(ring.dtype))
    given = x0.astype(ring.dtype).reshape(rows, *layer.shape), x1.reshape(rows, *layer.shape)
    outs: list[Array] = []
    holders = Holder(ring, 0, rows, Tape({"product": c0}), {}), Holder(ring, 1, rows, Tape(), dealer.corrections)
    ready = [
        products.prepare_open(Holder(ring, p, rows, Tape({"input": r}), {}), opening) for p, r in enumerate((r0, r1))
    ]
    wires = lockstep(*(alone(products.evaluate_open(ring, given[p], ready[p])) for p in (0, 1)))
    for wire, holder, model_share in zip(wires, holders, models, strict=True):
        prepared = products.prepare(holder, layer, wire.mask, model_share)
        outs.append(products.evaluate(ring, layer, wire, prepared, model_share))
    assert (ring.wrap(outs[0] + outs[1]) == x * w % (1 << bits)).all(), f"wrong for {x} * {w}"

    def constant(value: Any) -> Array:
        return np.full(rows, int(np.reshape(value, -1)[0]), dtype=np.int64)

    masked, opened = constant(whole), wires[0].value
    alice = (constant(s0), masked, x0, r0, c0, opened)
    bob = (constant(s1), masked, x1, r1, dealer.corrections["product"], opened)
    return [histogram([(column, bits) for column in view]) for view in (alice, bob)]


@pytest.mark.parametrize("layer", [LINEAR, CONV], ids=["linear", "conv"])
def test_linear_is_exact_and_private(layer: products.Weighted) -> None:
    check_weighted(2, layer)


def no_weight_mask(patch: Patch) -> None:
    original, share = products.mask_weight, products.weight_share
    patch.setattr(products, "mask_weight", lambda ring, w, s: original(ring, w, (s[0] * 0, s[1] * 0)))
    patch.setattr(products, "weight_share", lambda ring, p, w, s: share(ring, p, w, s * 0))
    deal = products.deal
    patch.setattr(products, "deal", lambda dealer, layer, r, s: deal(dealer, layer, r, s * 0))


@pytest.mark.parametrize(
    "plant",
    [no_weight_mask, no_mask("input"), half_a_mask, bare("product")],
    ids=["no weight mask", "no mask", "half a mask", "a bare correction"],
)
@pytest.mark.parametrize("layer", [LINEAR, CONV], ids=["linear", "conv"])
def test_linear_that_leaks_is_noticed(
    monkeypatch: Patch, layer: products.Weighted, plant: Callable[[Patch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        check_weighted(2, layer)


def test_linear_with_a_wrong_correction_is_noticed(monkeypatch: Patch) -> None:
    wrong("product", lambda value: value + 1)(monkeypatch)
    with pytest.raises(AssertionError, match="wrong for"):
        check_weighted(2, LINEAR)


# Mul, and a wire that is opened once and read by two products.


def check_products(k: int, pairs: tuple[tuple[int, int], ...], *, same_mask: bool = False) -> None:
    """Wires 0 and 1 are opened; the products of the pairs are then local."""
    ring, wires = Ring(k), (0, 1)
    each = ("x0", "r0", "r1")
    columns = enumerate_axes([*(Axis(n, 1, k) for _ in wires for n in each), *(Axis("c", 1, k) for _ in pairs)])
    inputs = [dict(zip(each, columns[3 * i :], strict=False)) for i in wires]
    if same_mask:
        inputs[1] |= {"r0": inputs[0]["r0"], "r1": inputs[0]["r1"]}
    fixed, rows = columns[6:], len(columns[0])
    opening = Open(name="o", input="x", shape=(1,))
    layers = [Mul(name="m", left=f"o{a}", right=f"o{b}", left_shape=(1,), right_shape=(1,)) for a, b in pairs]
    tapes = [(Tape({"input": i["r0"]}), Tape({"input": i["r1"]})) for i in inputs]
    masks = [products.deal_open(Dealer(ring, rows, *tape, Tape()), opening) for tape in tapes]
    ready: list[tuple[products.Prepared, products.Prepared]] = []
    corrections = []
    for layer, (a, b), c in zip(layers, pairs, fixed, strict=True):
        dealer = Dealer(ring, rows, Tape({"product": c}), Tape(), Tape())
        products.deal_mul(dealer, layer, masks[a], masks[b])
        corrections.append(dealer.corrections["product"])
        holders = Holder(ring, 0, rows, Tape({"product": c}), {}), Holder(ring, 1, rows, Tape(), dealer.corrections)
        ready.append(tuple(products.prepare_mul(holder, layer) for holder in holders))  # type: ignore[arg-type]
    views = Views("alice"), Views("bob")
    for secret in product(range(1 << k), repeat=2):
        opened, shares = [], []
        for x, given in zip(secret, inputs, strict=True):
            x0 = given["x0"].astype(ring.dtype)
            shares.append((x0, ring.wrap(np.int16(x) - x0)))
            sessions = []
            for p in (0, 1):
                holder = Holder(ring, p, rows, Tape({"input": given[f"r{p}"]}), {})
                prepared = products.prepare_open(holder, opening)
                sessions.append(alone(products.evaluate_open(ring, shares[-1][p], prepared)))
            opened.append(lockstep(*sessions))
        for layer, (a, b), prepared in zip(layers, pairs, ready, strict=True):
            out = [products.evaluate_mul(ring, p, opened[a][p], opened[b][p], prepared[p]) for p in (0, 1)]
            assert layer.op == "mul"
            assert (ring.wrap(out[0] + out[1]) == secret[a] * secret[b] % (1 << k)).all(), f"wrong for {secret}"
        for p, view in enumerate(views):
            mine = [column for i in wires for column in (shares[i][p], inputs[i][f"r{p}"], opened[i][p].value)]
            view.add(secret, histogram([(column, k) for column in (*mine, *(corrections if p else fixed))]))
    for view in views:
        view.assert_uniform()


PAIRS = pytest.mark.parametrize("pairs", [((0, 1),), ((0, 0),), ((0, 1), (0, 0))], ids=["x z", "x x", "both"])


@PAIRS
def test_products_are_exact_and_private(pairs: tuple[tuple[int, int], ...]) -> None:
    check_products(2, pairs)


@PAIRS
@pytest.mark.parametrize(
    "plant",
    [no_mask("input"), half_a_mask, bare("product")],
    ids=["no mask", "half a mask", "a bare correction"],
)
def test_products_that_leak_are_noticed(
    monkeypatch: Patch, pairs: tuple[tuple[int, int], ...], plant: Callable[[Patch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        check_products(2, pairs)


def test_one_mask_for_both_factors_is_noticed() -> None:
    with pytest.raises(Leak):
        check_products(2, ((0, 1),), same_mask=True)


def test_a_product_with_a_wrong_correction_is_noticed(monkeypatch: Patch) -> None:
    wrong("product", lambda value: value + 1)(monkeypatch)
    with pytest.raises(AssertionError, match="wrong for"):
        check_products(2, ((0, 1),))


# What the dealer sends: each correction is a value under words of alice's stream that are used for nothing else. The
# cases above enumerate what is opened; with this, what bob holds besides tells him nothing.

IMAGE = (2, 2, 2)
EVERY_KIND = Plan(
    ring_bits=32,
    input=Input(shape=IMAGE, frac_bits=4, low=-8, high=8, classes=5),
    layers=(
        Reshare(name="fresh", input="input", shape=IMAGE),
        Decide(name="decide", input="fresh", shape=IMAGE, shift=2, opened_bits=8, range_bits=6, hinges=(1, 3)),
        OneHot(name="row", input="labels", opened_bits=3, classes=5),
        Open(name="o", input="input", shape=IMAGE),
        Conv(name="conv", input="o", shape=IMAGE, out_channels=2, kernel=(1, 1)),
        Mul(name="mul", left="o", right="o", left_shape=IMAGE, right_shape=IMAGE),
        Linear(name="linear", input="o", shape=IMAGE, out_features=2, bias=False),
        MaxPool(
            name="pool",
            input="conv",
            shape=IMAGE,
            kernel=(2, 2),
            stride=(2, 2),
            output_size=(1, 1),
            shift=2,
            opened_bits=16,
            range_bits=14,
        ),
        ReLU(name="relu", input="pool", shape=(2, 1, 1), shift=1, opened_bits=12, range_bits=11, digit_bits=3),
        ReLU(name="clip", input="mul", shape=IMAGE, shift=0, opened_bits=16, range_bits=7, hinges=(0, 5)),
        Truncate(name="truncate", input="linear", shape=IMAGE, shift=4, opened_bits=20),
        Table(name="table", input="relu", shape=(2, 1, 1), shift=0, opened_bits=7, values=(tuple(range(128)),)),
        Reshape(name="flat", input="clip", shape=IMAGE, to=(8,)),
        TopK(name="winner", input="flat", shape=(8,), shift=0, opened_bits=16, range_bits=12, result="share"),
        TopK(name="places", input="winner", shape=(8,), shift=0, opened_bits=16, range_bits=12, k=3),
    ),
    output=Output(wire="places", shape=(8,), kind="labels"),
)


IN_SMALL_RINGS = {("winner", "beta"), ("places", "beta")}  # mod 8, the others fill their words


@dataclass
class Words:
    """A `Stream` that notes what is drawn from it, and yields nothing but zeros under one address."""

    seed: bytes
    without: tuple[str, str] | None = None
    address: str = ""
    drawn: dict[tuple[str, str], tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def at(self, address: str) -> "Words":
        return replace(self, address=address)

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        where = self.address, name
        assert where not in self.drawn, f"{where} drawn twice"
        self.drawn[where] = shape, np.dtype(dtype).str
        words = Stream(self.seed, self.address).words(name, shape, dtype)
        return words * 0 if where == self.without else words


def dealt(
    seeds: list[bytes], rows: int, without: tuple[str, str] | None = None
) -> tuple[dict[Any, Array], list[Words]]:
    ring = graph.ring_of(EVERY_KIND)
    masks = {
        layer.name: Stream(seeds[0], "upload").words(layer.name, layer.weights()["weight"], ring.dtype)
        for layer in EVERY_KIND.layers
        if isinstance(layer, Linear | Conv)
    }
    streams = [Words(seed, without if at == 0 else None) for at, seed in enumerate(seeds)]
    alice, bob, own = cast(list[Any], streams)
    names = [(layer.name, c.name) for layer in EVERY_KIND.layers for c in layer.corrections(32)]
    arrays = [array.copy() for _, array in graph.deal(EVERY_KIND, rows, masks, alice, bob, own)]
    return dict(zip(names, arrays, strict=True)), streams


def check_corrections() -> None:
    """Without its words of alice's stream a correction is the value; with them value - word, or value xor word, and
    no other correction depends on them. Party 0 draws the same words, and bob's stream has none of them."""
    rows, seeds = 3, [new_seed() for _ in range(3)]
    corrections, (alice, bob, own) = dealt(seeds, rows)
    assert {kind for kind, *_ in corrections} >= {"conv", "mul", "linear", "pool", "relu", "clip", "truncate", "table"}
    masks = {where for where in alice.drawn if where not in corrections}
    assert masks == set(bob.drawn), "both halves of every mask, and bob's stream has nothing else"
    assert not set(own.drawn) & set(corrections)
    for where, correction in corrections.items():
        values, _ = dealt(seeds, rows, where)
        shape, dtype = alice.drawn[where]
        words = Stream(seeds[0], where[0]).words(where[1], shape, dtype)
        assert words.shape == correction.shape and words.dtype.itemsize == correction.itemsize
        ring = Ring(3 if where in IN_SMALL_RINGS else 32)
        hidden = ring.wrap(values[where] - words), values[where] ^ words
        assert any(np.array_equal(correction, found) for found in hidden), f"{where} is not hidden"
        for other in corrections:
            assert other == where or np.array_equal(values[other], corrections[other]), f"{other} hides behind {where}"
    holder = Words(seeds[0])
    preparation = graph.Preparation(EVERY_KIND, 0, rows, cast(Any, holder), models())
    for layer in EVERY_KIND.layers:
        preparation.add(layer, b"")
    assert holder.drawn == alice.drawn, "alice and the dealer draw alike"


def models() -> dict[str, products.Weights]:
    """Weights of zero: what alice draws does not depend on them."""
    shapes = {layer.name: layer.weights() for layer in EVERY_KIND.layers if isinstance(layer, Linear | Conv)}
    zeros = {name: np.zeros(shape["weight"], dtype=np.int32) for name, shape in shapes.items()}
    return {name: products.Weights(zero, zero, None) for name, zero in zeros.items()}


def test_every_correction_is_hidden_by_words_of_its_own() -> None:
    check_corrections()


@pytest.mark.parametrize(
    "where", ["tables", "monomials", "lift", "select", "one_hot", "beta", "ranks", "row", "zero", "product"]
)
def test_a_correction_that_is_not_hidden_is_noticed(monkeypatch: Patch, where: str) -> None:
    bare(where)(monkeypatch)
    with pytest.raises(AssertionError, match="is not hidden"):
        check_corrections()


def test_one_word_for_a_whole_correction_is_noticed(monkeypatch: Patch) -> None:
    def fix(self: Any, name: str, value: Array, ring: Ring | None = None) -> None:
        words = uniform(ring or self.ring, self._alice, name, value.shape)
        self.corrections[name] = (ring or self.ring).wrap(value - np.broadcast_to(words[:, :1], value.shape))

    monkeypatch.setattr(Dealer, "fix", fix)
    with pytest.raises(AssertionError, match="is not hidden"):
        check_corrections()


def test_one_word_for_two_corrections_is_noticed(monkeypatch: Patch) -> None:
    """Here each behind words that mask a value as well."""

    def fix(self: Any, name: str, value: Array, ring: Ring | None = None) -> None:
        words = uniform(ring or self.ring, self._alice, "input" if name == "product" else "value", value.shape)
        self.corrections[name] = (ring or self.ring).wrap(value - words)

    monkeypatch.setattr(Dealer, "fix", fix)
    with pytest.raises(AssertionError, match="drawn twice"):
        check_corrections()
