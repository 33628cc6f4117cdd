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
from moiety_shared.plan.lookups import ReLU
from moiety_shared.protocols import sign
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.verified import product, select
from moiety_shared.protocols.verified.bits import ProvableBits
from moiety_shared.protocols.verified.dealing import Authentic, AuthenticDealer
from moiety_shared.protocols.verified.product import Masked
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


class Whole(AuthenticDealer):
    """Keeps what is dealt: each value and its tag, not cut into shares."""

    def __init__(self, delta: Array, alice: Tape, bob: Tape) -> None:
        super().__init__(WORD, delta, alice, bob)
        self.delta, self.dealt = delta, dict[str, Authentic]()

    def authenticate(self, name: str, words: Array) -> None:
        self.dealt[name] = Authentic(words, WORD.multiply(self.delta.reshape(2, *[1] * (words.ndim - 1)), words))


@dataclass
class Given:
    """One party's holder, of shares that are given."""

    shares: Mapping[str, Authentic]

    def free(self, name: str, shape: tuple[int, ...]) -> Authentic:
        return self.shares[name]

    mask = fixed = free

    def tag(self, name: str, shape: tuple[int, ...]) -> Array:
        return self.shares[name].tag


def shared(whole: Whole, liar: int, masks: tuple[str, ...]) -> list[Any]:
    """Both parties' holders. The shares of `masks` are integers, and those of others words."""
    parties: list[dict[str, Authentic]] = [{}, {}]
    for name, (value, tag) in whole.dealt.items():
        mine = Authentic(WORD.of(np.full(value.shape[1:], OWN if name not in masks else OWN % 4)), np.full_like(tag, 1))
        rest = Authentic(WORD.wrap(value - mine.value), WORD.wrap(tag - mine.tag))
        pair = [mine, rest] if liar == 0 else [rest, mine]
        for party in (0, 1):
            share = pair[party]
            if name in masks:  # below the limb's end, as the honest half is what the tape enumerates
                share = share._replace(
                    value=np.full(value.shape[1:], OWN % 4) if party == liar else _integer(value) - OWN % 4
                )
            parties[party][name] = share
    return [Given(shares) for shares in parties]


def _integer(words: Array) -> Array:
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

    def both(self, words: Array) -> Array:
        return self.over_columns(self.over_rows(words))

    def row_sum(self) -> Array:
        return WORD.of(np.full(self.rows, 3))

    def of_weight(self, weight: Array) -> Array:
        return WORD.wrap(5 * WORD.of(weight.astype(np.int64)))

    def of_tags(self, pieces: Array) -> Array:
        return WORD.wrap(5 * WORD.placed([piece.astype(np.int64) for piece in pieces], WORD.limb))


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
    liar.sees(_integer(opened), WORD.bits)
    return opened


def verdict(openings: list[Opening], opened: Array, liar: Liar, message: int) -> None:
    checks = [RowCheck(party=party) for party in (0, 1)]
    for check, opening in zip(checks, openings, strict=True):
        assert opening.claim is not None
        opening.claim.settle(check, opening.share, opened)
    total = WORD.wrap(checks[0].sigmas[0] + checks[1].sigmas[0] + WORD.of(liar.adds(message)))
    liar.sees((total == 0).all(axis=0), 1)


def ones(delta: list[Array]) -> list[Authentic]:
    return [Authentic(WORD.of(np.array(party)), delta[party]) for party in (0, 1)]


def product_views(cheater: int, keys: Sequence[int] = EVERY) -> Iterator[tuple[Any, Array]]:
    """The opening of x, and the product: ((x, w), what the liar sees), a row for each assignment."""
    given = strategies(3)
    axes = columns({"strategy": len(given), "x": 4, "half": 4, "z0": 4, "z1": 4})
    rows = len(axes["x"])
    tapes = [Tape(), Tape()]
    tapes[1 - cheater].columns |= {"input": axes["half"], "product/0": axes["z0"], "product/1": axes["z1"]}
    tapes[cheater].columns |= {"input": np.full(rows, OWN % 4)}
    for w, half, key in every(range(4), range(4), keys):
        delta = [WORD.of(np.array(value)) for value in ((OWN, key) if cheater == 0 else (key, OWN))]
        for tape in tapes:
            tape.drawn.clear()
        dealer = Whole(WORD.wrap(delta[0] + delta[1]), *tapes)
        r = dealer.mask("input", (rows, 1))
        s = np.array([[half + OWN % 4]])
        product.deal_weight(dealer, WORD, s)
        product.deal(dealer, WORD, LINEAR, r, s, np.array([1]))
        holders = shared(dealer, cheater, ("input", "weight"))
        masked, bias = (w + s) & 3, np.array([2])
        liar = Liar(given, axes["strategy"])
        liar.sees(np.broadcast_to(masked, (rows, 1)), 2)
        x = (axes["x"][:, None] + r + liar.adds(0)[:, None]) & 3
        liar.sees(x, 2)
        running: list[tuple[Generator[Opening, Array, Array], Opening]] = []
        for party, (holder, one) in enumerate(zip(holders, ones(delta), strict=True)):
            weights = product.prepare_weight(holder, WORD, party, masked, bias, holder.shares["weight"].value)
            mask = holder.mask("input", (rows, 1))
            ready = product.prepare(holder, WORD, party, LINEAR, mask.value, weights, False)
            step = product.evaluate(WORD, one, LINEAR, Masked(x, mask), ready, weights)
            running.append((step, next(step)))
        openings = [opening for _, opening in running]
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
        delta = [WORD.of(np.array(value)) for value in ((OWN, key) if cheater == 0 else (key, OWN))]
        for tape in tapes:
            tape.drawn.clear()
        dealer, looked_up = Whole(WORD.wrap(delta[0] + delta[1]), *tapes), Dealer(Ring(32), rows, *tapes)
        select.deal(dealer, looked_up, WORD, layer, rho)
        holders, signs = shared(dealer, cheater, ("result",)), _signs(looked_up, tapes, rows, cheater, layer)
        liar = Liar(given, axes["strategy"])
        opened = WORD.wrap(WORD.of(y) + rho + WORD.of(liar.adds(0)[:, None]))
        liar.sees(_integer(opened), WORD.bits)
        nothing = ProvableBits(np.zeros(0), np.zeros(0))
        steps = [
            select.evaluate(WORD, one, party, layer, opened, select.prepare(holder, layer, rows, signs[party], nothing))
            for party, (holder, one) in enumerate(zip(holders, ones(delta), strict=True))
        ]
        openings = [next(step) for step in steps]
        for message in (1, 2):  # bits
            bits = openings[0].share ^ openings[1].share ^ (liar.adds(message)[:, None] & 1).astype(np.uint8)
            liar.sees(bits, 1)
            openings = [step.send(bits) for step in steps]
        verdict(openings, opened_words(openings, liar, 3), liar, 4)
        for number, secret in enumerate(secrets):
            yield secret, liar.codes()[axes["y"] == number]


def _signs(looked_up: Dealer, tapes: list[Tape], rows: int, cheater: int, layer: ReLU) -> list[tuple[Array, Array]]:
    """Both parties' look-ups, of which the liar's are constant but for the 1 that bob holds."""
    found = []
    for party in (0, 1):
        tape = Tape(tapes[party].columns)
        found.append(sign.prepare(Holder(Ring(32), party, rows, tape, looked_up.corrections), layer))
    tables, words = (one ^ other for one, other in zip(*found, strict=True))
    constant = np.full_like(words, 1 << layer.lookups + 1 + layer.monomials if cheater else 0)
    mine, rest = (np.zeros_like(tables), constant), (tables, words ^ constant)
    return [mine, rest] if cheater == 0 else [rest, mine]


def assert_one_histogram(views: Iterator[tuple[Any, Array]], honest: int) -> None:
    """Raises Leak unless all secrets have one histogram. Strategy 0, whose codes are below `honest`, is accepted."""
    counts: dict[Any, Any] = {}
    for secret, codes in views:
        counts[secret] = counts.get(secret, 0) + np.bincount(codes, minlength=16 * honest)
    first, *others = counts.values()
    if any(not np.array_equal(other, first) for other in others):
        raise Leak("what a liar sees depends on a secret")
    assert not first[:honest:2].any() and first[1:honest:2].all()
