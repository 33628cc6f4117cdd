"""Waves, powers of two, pieces and normal forms on words of 4 bits, as tiny.py has products and ReLUs."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.waves import Wave, Waves
from moiety_shared.protocols.verified import approximate, normalise
from moiety_shared.protocols.verified.approximate import Summed
from moiety_shared.protocols.verified.wires import DealtWire
from moiety_shared.ring import Array
from tests.protocols.enumeration import Tape
from tests.protocols.verified import tiny
from tests.protocols.verified.tiny import EVERY, OWN, SIZE, WORD, Liar, Whole, columns, running, strategies

_HEAD: dict[str, Any] = {"name": "f", "input": "l", "shape": (1,), "shift": 0, "opened_bits": 2}
WAVES = Waves.model_construct(**_HEAD, word_bits=2, constant=1, waves=(Wave(cosine=1, sine=1, table_bits=1),))
"""All public factors are even: 2, 0 or -2."""
POWERS = Exp2.model_construct(**_HEAD, word_bits=2, octave_bits=0, span_bits=1, top=0, height_bits=2, table_bits=1)
PIECES = Pieces.model_construct(
    **_HEAD, word_bits=2, function="reciprocal", frac_bits=1, lowest=2, piece_bits=1, degree=1, value_bits=1,
    table_bits=1,
)  # fmt: skip
NORMAL = Normalise.model_construct(
    name="n", input="l", shape=(1,), shift=0, opened_bits=2, range_bits=1, digit_bits=1, hinges=(1,)
)
SMOOTH: dict[str, Summed] = {"waves": WAVES, "powers of two": POWERS, "pieces": PIECES}
SMOOTH_VIEWS = 1 << 2 + 4 + 1
NORMAL_VIEWS = 1 << 2 + 1 + 1 + 3 * 4 + 1


def smooth_views(cheater: int, layer: Summed, keys: Sequence[int] = EVERY) -> Iterator[tuple[Any, Array]]:
    """A sum of the dealer's words for an open wire: (y, what the liar sees). She may lie about y^, the sum, and her
    word of the check. What lies above the values is enumerated for two of the words."""
    given = strategies(3)[::2]
    counts = {"strategy": len(given), "y": 4, "r": 4, "one": 4, "other": 4, "z0": 4, "z1": 4}
    axes = columns(counts)
    rows = len(axes["y"])
    words = layer.spans if isinstance(layer, Exp2) else layer.words
    above = np.stack([axes["one"], axes["other"]] * (words // 2), axis=1)[:, :, None]
    tapes = [Tape(), Tape()]
    tapes[1 - cheater].columns |= {"words/1": above, "result/0": axes["z0"], "result/1": axes["z1"]}
    tapes[1 - cheater].columns["result"] = axes["z0"]  # of a mask that is no word, which a test plants
    tapes[cheater].columns |= {"result": np.full(rows, OWN % 4)}
    y, r = axes["y"][:, None], axes["r"][:, None]
    for key in keys:
        delta = tiny.begun(tapes, cheater, key)
        dealer = Whole(rows, WORD.wrap(delta[0] + delta[1]), tapes, {})
        approximate.deal(dealer, layer, DealtWire(r))
        holders = tiny.shared(dealer, cheater, ())
        liar = Liar(given, axes["strategy"])
        opened = (y + r + liar.adds(0)[:, None]) & 3
        liar.sees(opened, 2)
        openings = [
            next(approximate.evaluate(running(p, delta), layer, approximate.prepare(holder, layer, None)[0], opened))
            for p, holder in enumerate(holders)
        ]
        tiny.verdict(openings, tiny.opened_words(openings, liar, 1), liar, 2)
        for secret in range(4):
            yield secret, liar.codes()[axes["y"] == secret]


def normal_views(cheater: int, keys: Sequence[int]) -> Iterator[tuple[Any, Array]]:
    """A normal form of an open wire: (v, what the liar sees). She may lie about v^, the looked-up bit, the sign, all
    three words at once, and her word of the check."""
    given = [strategies(5)[0], strategies(5)[-2]]
    secrets = np.array([0, 1])  # below the hinge, and at it
    axes = columns({"strategy": len(given), "v": 2, "r": 4, "a": 2, "c": 2, "y": SIZE, "s": SIZE, "j": SIZE})
    rows = len(axes["v"])
    z = np.stack([axes[plane] for plane in "ysj"], axis=1)
    tapes = [Tape(), Tape()]
    tapes[1 - cheater].columns |= {
        "masks": axes["a"] | axes["c"] << 1,
        "result/0": z & 3,
        "result/1": z >> 2,
        "result": z & 3,
    }
    tapes[cheater].columns |= {"result": np.full((rows, 3), OWN % 4)}
    v, r = secrets[axes["v"]][:, None], axes["r"][:, None]
    for key in keys:
        delta = tiny.begun(tapes, cheater, key)
        dealer = Whole(rows, WORD.wrap(delta[0] + delta[1]), tapes, {})
        normalise.deal(dealer, NORMAL, DealtWire(r))
        holders = tiny.shared(dealer, cheater, ())
        tiny.look_up(holders, dealer, tapes, cheater, NORMAL)
        liar = Liar(given, axes["strategy"])
        opened = (v + r + liar.adds(0)[:, None]) & 3
        liar.sees(opened, 2)
        steps = [
            normalise.evaluate(running(party, delta), NORMAL, normalise.prepare(holder, NORMAL, None)[0], opened)
            for party, holder in enumerate(holders)
        ]
        openings = tiny.after_bits(steps, liar)
        words = WORD.wrap(openings[0].share + openings[1].share + WORD.of(liar.adds(3).reshape(rows, 1, 1)))
        for plane in range(3):
            liar.sees(tiny.integer(words)[:, plane], WORD.bits)
        tiny.verdict(openings, words, liar, 4)
        for number, secret in enumerate(secrets):
            yield secret, liar.codes()[axes["v"] == number]
