"""A dealer, two parties and a client in one process, in verified mode, and lies of one of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from moiety_shared import reference
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.lookups import Lookup
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.opening import Session, combine, to_wire
from moiety_shared.protocols.verified import (
    answers,
    approximate,
    decide,
    graph,
    max_pool,
    normalise,
    one_hot,
    opened,
    relu,
    table,
    top_k,
    truncation,
)
from moiety_shared.protocols.verified.answers import PartyAnswer, RowKeys
from moiety_shared.protocols.verified.claims import CheckFailed, Nonces, Standing
from moiety_shared.protocols.verified.graph import WORD, PartyKey, PreparedRun
from moiety_shared.protocols.verified.layer import LayerMasks, VerifiedWeights
from moiety_shared.ring import Array
from tests.protocols.running import masked_weights

Tamper = Callable[[int, int, bytes], bytes]
"""(round, opening of the round, what a party sends) to what arrives."""


@dataclass
class Bundle:
    """What is dealt for one run, and what each party made of it."""

    name: bytes
    sent: dict[str, graph.Corrections]
    ready: list[PreparedRun]
    records: dict[str, list[bytes]]
    """What the dealer vouches for, of the rows and of their counts."""
    masks: dict[str, Array]
    """The dealer's mask of each wire that is cut, by the layer that reads it."""
    seeds: list[bytes]


@dataclass
class Upload:
    """One model, uploaded for verified runs."""

    plan: Plan
    weights: Mapping[str, Array]
    seeds: list[bytes] = field(default_factory=lambda: [new_seed() for _ in range(4)])

    def __post_init__(self) -> None:
        graph.check_supported(self.plan)
        owner = (Stream(self.seeds[0], "upload"), Stream(self.seeds[1], "upload"))
        own = (Stream(self.seeds[2], "key"), Stream(self.seeds[3], "key"))
        self.keys: tuple[PartyKey, PartyKey] = (
            graph.draw_key(self.plan, 0, own[0]),
            graph.draw_key(self.plan, 1, own[1]),
        )
        self.masks: dict[str, LayerMasks]
        self.masks, self.sent = graph.deal_upload(self.plan, self.keys, owner, own)
        self.masked = masked_weights(self.plan, self.weights, self.seeds[:2])
        self.models: list[dict[str, VerifiedWeights]] = [
            graph.weights_at(self.plan, self.keys[p], self.masked, owner[p], own[p], self.sent) for p in (0, 1)
        ]

    def deal(self, rows: int) -> Bundle:
        seeds, masks = [new_seed(), new_seed()], dict[str, Array]()

        def recording(layer: Any, low: Array) -> Array:
            masks[layer.name] = low
            return opened.cut(layer, low)

        with pytest.MonkeyPatch.context() as patch:
            for module in (approximate, decide, max_pool, normalise, one_hot, relu, table, top_k, truncation):
                patch.setattr(module, "cut_mask", recording)
            sent = dict(graph.deal(self.plan, rows, self.keys, self.masks, (Stream(seeds[0]), Stream(seeds[1]))))
        ready = [self.prepare(p, rows, seeds[p], sent) for p in (0, 1)]
        name = new_seed()
        return Bundle(name, sent, ready, recorded(ready), masks, seeds)

    def prepare(self, party: int, rows: int, seed: bytes, sent: Mapping[str, graph.Corrections]) -> PreparedRun:
        """bob's preparation reads what he was sent; alice's must not."""
        given = dict(sent) if party else {}
        return graph.prepare(self.plan, self.keys[party], rows, self.models[party], Stream(seed), given)

    def sessions(
        self,
        bundle: Bundle,
        x: Array,
        standings: tuple[Standing, Standing] | None = None,
        nonces: Sequence[Nonces] = (),
    ) -> list[Session[PartyAnswer]]:
        standings = standings or (Standing(), Standing())
        nonces = nonces or [Nonces(new_seed()[:16], new_seed()[:16]) for _ in range(2)]
        one = Stream(new_seed()).words("share", x.shape, np.int32)
        shares, runs = (one, x - one), list[Session[PartyAnswer]]()
        for p, key in enumerate(self.keys):
            place = bundle.ready[p], self.models[p], nonces[p], standings[p]
            runs.append(alone(graph.run(self.plan, key, bundle.name, shares[p], *place, [len(x)])))
        return runs

    def expected(self, bundle: Bundle, x: Array) -> Array:
        """What the plain evaluator makes of the inputs under the masks of the bundle."""
        layers = {layer.name: layer for layer in self.plan.layers}

        def dither(name: str, value: Array) -> Array:
            layer = layers[name]
            assert isinstance(layer, Lookup)
            low: Array = bundle.masks[name].reshape(value.shape) & ((1 << layer.shift) - 1)
            return low

        def masked(name: str, value: Array) -> Array:
            layer, mask = layers[name], bundle.masks[name].reshape(value.shape)
            if isinstance(layer, Normalise):
                return (value + mask).astype(value.dtype)
            assert isinstance(layer, Lookup)
            opened_value: Array = (value + (mask >> layer.shift)) & ((1 << layer.opened_bits) - 1)
            return opened_value

        y = reference.run(self.plan, x, self.weights, dither, opened=masked)
        return y.sum(axis=0, keepdims=True, dtype=y.dtype) if self.plan.output.kind == "count" else y


def recorded(ready: Sequence[PreparedRun]) -> dict[str, list[bytes]]:
    """The dealer's records of these rows, and of their counts."""
    return {pair[0].of: answers.records(pair) for pair in zip(*(run.keys for run in ready), strict=True)}


def alone(session: Session[list[PartyAnswer]]) -> Session[PartyAnswer]:
    """The run of one request."""
    (answer,) = yield from session
    return answer


@dataclass
class Outcome:
    """What became of a run: each party's answer, or None if it refused; and how long it was."""

    answers: list[PartyAnswer | None]
    rounds: int
    sent: list[int]


def drive(sessions: list[Session[PartyAnswer]], liar: int = 0, tamper: Tamper | None = None) -> Outcome:
    """Run both sessions. `tamper` changes what the liar sends before it arrives."""
    result, sent, rounds = Outcome([None, None], 0, [0, 0]), [next(session) for session in sessions], 0
    live = [True, True]
    while all(live):
        wires = [[to_wire(opening).tobytes() for opening in each.openings] for each in sent]
        for party in (0, 1):
            result.sent[party] += sum(map(len, wires[party]))
        if tamper is not None:
            wires[liar] = [tamper(rounds, place, raw) for place, raw in enumerate(wires[liar])]
        rounds += 1
        for party in (0, 1):
            opened = [
                combine(opening, memoryview(raw))
                for opening, raw in zip(sent[party].openings, wires[1 - party], strict=True)
            ]
            try:
                sent[party] = sessions[party].send(opened)
            except StopIteration as stop:
                result.answers[party], live[party] = stop.value, False
            except CheckFailed:
                live[party] = False
    result.rounds = rounds
    return result


def accepted(upload: Upload, bundle: Bundle, x: Array, outcome: Outcome) -> Array | None:
    """What the client accepts, or None."""
    one, other = outcome.answers
    if one is None or other is None:
        return None
    try:
        return accepted_of(bundle, slice(len(x)), x, (one, other))
    except CheckFailed:
        return None


def accepted_of(bundle: Bundle, place: slice, x: Array, pair: tuple[PartyAnswer, PartyAnswer]) -> Array:
    """What the client accepts that shared these rows of the bundle: y, or their count. Raises CheckFailed."""

    def dealt(keys: tuple[RowKeys, RowKeys]) -> bool:
        return answers.records(keys) == bundle.records[keys[0].of][place][: len(keys[0].keys)]

    y, (one, other) = answers.accept(WORD, x, pair, dealt), (each.counted for each in pair)
    if one is None or other is None:
        return y
    return answers.accept(WORD, np.empty((1, 0), np.int64), (one, other), dealt)


def stored(prepared: Any, name: str = "") -> Iterator[tuple[str, Array]]:
    """Everything that a party prepared for its layers, by name."""
    if isinstance(prepared, np.ndarray):
        yield name, prepared
    elif isinstance(prepared, dict):
        for key, part in prepared.items():
            yield from stored(part, f"{name}/{key}")
    elif isinstance(prepared, tuple):
        for key in getattr(prepared, "_fields", ()):
            yield from stored(getattr(prepared, key), f"{name}.{key}")
