"""The protocols on words of 4 bits, values of 2: every row of a batch is one assignment of all that a liar lacks.

A liar's own shares and tags are uniform, and independent of everything else that is dealt: they stay constant here, and
the honest party's are what is missing to the whole. So one histogram of what the liar sees, the honest party's verdict
included, for every secret means that she learns nothing, whatever she does.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product as every
from typing import Any

import numpy as np

from moiety_shared.plan.layers import Linear
from moiety_shared.plan.lookups import Comparison, ReLU
from moiety_shared.protocols import sign
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.verified import product, relu
from moiety_shared.protocols.verified.bits import ProvableBits
from moiety_shared.protocols.verified.layer import LayerDealer, LayerMasks, ProvableSigns, RunningParty
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array, Ring
from tests.protocols.enumeration import Leak, Tape

WORD = Word(2, 2)
SIZE = 1 << WORD.bits
EVERY = range(SIZE)
"""The honest party's shares of Delta."""
LINEAR = Linear(name="l", input="o", shape=(1,), out_features=1)
RELU = ReLU(name="r", input="l", shape=(1,), shift=0, opened_bits=2, range_bits=1, digit_bits=1)
PRODUCT_VIEWS = 1 << 2 + 2 + 4 + 1
"""How many views a product may give: w^, x^, y^ and the verdict."""
RELU_VIEWS = 1 << 4 + 1 + 1 + 4 + 1
OWN = 5  # the liar's own shares and tags


class Whole(LayerDealer):
    """Keeps what is dealt: each value and its tag, not cut into shares."""

    def __init__(self, rows: int, delta: Array, tapes: Sequence[Any], constants: Mapping[str, LayerMasks]) -> None:
        nobody: Any = None
        super().__init__(WORD, delta, nobody, rows, (tapes[0], tapes[1]), constants, None)
        self.delta, self.dealt = delta, dict[str, Authentic]()
        self.looked_up = Dealer(Ring(32), rows, *tapes)

    def authenticate(self, name: str, words: Array) -> None:
        tags = WORD.multiply(self.delta.reshape(2, *[1] * (words.ndim - 1)), words)
        self.dealt[name] = Authentic(words, tags, WORD.bits)

    def signs(self, layer: Comparison, r: Array) -> Array:
        return sign.deal(self.looked_up, layer, r).astype(np.int64)


@dataclass
class Given:
    """One party's holder, of shares that are given."""

    party: int
    rows: int
    shares: Mapping[str, Authentic]
    looked_up: tuple[Array, Array] | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    word: Word = WORD
    output: None = None

    def free(self, name: str, shape: tuple[int, ...]) -> Authentic:
        return self.shares[name]

    mask = fixed = free

    def covered(self, shape: tuple[int, ...]) -> Authentic:
        return self.shares["result"]

    def result(self, shape: tuple[int, ...]) -> Authentic:
        return self.shares["result"]

    def tag(self, name: str, shape: tuple[int, ...]) -> Array:
        return self.shares[name].tag

    def signs(self, layer: Comparison) -> ProvableSigns:
        assert self.looked_up is not None
        return ProvableSigns(*self.looked_up, ProvableBits(np.zeros(0), np.zeros(0)))


def shared(whole: Whole, liar: int, masks: tuple[str, ...]) -> list[Any]:
    """Both parties' holders. The shares of `masks` are integers of 2 bits, and those of others words."""
    parties: list[dict[str, Authentic]] = [{}, {}]
    for name, (value, tag, _) in whole.dealt.items():
        small = name in masks
        bits = WORD.low if small else WORD.bits
        mine = Authentic(WORD.of(np.full(value.shape[1:], OWN % 4 if small else OWN)), np.full_like(tag, 1), bits)
        rest = Authentic(WORD.wrap(value - mine.value), WORD.wrap(tag - mine.tag), bits)
        for party, share in enumerate([mine, rest] if liar == 0 else [rest, mine]):
            parties[party][name] = share
    return [Given(party, whole.rows, shares) for party, shares in enumerate(parties)]


def integer(words: Array) -> Array:
    whole: Array = words[0] + (words[1] << WORD.limb)
    return whole


class RowCombination:
    """Each row is a run of its own, so there is a combination for each."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def over_rows(self, words: Array) -> Array:
        return WORD.wrap(3 * words)

    def over_columns(self, words: Array) -> Array:
        return WORD.wrap(5 * words.sum(axis=-1))

    def both(self, *words: Array) -> Array:
        return np.stack([self.over_columns(self.over_rows(each)) for each in words], axis=1)

    def inputs(self, layer: Linear, words: Array, bits: int) -> Array:
        return self.over_rows(words)

    def of_weight(self, layer: Linear, weight: Array) -> Array:
        return WORD.wrap(5 * WORD.of(weight.astype(np.int64)))

    def of_tags(self, layer: Linear, tags: Array) -> Array:
        return WORD.wrap(5 * tags.astype(np.int64))


@dataclass
class RowCheck:
    word: Word = WORD
    party: int = 0
    sigmas: list[Array] = field(default_factory=list)

    @property
    def coins(self) -> "RowCheck":
        return self

    def combination(self, layer: str, rows: int, columns: int) -> RowCombination:
        return RowCombination(rows)

    def add_words(self, sigma: Array) -> None:
        self.sigmas.append(sigma)


@dataclass(frozen=True)
class Strategy:
    """What is added to the i-th message of the liar, and at last to her word of the check: a constant, and a multiple
    of what she saw before."""

    constants: tuple[int, ...]
    factors: tuple[int, ...]


def strategies(messages: int) -> list[Strategy]:
    none = (0,) * messages
    alone = [tuple(value * (i == j) for i in range(messages)) for j in range(messages) for value in (1, SIZE // 2)]
    honest = [Strategy(none, none)]
    adaptive = [Strategy(none, (3,) * messages), Strategy((1,) * messages, (0, *(5,) * (messages - 1)))]
    return honest + [Strategy(constants, none) for constants in alone] + adaptive


def columns(counts: Mapping[str, int]) -> dict[str, Array]:
    """Every combination of numbers below the counts, one column for each."""
    grid = np.meshgrid(*(np.arange(count) for count in counts.values()), indexing="ij")
    return {name: axis.reshape(-1) for name, axis in zip(counts, grid, strict=True)}


@dataclass
class Liar:
    """What she sees, and what she adds to the messages."""

    given: list[Strategy]
    chosen: Array
    seen: list[Array] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)

    def adds(self, message: int) -> Array:
        constants = np.array([strategy.constants[message] for strategy in self.given])[self.chosen]
        factors = np.array([strategy.factors[message] for strategy in self.given])[self.chosen]
        added: Array = constants + factors * (self.seen[-1] if self.seen else 0)
        return added

    def sees(self, view: Array, bits: int) -> None:
        self.seen.append(view.astype(np.int64).reshape(-1))
        self.widths.append(bits)

    def codes(self) -> Array:
        """All that was seen, and the strategy, as one number. Its lowest bit says whether she was accepted."""
        code = self.chosen
        for view, bits in zip(self.seen, self.widths, strict=True):
            code = code << bits | view
        return code


def opened_words(openings: list[Opening], liar: Liar, message: int) -> Array:
    opened = WORD.wrap(openings[0].share + openings[1].share + WORD.of(liar.adds(message)[:, None]))
    liar.sees(integer(opened), WORD.bits)
    return opened


def verdict(openings: list[Opening], opened: Array, liar: Liar, message: int) -> None:
    checks = [RowCheck(party=party) for party in (0, 1)]
    for check, opening in zip(checks, openings, strict=True):
        assert opening.claim is not None
        opening.claim.settle(check, opening.share, opened)
    total = WORD.wrap(checks[0].sigmas[0] + checks[1].sigmas[0] + WORD.of(liar.adds(message)))
    liar.sees((total == 0).all(axis=0), 1)


def running(party: int, delta: list[Array], weights: dict[str, Any] | None = None) -> RunningParty:
    return RunningParty(WORD, party, Authentic(WORD.of(np.array(party)), delta[party], 1), weights or {})


def product_views(cheater: int, keys: Sequence[int] = EVERY) -> Iterator[tuple[Any, Array]]:
    """The opening of x, and the product: ((x, w), what the liar sees), a row for each assignment."""
    given = strategies(3)
    axes = columns({"strategy": len(given), "x": 4, "half": 4, "z0": 4, "z1": 4})
    rows = len(axes["x"])
    tapes = [Tape(), Tape()]
    tapes[1 - cheater].columns |= {"input": axes["half"], "product/0": axes["z0"], "product/1": axes["z1"]}
    tapes[cheater].columns |= {"input": np.full(rows, OWN % 4)}
    for w, half, key in every(range(4), range(4), keys):
        delta = begun(tapes, cheater, key)
        s = np.array([[half + OWN % 4]])
        dealer = Whole(rows, WORD.wrap(delta[0] + delta[1]), tapes, {"l": {"weight": s, "bias": np.array([1])}})
        r = dealer.mask("input", (rows, 1))
        product.deal_weight(dealer, s)
        product.deal(dealer, LINEAR, DealtWire(WORD.lowest(r), r, WORD.low + 1))
        holders = shared(dealer, cheater, ("input", "weight"))
        masked = {"weight": (w + s) & 3, "bias": np.array([2])}
        liar = Liar(given, axes["strategy"])
        liar.sees(np.broadcast_to(masked["weight"], (rows, 1)), 2)
        x = (axes["x"][:, None] + WORD.lowest(r) + liar.adds(0)[:, None]) & 3
        liar.sees(x, 2)
        openings = list[Opening]()
        for party, holder in enumerate(holders):
            halves = {"weight": integer(holder.shares["weight"].value)}
            holder.weights["l"] = product.prepare_weight(holder, delta[party], masked, halves)
            ready, _ = product.prepare(holder, LINEAR, holder.mask("input", (rows, 1)))
            openings.append(next(product.evaluate(running(party, delta, holder.weights), LINEAR, ready, x)))
        verdict(openings, opened_words(openings, liar, 1), liar, 2)
        for secret in range(4):
            yield (secret, w), liar.codes()[axes["x"] == secret]


def relu_views(cheater: int, keys: Sequence[int] = EVERY, layer: ReLU = RELU) -> Iterator[tuple[Any, Array]]:
    """A ReLU on an open wire: (y, what the liar sees). She may lie about y^, the looked-up bits, the signs, h^ and her
    word of the check."""
    given = [*strategies(5)[::2], strategies(5)[-1]]
    secrets = (0, 9, 6, 15)
    counts = {"strategy": len(given), "y": 4, "rho": SIZE, "a": 2, "c": 2, "result": 4, "lift": 4, "select": 4}
    axes = columns(counts)
    rows, zero = len(axes["y"]), np.zeros_like(axes["y"])
    tapes = [Tape(), Tape()]
    tapes[1 - cheater].columns |= {"result": axes["result"], "masks": axes["a"] | axes["c"] << 1}
    tapes[cheater].columns |= {"result": np.full(rows, OWN % 4)}
    tapes[1 - cheater].columns |= {
        "lift/1": np.stack((axes["lift"], zero), axis=1),
        "select/1": np.stack((zero, axes["select"], zero), axis=1),
    }
    y, rho = np.array(secrets)[axes["y"]][:, None], WORD.of(axes["rho"][:, None])
    for key in keys:
        delta = begun(tapes, cheater, key)
        dealer = Whole(rows, WORD.wrap(delta[0] + delta[1]), tapes, {})
        relu.deal(dealer, layer, DealtWire(WORD.lowest(rho)))
        holders = shared(dealer, cheater, ("result",))
        look_up(holders, dealer, tapes, cheater, layer)
        liar = Liar(given, axes["strategy"])
        opened = WORD.wrap(WORD.of(y) + rho + WORD.of(liar.adds(0)[:, None]))
        liar.sees(integer(opened), WORD.bits)
        steps = [
            relu.evaluate(running(party, delta), layer, relu.prepare(holder, layer, None)[0], WORD.lowest(opened))
            for party, holder in enumerate(holders)
        ]
        openings = after_bits(steps, liar)
        verdict(openings, opened_words(openings, liar, 3), liar, 4)
        for number, secret in enumerate(secrets):
            yield secret, liar.codes()[axes["y"] == number]


def begun(tapes: list[Tape], cheater: int, key: int) -> list[Array]:
    """Both parties' halves of Delta, the honest one's `key`, for another dealing from the same tapes."""
    for tape in tapes:
        tape.drawn.clear()
    return [WORD.of(np.array(value)) for value in ((OWN, key) if cheater == 0 else (key, OWN))]


def after_bits(steps: Sequence[Generator[Opening, Array, Any]], liar: Liar) -> list[Opening]:
    """What both parties open after the looked-up bits and the signs, of which she sees both and may lie in both."""
    openings = [next(step) for step in steps]
    for message in (1, 2):
        bits = openings[0].share ^ openings[1].share ^ (liar.adds(message)[:, None] & 1).astype(np.uint8)
        liar.sees(bits, 1)
        openings = [step.send(bits) for step in steps]
    return openings


def look_up(holders: Sequence[Any], dealer: Whole, tapes: list[Tape], cheater: int, layer: Comparison) -> None:
    """Give both parties their look-ups, of which the liar's are constant but for the 1 that bob holds."""
    rows, found = dealer.rows, []
    for party in (0, 1):
        tape = Tape(tapes[party].columns)
        found.append(sign.prepare(Holder(Ring(32), party, rows, tape, dealer.looked_up.corrections), layer))
    tables, words = (one ^ other for one, other in zip(*found, strict=True))
    constant = np.full_like(words, 1 << layer.lookups + 1 + layer.monomials if cheater else 0)
    mine, rest = (np.zeros_like(tables), constant), (tables, words ^ constant)
    both = [mine, rest] if cheater == 0 else [rest, mine]
    for holder, looked_up in zip(holders, both, strict=True):
        holder.looked_up = looked_up


def assert_one_histogram(views: Iterator[tuple[Any, Array]], honest: int, *, every_view: bool = True) -> None:
    """Raises Leak unless all secrets have one histogram. Strategy 0, whose codes are below `honest`, is accepted, in
    every view unless some cannot be."""
    counts: dict[Any, Any] = {}
    for secret, codes in views:
        counts[secret] = counts.get(secret, 0) + np.bincount(codes, minlength=16 * honest)
    first, *others = counts.values()
    if any(not np.array_equal(other, first) for other in others):
        raise Leak("what a liar sees depends on a secret")
    assert not first[:honest:2].any() and (first[1:honest:2].all() or not every_view)
