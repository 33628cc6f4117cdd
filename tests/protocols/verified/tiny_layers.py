"""A convolution and a max pool on words of 4 bits, as tiny.py has products and ReLUs."""

from collections.abc import Iterator, Sequence
from itertools import product as every
from typing import Any

import numpy as np
import pytest

from moiety_shared.plan.layers import Conv
from moiety_shared.plan.lookups import MaxPool
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.verified import max_pool, product
from moiety_shared.protocols.verified.wires import DealtWire
from moiety_shared.ring import Array
from tests.protocols.enumeration import Tape
from tests.protocols.verified import tiny
from tests.protocols.verified.tiny import EVERY, OWN, WORD, Liar, RowCombination, Whole, columns, running, strategies

CONV = Conv(name="l", input="o", shape=(1, 1, 1), out_channels=1, kernel=(1, 2), padding=(0, 1))
"""One value at the edge of two windows: y = (w_1 x, w_0 x)."""
POOL = MaxPool(
    name="p", input="l", shape=(1, 1, 2), kernel=(1, 2), stride=(1, 2), output_size=(1, 1),
    shift=0, opened_bits=2, range_bits=1, digit_bits=1,
)  # fmt: skip
CONV_VIEWS = 1 << 2 + 2 + 8 + 1
POOL_VIEWS = 1 << 4 + 1 + 1 + 4 + 1
_COINS = np.array([3, 1])  # psi of the two places


class PlaceCombination(RowCombination):
    """A run's coins of two places and one channel."""

    def both(self, *words: Array) -> Array:
        return np.stack([WORD.wrap(5 * (each.reshape(2, -1, 2) * _COINS).sum(axis=-1)) for each in words], axis=1)

    def inputs(self, layer: Any, words: Array, bits: int) -> Array:
        return WORD.wrap(words.reshape(2, -1, 1) * _COINS[::-1])

    def of_weight(self, layer: Any, weight: Array) -> Array:
        return super().of_weight(layer, weight).reshape(2, 1, 2)

    def of_tags(self, layer: Any, tags: Array) -> Array:
        return super().of_tags(layer, tags).reshape(2, 1, 2)


def conv_views(cheater: int, keys: Sequence[int] = EVERY) -> Iterator[tuple[Any, Array]]:
    """The opening of x, and a convolution: ((x, w), what the liar sees), a row for each assignment."""
    given = strategies(3)[::4]
    secrets = (0, 3)
    axes = columns({"strategy": len(given), "x": len(secrets), "half": 4, "a": 4, "b": 4, "c": 4, "d": 4})
    rows = len(axes["x"])
    tapes = [Tape(), Tape()]
    drawn = {
        f"product/{limb}": np.stack((axes[one], axes[other]), axis=1)
        for limb, one, other in [(0, "a", "b"), (1, "c", "d")]
    }
    tapes[1 - cheater].columns |= {"input": axes["half"], **drawn}
    tapes[cheater].columns |= {"input": np.full(rows, OWN % 4)}
    x = np.array(secrets)[axes["x"]].reshape(rows, 1, 1, 1)
    for w, half, key in every(((0, 1), (3, 1)), range(4), keys):  # the second weight is no secret
        delta = tiny.begun(tapes, cheater, key)
        s = np.array([[[[half, 2]]]]) + OWN % 4
        dealer = Whole(rows, WORD.wrap(delta[0] + delta[1]), tapes, {"l": {"weight": s, "bias": np.array([1])}})
        r = dealer.mask("input", (rows, 1, 1, 1))
        product.deal_weight(dealer, s)
        product.deal(dealer, CONV, DealtWire(WORD.lowest(r), r, WORD.low + 1))
        masked = {"weight": (np.array(w).reshape(s.shape) + s) & 3, "bias": np.array([2])}
        liar = Liar(given, axes["strategy"])
        liar.sees(np.broadcast_to(masked["weight"][..., 0], x.shape), 2)
        opened = (x + WORD.lowest(r) + liar.adds(0).reshape(x.shape)) & 3
        liar.sees(opened, 2)
        openings = list[Opening]()
        for party, holder in enumerate(tiny.shared(dealer, cheater, ("input", "weight"))):
            halves_of = {"weight": tiny.integer(holder.shares["weight"].value)}
            holder.weights["l"] = product.prepare_weight(holder, delta[party], masked, halves_of)
            ready, _ = product.prepare(holder, CONV, holder.mask("input", x.shape))
            openings.append(next(product.evaluate(running(party, delta, holder.weights), CONV, ready, opened)))
        lie = liar.adds(1)
        words = WORD.wrap(openings[0].share + openings[1].share + WORD.of(lie.reshape(x.shape)))
        for place in (0, 1):
            liar.sees(tiny.integer(words)[..., place], WORD.bits)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiny, "RowCombination", PlaceCombination)
            tiny.verdict(openings, words, liar, 2)
        for number, secret in enumerate(secrets):
            yield (secret, w), liar.codes()[axes["x"] == number]


def pool_views(cheater: int, keys: Sequence[int] = EVERY) -> Iterator[tuple[Any, Array]]:
    """The larger of two values of an open wire: (both, what the liar sees). She may lie about y^, the looked-up bits,
    the signs, the maximum and her word of the check."""
    given = [*strategies(5)[::2], strategies(5)[-1]]
    secrets = np.array([(0, 1), (1, 0), (2, 1), (0, 0)])
    axes = columns({"strategy": len(given), "y": 4, "r": 4, "s": 4, "a": 2, "c": 2, "result": 4, "select": 4})
    rows, zero = len(axes["y"]), np.zeros_like(axes["y"])
    tapes = [Tape(), Tape()]
    tapes[1 - cheater].columns |= {
        "result": axes["result"],
        "masks": axes["a"] | axes["c"] << 1,
        "select/1": np.stack((zero, axes["select"]), axis=1),
    }
    tapes[cheater].columns |= {"result": np.full(rows, OWN % 4)}
    rho = np.stack((axes["r"], axes["s"]), axis=1).reshape(rows, *POOL.shape)
    for key in keys:
        delta = tiny.begun(tapes, cheater, key)
        dealer = Whole(rows, WORD.wrap(delta[0] + delta[1]), tapes, {})
        max_pool.deal(dealer, POOL, DealtWire(rho))
        holders = tiny.shared(dealer, cheater, ("result",))
        tiny.look_up(holders, dealer, tapes, cheater, POOL)
        liar = Liar(given, axes["strategy"])
        y = (secrets[axes["y"]].reshape(rho.shape) + rho + liar.adds(0).reshape(rows, 1, 1, 1)) & 3
        for place in (0, 1):
            liar.sees(y[..., place], 2)
        steps = [
            max_pool.evaluate(running(party, delta), POOL, max_pool.prepare(holder, POOL, None)[0], y)
            for party, holder in enumerate(holders)
        ]
        openings = tiny.after_bits(steps, liar)
        words = WORD.wrap(openings[0].share + openings[1].share + WORD.of(liar.adds(3).reshape(rows, 1, 1, 1)))
        liar.sees(tiny.integer(words), WORD.bits)
        tiny.verdict(openings, words, liar, 4)
        for number, secret in enumerate(secrets):
            yield tuple(secret), liar.codes()[axes["y"] == number]
