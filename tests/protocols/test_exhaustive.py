"""On tiny rings: all inputs, all randomness. The result is exactly the functionality's, and what a party sees is
distributed alike for every secret. Then the same tests with a bug planted: they must notice."""

from collections.abc import Callable

import numpy as np
import pytest

from moiety_shared import reference
from moiety_shared.plan import Linear, ReLU, Truncate
from moiety_shared.protocols import linear, relu, sign, truncation
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import lockstep
from moiety_shared.ring import Array, Ring
from tests.protocols.enumeration import Leak, Tape, assert_same_views, grid, histogram


def signed_range(bits: int) -> range:
    return range(-(1 << bits), 1 << bits)


# Truncation: every share, every correction, every opening.


def truncation_views(k: int, f: int) -> tuple[dict[object, Array], dict[object, Array]]:
    ring, layer = Ring(k), Truncate(name="t", input="x", size=1, frac_bits=f)
    r0, r1, t0, t1, y0 = grid(*[1 << k] * 5)
    alice_views: dict[object, Array] = {}
    bob_views: dict[object, Array] = {}
    for y in signed_range(k - 2):
        rows = len(r0)
        trunc = np.stack((t0, t1), axis=1)
        dealer = Dealer(ring, rows, Tape({"value": r0, "trunc": trunc}), Tape({"value": r1}), Tape())
        truncation.deal(dealer, layer)
        alice = Holder(ring, 0, rows, Tape({"value": r0, "trunc": trunc}), {})
        bob = Holder(ring, 1, rows, Tape({"value": r1}), dealer.corrections)
        prepared = [truncation.prepare(holder, layer) for holder in (alice, bob)]
        share_0 = y0.astype(np.int32)[:, None]
        share_1 = ring.wrap(np.int32(y) - share_0)
        opened: list[Array] = []
        out = lockstep(
            ring,
            truncation.evaluate(ring, 0, layer, share_0, prepared[0]),
            truncation.evaluate(ring, 1, layer, share_1, prepared[1]),
            lambda _, value: opened.append(value),  # noqa: B023
        )
        result = ring.signed(ring.wrap(out[0] + out[1]))
        dither = reference.dither_of(opened[0], f)
        assert np.array_equal(result, reference.truncate(np.full_like(result, y), f, dither))
        alice_views[y] = histogram(share_0, r0, t0, t1, opened[0], bits=k)
        corrections = dealer.corrections["trunc"]
        bob_views[y] = histogram(share_1, r1, corrections[:, 0], corrections[:, 1], opened[0], bits=k)
    return alice_views, bob_views


@pytest.mark.parametrize(("k", "f"), [(4, 1), (4, 2), (3, 1)])
def test_truncation_is_exact_and_private(k: int, f: int) -> None:
    for views in truncation_views(k, f):
        assert_same_views(views)


def test_truncation_without_its_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dealer, "mask", no_mask(Dealer.mask))
    monkeypatch.setattr(Holder, "mask", no_mask(Holder.mask))
    with pytest.raises(Leak):
        for views in truncation_views(4, 1):
            assert_same_views(views)


def no_mask(original: Callable[..., Array]) -> Callable[..., Array]:
    return lambda self, name, shape: np.zeros_like(original(self, name, shape))


# A mask used for two wires: only a pair of wires can show it.


def pair_views(k: int) -> dict[object, Array]:
    ring, layer = Ring(k), Truncate(name="t", input="x", size=2, frac_bits=1)
    r = np.stack(grid(1 << k, 1 << k), axis=1)
    views: dict[object, Array] = {}
    for a in signed_range(k - 2):
        for b in signed_range(k - 2):
            dealer = Dealer(ring, len(r), Tape({"value": r}), Tape(), Tape())
            mask = dealer.mask("value", (2,))
            opened = ring.wrap(np.array([[a, b]], dtype=np.int32) + mask)
            views[a, b] = histogram(opened[:, 0], opened[:, 1], bits=k)
    assert layer.size == 2
    return views


def test_two_wires_under_two_masks_are_private() -> None:
    assert_same_views(pair_views(4))


def test_one_mask_for_two_wires_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Dealer.mask
    monkeypatch.setattr(Dealer, "mask", lambda self, name, shape: np.repeat(original(self, name, shape)[:, :1], 2, 1))
    with pytest.raises(Leak):
        assert_same_views(pair_views(4))


# ReLU: every mask of the wire and every bit that only the dealer knows.

RELUS = [
    pytest.param(6, ReLU(name="r", input="x", size=1, frac_bits=2, range_bits=4, digit_bits=1), id="2 digits of 1 bit"),
    pytest.param(
        6, ReLU(name="r", input="x", size=1, frac_bits=0, range_bits=4, digit_bits=2), id="2 digits of 2 bits"
    ),
    pytest.param(6, ReLU(name="r", input="x", size=1, frac_bits=1, range_bits=4, digit_bits=2), id="a short top digit"),
    pytest.param(5, ReLU(name="r", input="x", size=1, frac_bits=0, range_bits=3, digit_bits=1), id="3 digits"),
    pytest.param(6, ReLU(name="r", input="x", size=1, frac_bits=0, range_bits=4, digit_bits=1), id="4 digits"),
    pytest.param(
        7, ReLU(name="r", input="x", size=1, frac_bits=2, range_bits=4, digit_bits=2), id="range below the ring"
    ),
    pytest.param(8, ReLU(name="r", input="x", size=1, frac_bits=3, range_bits=6, digit_bits=3), id="1 digit of 3 bits"),
]


def relu_views(k: int, layer: ReLU) -> dict[object, Array]:
    """What is opened, for every input; what else the parties hold are one-time shares (see below)."""
    ring = Ring(k)
    r, secret = grid(1 << k, 256)
    rows = len(r)
    views: dict[object, Array] = {}
    for y in range(-(1 << layer.range_bits), (1 << layer.range_bits) - (1 << layer.frac_bits) + 1):
        dealer = Dealer(ring, rows, Tape({"value": r}), Tape(), Tape({"masks": secret}))
        relu.deal(dealer, layer)
        prepared = [
            relu.prepare(Holder(ring, 0, rows, Tape({"value": r}), {}), layer),
            relu.prepare(Holder(ring, 1, rows, Tape(), dealer.corrections), layer),
        ]
        share = ring.wrap(np.full((rows, 1), y, dtype=np.int32))
        opened: list[Array] = []
        out = lockstep(
            ring,
            relu.evaluate(ring, 0, layer, share, prepared[0]),
            relu.evaluate(ring, 1, layer, np.zeros_like(share), prepared[1]),
            lambda _, value: opened.append(value),  # noqa: B023
        )
        result = ring.signed(ring.wrap(out[0] + out[1]))
        dither = reference.dither_of(opened[0], layer.frac_bits)
        expected = np.maximum(reference.truncate(np.full_like(result, y), layer.frac_bits, dither), 0)
        assert np.array_equal(result, expected), f"wrong for {y}"
        views[y] = histogram(*opened, bits=(k, layer.lookups, 1))
    return views


@pytest.mark.parametrize(("k", "layer"), RELUS)
def test_relu_is_exact_and_what_is_opened_is_uniform(k: int, layer: ReLU) -> None:
    views = relu_views(k, layer)
    assert_same_views(views)
    counts = views[0][views[0] > 0]
    assert len(counts) == 2 ** (k + layer.lookups + 1), "every view occurs"
    assert len(set(counts.tolist())) == 1, "and all equally often"


@pytest.mark.parametrize("kept", [0x7F, 0x80, 0xFE], ids=["no beta", "no a and e", "no a_0"])
def test_relu_with_a_mask_bit_left_out_is_noticed(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    original = Dealer.secret_bytes
    monkeypatch.setattr(Dealer, "secret_bytes", lambda self, name, shape: original(self, name, shape) & np.uint8(kept))
    k, layer = RELUS[0].values
    with pytest.raises(Leak):
        assert_same_views(relu_views(k, layer))  # type: ignore[arg-type]


def test_relu_with_a_wrong_table_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = sign.monomial_words
    monkeypatch.setattr(sign, "monomial_words", lambda digits, dtype: original(digits, dtype) & ~np.uint8(2))
    k, layer = RELUS[0].values
    with pytest.raises(AssertionError, match="wrong for"):
        relu_views(k, layer)  # type: ignore[arg-type]


def test_every_correction_of_relu_is_hidden_by_words_of_its_own() -> None:
    """bob's corrections are value - word or value xor word, with a word of alice's stream that is used for nothing
    else: whatever the value, each correction takes every value once as the word does."""
    ring, layer = Ring(4), RELUS[0].values[1]
    assert isinstance(layer, ReLU)
    shapes = {c.name: c.shape for c in layer.corrections(4)}
    r, word = grid(16, 16)
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        column = np.repeat(word[:, None], size, axis=1)
        tape = Tape({"value": r, name: column})
        dealer = Dealer(ring, len(r), tape, Tape(), Tape({"masks": r * 11 % 256}))
        relu.deal(dealer, layer)
        assert sorted(tape.drawn) == sorted([*shapes, "value"]), "each name once"
        low = dealer.corrections[name].reshape(16, 16, size) & 15
        for wire in range(size):
            assert (np.sort(low[:, :, wire], axis=1) == np.arange(16)).all(), name


# Linear: weights and inputs, both shared, everything each party sees.


def linear_views(k: int) -> tuple[dict[object, Array], dict[object, Array]]:
    ring = Ring(k)
    layer = Linear(name="l", input="x", in_features=1, out_features=1, weight_frac_bits=0, bias=False)
    size = 1 << k
    r0, r1, c0, x0 = grid(size, size, size, size)
    rows = len(r0)
    alice_views: dict[object, Array] = {}
    bob_views: dict[object, Array] = {}
    for x in range(size):
        for w in range(size):
            seen: list[list[Array]] = [[], []]
            for s0 in range(size):
                for s1 in range(size):
                    for w0 in range(size):
                        collect_linear(ring, layer, (x, w), (s0, s1, w0), (r0, r1, c0, x0), seen)
            assert len(seen[0]) == size**3
            alice_views[x, w] = np.sum(seen[0], axis=0)
            bob_views[x, w] = np.sum(seen[1], axis=0)
    assert rows == size**4
    return alice_views, bob_views


def collect_linear(
    ring: Ring,
    layer: Linear,
    secrets: tuple[int, int],
    weights: tuple[int, int, int],
    columns: tuple[Array, Array, Array, Array],
    seen: list[list[Array]],
) -> None:
    def one(value: int) -> Array:
        return np.array([[value]], dtype=np.int32)

    (x, w), (s0, s1, w0), (r0, r1, c0, x0) = secrets, weights, columns
    rows, w1 = len(r0), (w - w0) % (1 << ring.bits)
    models = lockstep_weights(ring, (one(w0), one(w1)), (one(s0), one(s1)))
    dealer = Dealer(ring, rows, Tape({"input": r0, "product": c0}), Tape({"input": r1}), Tape())
    linear.deal(dealer, layer, ring.wrap(one(s0) + one(s1)))
    prepared = [
        linear.prepare(Holder(ring, 0, rows, Tape({"input": r0, "product": c0}), {}), layer, models[0]),
        linear.prepare(Holder(ring, 1, rows, Tape({"input": r1}), dealer.corrections), layer, models[1]),
    ]
    share_0 = x0.astype(np.int32)[:, None]
    share_1 = ring.wrap(np.int32(x) - share_0)
    opened: list[Array] = []
    out = lockstep(
        ring,
        linear.evaluate(ring, layer, share_0, prepared[0], models[0]),
        linear.evaluate(ring, layer, share_1, prepared[1], models[1]),
        lambda _, value: opened.append(value),
    )
    assert (ring.wrap(out[0] + out[1]) == x * w % (1 << ring.bits)).all()

    def constant(value: int) -> Array:
        return np.full(rows, value)

    masked = constant(int(models[0].masked[0, 0]))
    bits = ring.bits
    seen[0].append(histogram(constant(w0), constant(s0), masked, share_0, r0, c0, opened[0], bits=bits))
    c1 = dealer.corrections["product"]
    seen[1].append(histogram(constant(w1), constant(s1), masked, share_1, r1, c1, opened[0], bits=bits))


def lockstep_weights(
    ring: Ring, shares: tuple[Array, Array], masks: tuple[Array, Array]
) -> tuple[linear.Weights, linear.Weights]:
    sessions = [linear.mask_weights(ring, p, shares[p], masks[p], None) for p in (0, 1)]
    return lockstep(ring, *sessions)  # type: ignore[arg-type, return-value]


def test_linear_is_exact_and_private() -> None:
    for views in linear_views(2):
        assert_same_views(views)


def test_linear_without_its_weight_mask_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = linear.mask_weights

    def bare(ring: Ring, party: int, weight: Array, mask: Array, bias: Array | None):  # type: ignore[no-untyped-def]
        return original(ring, party, weight, mask * 0, bias)

    monkeypatch.setattr(linear, "mask_weights", bare)
    with pytest.raises(AssertionError):
        for views in linear_views(2):
            assert_same_views(views)
