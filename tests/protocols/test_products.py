"""Products on tiny rings, with all randomness: of shared weights and of two shared values."""

import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from moiety_shared.plan.layers import Conv, Linear, MatMul, Mul, Open
from moiety_shared.plan.local import Slice
from moiety_shared.protocols import matmul
from moiety_shared.protocols import product as products
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import alone, lockstep
from moiety_shared.protocols.product import Weights
from moiety_shared.ring import Array, Ring
from tests.protocols.bugs import Patch, bare, half_a_mask, no_mask, wrong
from tests.protocols.enumeration import Axis, Leak, Tape, Views, enumerate_axes, histogram
from tests.protocols.running import Run, integers, plan_of


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These are thousands of products of one number each, for which threads only cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    dealer = Dealer(ring, rows, Tape({"product": c0}), Tape())
    inputs = Tape({"input": r0}), Tape({"input": r1})
    mask = products.deal_open(Dealer(ring, rows, *inputs), opening)
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


# Mul and MatMul, and a wire that is opened once and read by two products.

Kind = type[Mul] | type[MatMul]


def check_products(k: int, pairs: tuple[tuple[int, int], ...], kind: Kind = Mul, *, same_mask: bool = False) -> None:
    """Wires 0 and 1 are opened; the products of the pairs are then local."""
    deal, prepare, evaluate = products.deal_mul, products.prepare_mul, products.evaluate_mul
    if kind is MatMul:
        deal, prepare, evaluate = matmul.deal, matmul.prepare, matmul.evaluate  # type: ignore[assignment]
    shape = (1, 1) if kind is MatMul else (1,)
    ring, wires = Ring(k), (0, 1)
    each = ("x0", "r0", "r1")
    columns = enumerate_axes([*(Axis(n, 1, k) for _ in wires for n in each), *(Axis("c", 1, k) for _ in pairs)])
    inputs = [dict(zip(each, columns[3 * i :], strict=False)) for i in wires]
    if same_mask:
        inputs[1] |= {"r0": inputs[0]["r0"], "r1": inputs[0]["r1"]}
    fixed, rows = columns[6:], len(columns[0])
    opening = Open(name="o", input="x", shape=shape)
    layers = [kind(name="m", left=f"o{a}", right=f"o{b}", left_shape=shape, right_shape=shape) for a, b in pairs]
    tapes = [(Tape({"input": i["r0"]}), Tape({"input": i["r1"]})) for i in inputs]
    masks = [products.deal_open(Dealer(ring, rows, *tape), opening) for tape in tapes]
    ready: list[tuple[products.PreparedProduct, products.PreparedProduct]] = []
    corrections = []
    for layer, (a, b), c in zip(layers, pairs, fixed, strict=True):
        dealer = Dealer(ring, rows, Tape({"product": c}), Tape())
        deal(dealer, layer, masks[a], masks[b])  # type: ignore[arg-type]
        corrections.append(dealer.corrections["product"])
        holders = Holder(ring, 0, rows, Tape({"product": c}), {}), Holder(ring, 1, rows, Tape(), dealer.corrections)
        ready.append(tuple(prepare(holder, layer) for holder in holders))  # type: ignore[arg-type]
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
                given_share = shares[-1][p].reshape(rows, *shape)
                sessions.append(alone(products.evaluate_open(ring, given_share, prepared)))
            opened.append(lockstep(*sessions))
        for (a, b), prepared in zip(pairs, ready, strict=True):
            out = [evaluate(ring, p, opened[a][p], opened[b][p], prepared[p]) for p in (0, 1)]
            assert (ring.wrap(out[0] + out[1]).reshape(-1) == secret[a] * secret[b] % (1 << k)).all(), (
                f"wrong for {secret}"
            )
        for p, view in enumerate(views):
            mine = [column for i in wires for column in (shares[i][p], inputs[i][f"r{p}"], opened[i][p].value)]
            view.add(secret, histogram([(column, k) for column in (*mine, *(corrections if p else fixed))]))
    for view in views:
        view.assert_uniform()


PAIRS = pytest.mark.parametrize("pairs", [((0, 1),), ((0, 0),), ((0, 1), (0, 0))], ids=["x z", "x x", "both"])


KINDS = pytest.mark.parametrize("kind", [Mul, MatMul])


@PAIRS
@KINDS
def test_products_are_exact_and_private(pairs: tuple[tuple[int, int], ...], kind: Kind) -> None:
    check_products(2, pairs, kind)


@PAIRS
@KINDS
@pytest.mark.parametrize(
    "plant",
    [no_mask("input"), half_a_mask, bare("product")],
    ids=["no mask", "half a mask", "a bare correction"],
)
def test_products_that_leak_are_noticed(
    monkeypatch: Patch, pairs: tuple[tuple[int, int], ...], kind: Kind, plant: Callable[[Patch], None]
) -> None:
    plant(monkeypatch)
    with pytest.raises(Leak):
        check_products(2, pairs, kind)


@KINDS
def test_one_mask_for_both_factors_is_noticed(kind: Kind) -> None:
    with pytest.raises(Leak):
        check_products(2, ((0, 1),), kind, same_mask=True)


@KINDS
def test_a_product_with_a_wrong_correction_is_noticed(monkeypatch: Patch, kind: Kind) -> None:
    wrong("product", lambda value: value + 1)(monkeypatch)
    with pytest.raises(AssertionError, match="wrong for"):
        check_products(2, ((0, 1),), kind)


# MatMul adds up products, of one place of the axes before the last two at a time.

HEADS = (2, 3, 5)


@pytest.mark.parametrize("bits", [32, 64])
def test_matrices_are_multiplied_place_by_place(bits: int) -> None:
    plan = plan_of(
        Open(name="o", input="input", shape=HEADS),
        Slice(name="some", input="input", shape=HEADS, axis=1, start=1, stop=3),
        Open(name="p", input="some", shape=(2, 2, 5)),
        MatMul(name="m", left="o", right="p", left_shape=HEADS, right_shape=(2, 2, 5)),
        shape=HEADS,
        bits=bits,
    )
    run = Run(plan, {})
    x = run.ring.wrap(integers((4, math.prod(HEADS)), bits, run.ring.dtype))
    whole = x.reshape(4, *HEADS).astype(object)
    exact = np.array([[a @ a[1:].T for a in row] for row in whole])
    got = run.assert_bit_exact(x).astype(object)
    assert ((got - exact) % (1 << bits) == 0).all()
