"""A dealer and two parties in one process, over real streams."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from moiety_shared import reference
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.messages.upload import Draws, MaskedModel, Tensors
from moiety_shared.plan.lookups import Lookup, TopK
from moiety_shared.plan.plan import AnyLayer, Input, Output, Plan
from moiety_shared.protocols import graph, reduce
from moiety_shared.protocols.opening import Opening, Result, Session, lockstep, wire_bytes
from moiety_shared.protocols.preparation import Preparation, PreparedRows
from moiety_shared.protocols.registry import PROTOCOLS
from moiety_shared.ring import Array


@contextmanager
def recorded_coins() -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """The dithers that alice's shares hold, and what those layers open whose results depend on it, by layer, of all
    that runs meanwhile."""
    original, found = reduce.reduce_share, dict[str, Array]()
    opened_values = dict[str, Array]()
    sums = {one: one.summed for one in PROTOCOLS.values() if hasattr(one, "summed")}

    def recording(layer: Lookup, party: int, x: Array) -> Array:
        if party == 0:
            found[layer.name] = reduce.dither_of(layer, x)
        return original(layer, party, x)

    def recording_sum(layer: Lookup, party: int, opened: Array, *words: Array) -> Array:
        if party == 0:
            opened_values[layer.name] = opened.reshape(-1, *layer.shape)
        return sums[PROTOCOLS[type(layer)]](layer, party, opened, *words)  # type: ignore[no-any-return]

    reduce.reduce_share = recording
    for protocol in sums:
        protocol.summed = recording_sum  # type: ignore[attr-defined]
    try:
        yield found, opened_values
    finally:
        reduce.reduce_share = original
        for protocol, summed in sums.items():
            protocol.summed = summed  # type: ignore[attr-defined]


def bundle(plan: Plan, rows: int, masks: Mapping[str, Array], seeds: list[bytes]) -> dict[str, bytearray]:
    """What the dealer sends, by layer."""
    dealt = graph.deal(plan, rows, masks, *(Stream(seed) for seed in seeds))
    raw = {layer.name: bytearray() for layer in plan.layers}
    for layer in plan.layers:
        for stated in layer.corrections(plan.ring_bits):
            correction, array = next(dealt)
            assert correction == stated and array.shape == (rows, *correction.shape)
            raw[layer.name] += array.astype(correction.dtype, copy=False).tobytes()
    assert next(dealt, None) is None
    assert sum(map(len, raw.values())) == rows * plan.bundle_row_bytes == plan.cost(rows).offline_bytes
    return raw


def prepare(
    plan: Plan, party: int, rows: int, seed: bytes, raw: dict[str, bytearray], weights: Mapping[str, graph.Weights]
) -> PreparedRows:
    preparation = Preparation(plan, party, rows, Stream(seed), weights)
    for layer in plan.layers:
        assert preparation.wanted(layer) == (len(raw[layer.name]) if party else 0)
        preparation.add(layer, raw[layer.name] if party else b"")
    return preparation.ready


def without_rounds(session: Session[Result]) -> Result:
    """The outcome of a session that opens nothing."""
    try:
        next(session)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("the session opens something")


def masked_weights(plan: Plan, weights: Mapping[str, Array], seeds: list[bytes]) -> dict[str, Array]:
    """w^ by "layer.weight", as an upload brings it."""
    draws = Draws((seeds[0], seeds[1]), bytes(32), (bytes(32), bytes(32)))
    tensors = Tensors(plan)
    for piece in MaskedModel("0" * 32, plan, weights, draws).pieces():
        tensors.add(bytes(piece))
    return tensors.done()


class Run:
    """One model, masked once; `outputs` runs it on encoded inputs with fresh rows."""

    def __init__(self, plan: Plan, weights: Mapping[str, Array]) -> None:
        self.plan, self.weights, self.ring = plan, weights, graph.ring_of(plan)
        seeds = [new_seed() for _ in range(2)]
        self.masks = graph.weight_masks(plan, *(Stream(seed, "upload") for seed in seeds))
        masked = masked_weights(plan, weights, seeds)
        self.models = [graph.weights_at(plan, p, masked, Stream(seed, "upload")) for p, seed in enumerate(seeds)]
        self.rounds = 0
        self.opened: list[tuple[Opening, Array]] = []
        self.dithers: dict[str, Array] = {}
        self.masked: dict[str, Array] = {}

    def random(self, shape: tuple[int, ...]) -> Array:
        return Stream(new_seed()).words("random", shape, self.ring.dtype)

    def ready(self, x: Array) -> list[tuple[Array, PreparedRows]]:
        """Each party's share of the inputs and its rows of a fresh bundle."""
        rows, seeds = len(x), [new_seed() for _ in range(2)]
        raw = bundle(self.plan, rows, self.masks, seeds)
        x0 = self.random(x.shape)
        prepared = [prepare(self.plan, p, rows, seeds[p], raw, self.models[p]) for p in (0, 1)]
        return list(zip((x0, self.ring.wrap(x - x0)), prepared, strict=True))

    def drive(self, alice: Session[Array], bob: Session[Array]) -> Array:
        """Two sessions to the output in the clear; `opened`, `rounds`, `dithers` and `masked` are theirs."""
        self.rounds = 0
        self.opened.clear()
        with recorded_coins() as (self.dithers, self.masked):
            if self.plan.rounds:
                out = lockstep(self._counted(alice), bob, lambda o, v: self.opened.append((o, v)))
            else:
                out = without_rounds(alice), without_rounds(bob)
        return out[0] ^ out[1] if self.plan.output.kind == "labels" else self.ring.wrap(out[0] + out[1])

    def _counted(self, session: Session[Array]) -> Session[Array]:
        sent = next(session)
        while True:
            self.rounds += 1
            try:
                sent = session.send((yield sent))
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]

    def outputs(self, x: Array) -> Array:
        """(rows, values of one input and its label) to the output wire, in the clear."""
        sessions = [
            graph.evaluate(self.plan, p, share, prepared, self.models[p])
            for p, (share, prepared) in enumerate(self.ready(x))
        ]
        return self.drive(*sessions)

    def expected(self, x: Array) -> Array:
        """What the plain evaluator makes of the inputs under the coins of the last run."""
        return reference.run(
            self.plan,
            x,
            self.weights,
            lambda name, _: self.dithers[name],
            opened=lambda name, _: self.masked[name],
        )

    def assert_bit_exact(self, x: Array) -> Array:
        """Equal to the plain evaluator under the same dithers, at the stated cost. Returns the output."""
        got, expected = self.outputs(x), self.expected(x)
        assert got.shape == expected.shape == (len(x), *self.plan.wires[self.plan.output.wire].shape)
        assert np.array_equal(got, expected)
        stated = [sent for layer in self.plan.layers for sent in layer.openings(self.plan.ring_bits, len(x))]
        assert sorted(wire_bytes(opening) for opening, _ in self.opened) == sorted(stated)
        assert self.rounds == self.plan.rounds == self.plan.cost(len(x)).rounds
        return got


def integers(shape: Sequence[int], bits: int = 8, dtype: Any = np.int32) -> Array:
    """Signed integers of so many bits."""
    return (Stream(new_seed()).words("x", tuple(shape), np.int64) >> (64 - bits)).astype(dtype)


def plan_of(*layers: AnyLayer, shape: tuple[int, ...], bits: int = 32, **more: Any) -> Plan:
    """A plan whose output is the last layer's wire."""
    last, classes = layers[-1], more.pop("classes", None)
    words = isinstance(last, TopK) and last.result == "words"
    return Plan(
        ring_bits=bits,  # type: ignore[arg-type]
        input=Input(shape=shape, frac_bits=0, low=-128, high=128, classes=classes),
        layers=layers,
        output=Output(wire=last.name, shape=last.output_shape, kind="labels" if words else "logits"),
    )


def run_of(plan: Plan) -> Run:
    """The plan with random weights of four bits."""
    return Run(plan, {name: integers(shape, 4, graph.ring_of(plan).dtype) for name, shape in plan.weights()})
