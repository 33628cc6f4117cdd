"""Whole plans: runs the protocol of each layer over the graph. No I/O; the caller passes the randomness in.

`deal` yields one layer after another and `preparation` takes one after another, so that a bundle can be streamed.
`evaluate` runs each layer as soon as its inputs are there, and layers that run side by side share their rounds. The
owner masks weights once per upload, the dealer deals bundles of rows, and each request is one run.
"""

from collections.abc import Generator, Iterator, Mapping
from heapq import heappop, heappush
from typing import cast

import numpy as np

from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.approximate import Approximate
from moiety_shared.plan.layers import Bias, Conv, Correction, Layer, Linear, MatMul, Mul, Open, Reshare
from moiety_shared.plan.local import Local
from moiety_shared.plan.lookups import Decide, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.plan import LABELS, Plan
from moiety_shared.plan.reduced import Reduce
from moiety_shared.protocols import matmul, max_pool, product, reduce, reshare, top_k
from moiety_shared.protocols.dealing import Addressed, Dealer, uniform
from moiety_shared.protocols.opening import Evaluation, Opening, Round, Session
from moiety_shared.protocols.preparation import PreparedRows, cut
from moiety_shared.protocols.product import Opened, Weights
from moiety_shared.protocols.registry import PROTOCOLS
from moiety_shared.ring import Array, Ring, aligned

_GONE = np.zeros(0, dtype=np.int32)  # takes the place of a wire that no layer reads again

_Running = list[tuple[Layer, Generator[Opening, Array, Array | Opened], Opening]]


def ring_of(plan: Plan) -> Ring:
    """The plan's ring, Z_{2^k}."""
    return Ring(plan.ring_bits)


def weight_masks(plan: Plan, alice: Stream, bob: Stream) -> dict[str, Array]:
    """Compute the mask s of each weighted layer from both parties' streams of the upload. The dealer has both."""
    ring, masks = ring_of(plan), dict[str, Array]()
    for layer in plan.layers:
        if isinstance(layer, Linear | Conv):
            mask = product.weight_mask(ring, alice.at(layer.name), layer)
            mask += product.weight_mask(ring, bob.at(layer.name), layer)
            masks[layer.name] = aligned(ring.wrap(mask))
    return masks


def weights_at(plan: Plan, party: int, masked: Mapping[str, Array], upload: Stream) -> dict[str, Weights]:
    """Compute party p's part of the model from w^, by "layer.weight", and the party's own stream of the upload."""
    ring, weights = ring_of(plan), dict[str, Weights]()
    for layer in plan.layers:
        source, shares = upload.at(layer.name), dict[str, Array]()
        for part, shape in layer.weights().items():
            mask = aligned(uniform(ring, source, part, shape))
            shares[part] = product.weight_share(ring, party, masked[f"{layer.name}.{part}"], mask)
        if shares:
            whole = masked.get(f"{layer.name}.weight")
            weights[layer.name] = Weights(whole, shares.get("weight"), shares.get("bias"))
    return weights


def deal(
    plan: Plan,
    rows: int,
    masks: Mapping[str, Array],
    alice: Addressed,
    bob: Addressed,
) -> Iterator[tuple[Correction, Array]]:
    """Deal one bundle of `rows` rows: yield each correction with its tensor (rows, *shape), in the plan's order.

    `masks` holds the weight masks s. The two sources are the streams of this bundle.
    """
    ring, opened = ring_of(plan), dict[str, Array]()
    for layer in plan.layers:
        dealer = Dealer(ring, rows, alice.at(layer.name), bob.at(layer.name))
        match layer:
            case Open():
                opened[layer.name] = product.deal_open(dealer, layer)
            case Linear() | Conv():
                product.deal(dealer, layer, opened[layer.input], masks[layer.name])
            case Mul():
                product.deal_mul(dealer, layer, opened[layer.left], opened[layer.right])
            case MatMul():
                matmul.deal(dealer, layer, opened[layer.left], opened[layer.right])
            case _ if type(layer) in PROTOCOLS:
                PROTOCOLS[type(layer)].deal(dealer, layer)
        for name in layer.reads:
            if plan.last_reader.get(name) == layer.name:
                opened.pop(name, None)
        for correction in layer.corrections(plan.ring_bits):
            yield correction, dealer.corrections.pop(correction.name)


def evaluate_slices(
    plan: Plan, party: int, x: Array, prepared: PreparedRows, weights: Mapping[str, Weights]
) -> list[Session[Array]]:
    """Run `evaluate` for each slice of the rows of x."""
    return [evaluate(plan, party, x[a:b], cut(prepared, a, b), weights) for a, b in plan.slices(len(x))]


def evaluate(
    plan: Plan, party: int, x: Array, prepared: PreparedRows, weights: Mapping[str, Weights]
) -> Session[Array]:
    """Turn [x]_p (rows, values of one input and its label) into party p's share of the output wire (rows, *shape).

    Removes each layer from `prepared` as it runs, so that a large run frees what it has used.
    """
    run = _Run(plan, party, prepared, weights)
    run.arrived(plan.input.name, x[:, : plan.input.size].reshape(-1, *plan.input.shape))
    if plan.input.classes:
        run.arrived(LABELS, x[:, plan.input.size :])
    running: _Running = []
    while True:
        run.start(running)
        if not running:
            break
        openings = tuple(opening for *_, opening in running)
        values = yield Round(openings, len(x) * sum(plan.flow.work[layer.name] for layer, *_ in running))
        now, running = running, []
        for (resumed, generator, _), value in zip(now, values, strict=True):
            run.resume(resumed, generator, value, running)
    result = run.wires[plan.output.wire]
    assert not isinstance(result, Opened)  # noqa: S101  the plan's own check
    return result


def given_out(plan: Plan, outputs: Array) -> bytes:
    """Return a party's share of a request's result, from its shares of the request's outputs (rows, *shape).

    Counts are added up over the request's rows, so that the number that leaves shows no single row's.
    """
    whole = outputs.sum(axis=0, dtype=outputs.dtype) if plan.output.kind == "count" else outputs
    return whole.tobytes()


class _Run:
    """The wires of one evaluation, and how each layer computes its own."""

    def __init__(self, plan: Plan, party: int, prepared: PreparedRows, weights: Mapping[str, Weights]) -> None:
        self.plan, self.party, self.prepared, self.weights = plan, party, prepared, weights
        self.ring = ring_of(plan)
        self.wires: dict[str, Array | Opened] = {}
        self._missing = list(plan.flow.waits)  # wires that a layer waits for
        self._unread = dict(plan.flow.unread)  # layers that will read a wire
        self._ready: list[int] = []  # a heap: both parties start layers in the plan's order

    def arrived(self, name: str, value: Array | Opened) -> None:
        self.wires[name] = value
        for number in self.plan.readers[name]:
            self._missing[number] -= 1
            if not self._missing[number]:
                heappush(self._ready, number)

    def start(self, running: _Running) -> None:
        """Start every layer whose wires are there, and every layer that becomes ready at once by that."""
        while self._ready:
            layer = self.plan.layers[heappop(self._ready)]
            if (generator := self._generator(layer)) is None:
                self._finish(layer, self._at_once(layer))
            else:
                running.append((layer, generator, next(generator)))

    def resume(
        self, layer: Layer, generator: Generator[Opening, Array, Array | Opened], value: Array, running: _Running
    ) -> None:
        try:
            running.append((layer, generator, generator.send(value)))
        except StopIteration as stop:
            self._finish(layer, stop.value)

    def _finish(self, layer: Layer, value: Array | Opened) -> None:
        self.arrived(layer.name, value)
        self.prepared.pop(layer.name, None)
        for name in set(layer.reads):
            self._unread[name] -= 1
            if not self._unread[name]:
                self.wires[name] = _GONE

    def _share(self, name: str) -> Array:
        return cast(Array, self.wires[name])

    def _opened(self, name: str) -> Opened:
        return cast(Opened, self.wires[name])

    def _generator(self, layer: Layer) -> Generator[Opening, Array, Array | Opened] | None:
        """Return the layer's generator of openings, or None when the layer opens nothing."""
        ring, party, ready = self.ring, self.party, self.prepared.get(layer.name)
        match layer, ready:
            case Open(), product.PreparedOpen():
                return product.evaluate_open(ring, self._share(layer.input), ready)
            case MaxPool(), max_pool.PreparedMaxPool():
                return max_pool.evaluate(reduce.opened_ring(layer), party, layer, self._share(layer.input), ready)
            case TopK(), top_k.PreparedTopK():
                return top_k.evaluate(party, layer, self._share(layer.input), ready)
            case ((ReLU() | Decide() | Truncate() | Table() | Approximate() | Normalise() | OneHot()), tuple()):
                protocol = PROTOCOLS[type(layer)]
                return cast(Evaluation, protocol.evaluate(ring, party, layer, self._share(layer.input), ready))
        return None

    def _at_once(self, layer: Layer) -> Array:
        match layer, self.prepared.get(layer.name):
            case ((Linear() | Conv()), product.PreparedProduct() as ready):
                return product.evaluate(self.ring, layer, self._opened(layer.input), ready, self.weights[layer.name])
            case ((Mul() | MatMul()), product.PreparedProduct() as ready):
                evaluate = matmul.evaluate if isinstance(layer, MatMul) else product.evaluate_mul
                return evaluate(self.ring, self.party, self._opened(layer.left), self._opened(layer.right), ready)
            case Reshare(), reshare.PreparedReshare() as ready:
                return reshare.evaluate(self.ring, self._share(layer.input), ready)
            case Bias(), _:
                return self.ring.wrap(self._share(layer.input) + self.weights[layer.name].bias)
            case Reduce(), _:
                return reduce.reduce_share(layer, self.party, self._share(layer.input))
            case Local(), _:
                ring = Ring(self.plan.wires[layer.reads[0]].bits)
                return ring.wrap(layer.apply(*(self._share(name) for name in layer.reads)))
            case _:
                raise TypeError(f"layer {layer.name!r} was not prepared")
