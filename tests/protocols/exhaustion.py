"""Runs a layer in a tiny ring, on every input and with all randomness that is named. Results must be right, and what a
party sees must be distributed alike for every secret."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from moiety_shared.plan.approximate import Approximate
from moiety_shared.plan.lookups import Comparison, Lookup, MaxPool, TopK
from moiety_shared.plan.normalise import Normalise
from moiety_shared.protocols import max_pool, reduce, top_k
from moiety_shared.protocols.dealing import Dealer, Holder
from moiety_shared.protocols.opening import Evaluation, Kind, Opening, alone, lockstep
from moiety_shared.protocols.registry import PROTOCOLS
from moiety_shared.ring import Array, Ring
from tests.protocols.enumeration import Axis, Column, Tape, Views, enumerate_axes, histogram
from tests.protocols.functionality import (
    functionality,
    functionality_beyond,
    functionality_of_approximate,
    functionality_of_normalise,
    functionality_of_normalise_beyond,
    in_range,
)


@dataclass(frozen=True)
class Case:
    """A layer in the ring Z_{2^k}, and what is enumerated.

    `share_bits` are the low bits of alice's shares of the input that take every value: k, or just those that hold the
    dither. `alice` and `bob` name words of their streams, among them alice's shares of what the dealer fixes; what is
    not named is zero, and is not looked at. The mask bits of comparisons are enumerated always. Where bob's halves of
    masks are not, alice's stand for the whole mask, which neither party knows.
    """

    k: int
    layer: Lookup
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


def enumerated(case: Case) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    """alice's shares of the input, and the columns of alice's and of bob's stream."""
    whole: tuple[Axis, ...] = ()
    if isinstance(case.layer, Comparison) and "masks" not in (axis.name for axis in case.alice):
        whole = (Axis("masks", case.layer.comparisons, case.layer.lookups + 1),)
    alice = (*whole, *case.alice)
    share, *columns = enumerate_axes((Axis("x", case.layer.size, case.share_bits), *alice, *case.bob))
    names = [axis.name for axis in alice], [axis.name for axis in case.bob]
    return share, dict(zip(names[0], columns, strict=False)), dict(zip(names[1], columns[len(alice) :], strict=True))


def evaluation(ring: Ring, party: int, layer: Lookup, x: Array, prepared: Any) -> Evaluation:
    match layer:
        case MaxPool():
            return max_pool.evaluate(reduce.opened_ring(layer), party, layer, x, prepared)
        case TopK():
            return top_k.evaluate(party, layer, x, prepared)
        case _:
            return PROTOCOLS[type(layer)].evaluate(ring, party, layer, x, prepared)  # type: ignore[no-any-return]


def seen_bits(layer: Lookup, opening: Opening) -> int:
    """How many bits an opened word has."""
    if opening.kind is Kind.RING:
        assert opening.ring is not None
        return opening.ring.bits
    return layer.lookups if isinstance(layer, Comparison) and opening.kind is Kind.WORDS else 1


def check(case: Case, *, private: bool = True, beyond: bool = False) -> None:
    """Every result is right; every party's view is uniform, whatever the secret. Right is what the secret and the
    dither alone decide: no mask does, in range or `beyond`. But results of approximate layers depend on t^ too, and
    those of Normalise on v^."""
    ring, layer, protocol = Ring(case.k), case.layer, PROTOCOLS[type(case.layer)]
    share, of_alice, of_bob = enumerated(case)
    rows = len(share)
    dealer = Dealer(ring, rows, Tape(of_alice), Tape(of_bob))
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
        if isinstance(layer, Approximate):
            expected = functionality_of_approximate(layer, t, opened[0][0])
        elif isinstance(layer, Normalise):
            of_normalise = functionality_of_normalise_beyond if beyond else functionality_of_normalise
            v, masked = np.broadcast_to(x.astype(np.int64), x0.shape), opened[0][0].astype(np.int64)
            expected = of_normalise(layer, v, masked).reshape(rows, *layer.output_shape)
        else:
            expected = (functionality_beyond if beyond else functionality)(layer, t)
        if isinstance(layer, TopK) and layer.result == "words":
            result = shares[0] ^ shares[1]
        else:
            given = reduce.opened_ring(layer) if isinstance(layer, MaxPool) else ring
            given = Ring(layer.word_bits) if isinstance(layer, Approximate) else given
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
