"""Counts on words of 4 bits: two rows are added up before one opening, whose mask whoever may read the count gets."""

from collections.abc import Iterator, Sequence

import numpy as np

from moiety_shared.plan.layers import Reshare
from moiety_shared.protocols.verified import truncation
from moiety_shared.protocols.verified.wires import DealtWire
from moiety_shared.ring import Array
from tests.protocols.enumeration import Tape
from tests.protocols.verified import tiny
from tests.protocols.verified.tiny import WORD, Liar, Whole, columns, running, strategies

SUM = Reshare(name="s", input="y", shape=(1,))
Secret = tuple[int, int]


def views(known: str) -> int:
    """How many views a count may give: both x^, both y^, the opened sum, the verdict, and each mask that is known."""
    return 1 << 2 * 2 + 2 * 2 + 4 + 1 + 2 * len(known)


def count_views(
    cheater: int, secrets: Sequence[Secret], keys: Sequence[int], known: str
) -> Iterator[tuple[Secret, Array]]:
    """The opening of two inputs x, and the sum of two wires that have the same values: (x, what the liar sees). She may
    lie about the first y^, the sum, and her word of the check.

    `known` says what somebody who may read something tells her: "c" the mask of the count; "xx" those of both inputs.
    """
    given = strategies(3)[::2]
    sizes = {"strategy": len(given), "x": len(secrets), "r0": 4, "r1": 4, "rho0": 4, "rho1": 4, "lift": 4, "result": 4}
    axes = columns(sizes)
    count, zero = len(axes["x"]), np.zeros_like(axes["x"])

    def rows(first: Array, second: Array) -> Array:
        return np.stack((first, second), axis=1).reshape(-1)

    x = np.array(secrets)[axes["x"]].reshape(-1)
    r, rho = rows(axes["r0"], axes["r1"]), rows(axes["rho0"], axes["rho1"])
    tapes = [Tape(), Tape()]
    tapes[1 - cheater].columns |= {
        "result": rows(axes["result"], zero),  # of the second row no mask is used
        "lift/1": rows(axes["lift"], zero),  # the noise above both values adds up
    }
    tapes[cheater].columns |= {"result": np.full(2 * count, tiny.OWN % 4)}
    for key in keys:
        delta = tiny.begun(tapes, cheater, key)
        dealer = Whole(2 * count, WORD.wrap(delta[0] + delta[1]), tapes, {})
        truncation.deal(dealer, SUM, DealtWire(rho[:, None]))
        holders = tiny.shared(dealer, cheater, ("result",))
        liar = Liar(given, axes["strategy"])
        lie = rows(liar.adds(0), zero)
        for opened in ((x + r) & 3, y := (x + rho + lie) & 3):
            for row in (0, 1):
                liar.sees(opened[row::2], 2)
        for mask in [axes["result"]][: known.count("c")] + [axes["r0"], axes["r1"]][: known.count("x")]:
            liar.sees(mask, 2)
        starts = list(range(0, 2 * count, 2))
        sums = np.add.reduceat(y[:, None], starts, axis=0) & 3
        openings = []
        for party, holder in enumerate(holders):
            lift = truncation.added_up(truncation.prepare(holder, SUM, None)[0], starts)
            openings.append(next(truncation.evaluate(running(party, delta), SUM, lift, sums)))
        tiny.verdict(openings, tiny.opened_words(openings, liar, 1), liar, 2)
        for number, secret in enumerate(secrets):
            yield secret, liar.codes()[axes["x"] == number]
