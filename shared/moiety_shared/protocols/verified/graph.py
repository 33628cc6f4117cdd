"""Whole plans in verified mode: deals, prepares and evaluates their layers. No I/O.

A run begins with the opening of its input. Every wire from there on is open under a mask (wires.py), and every layer
has its module (registry.py). The output is open under a mask that the client will know: that of the layer that makes
it, or, where other layers read that wire, or it is not opened at all, of one more opening.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.layers import Bias, Conv, Layer, Linear, Open, Reshare
from moiety_shared.plan.local import Local
from moiety_shared.plan.lookups import Table
from moiety_shared.plan.plan import LABELS, Plan
from moiety_shared.protocols.dealing import Addressed, uniform
from moiety_shared.protocols.opening import Kind, Opening, Session, alone
from moiety_shared.protocols.verified import answers, claims, evaluation, product, proofs, truncation
from moiety_shared.protocols.verified.answers import ClientKeys, PartyAnswer
from moiety_shared.protocols.verified.bilinear import MAX_FAN_IN, fan_in
from moiety_shared.protocols.verified.claims import Nonces, Standing, Verdict
from moiety_shared.protocols.verified.dealing import AuthenticDealer, AuthenticHolder
from moiety_shared.protocols.verified.layer import (
    LayerDealer,
    LayerHolder,
    LayerMasks,
    RunningParty,
    VerifiedWeights,
)
from moiety_shared.protocols.verified.polynomials import MAX_SLOTS, Points, SecretPoint
from moiety_shared.protocols.verified.registry import protocol_of
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array, Ring

WORD = Word()
INPUT, OUTPUT, VERDICT = "/input", "/output", "/verdict"  # no layers' names

Corrections = dict[str, Array]


class PartyKey(NamedTuple):
    """What party p keeps for the life of an upload: its share of Delta, words (2,), and its secret point."""

    party: int
    delta: Array
    point: SecretPoint

    @property
    def one(self) -> Authentic:
        """The public 1, as a share of a value and of its tag."""
        return Authentic(WORD.of(np.array(self.party, np.int64)), self.delta, 1)


class PreparedRun(NamedTuple):
    """What party p computed of a bundle: its share of the mask of what a client shares (rows, values of one input); its
    layers; row by row the shares of a verdict, of which a run uses the first row's, and the masks of proofs, which it
    adds up; and the keys that the client will learn."""

    inputs: Array
    layers: dict[str, Any]
    verdicts: list[Verdict]
    masks: list[proofs.ProofMask]
    keys: ClientKeys


def check_supported(plan: Plan) -> None:
    """Raises ValueError where the plan has something that this mode does not verify yet."""
    if plan.ring_bits != WORD.low:
        raise ValueError("only rings of 32 bits can be verified yet")
    for layer in plan.layers:
        protocol_of(layer)
        if isinstance(layer, Linear | Conv) and fan_in(layer) > MAX_FAN_IN:
            raise ValueError(f"layer {layer.name!r} adds up too many products to be verified yet")


def points_of(plan: Plan) -> Points:
    """The points of all look-ups of a plan: groups of at most 120, alike for all layers."""
    looked_up = (layer.size if isinstance(layer, Table) else layer.comparisons for layer in plan.layers)
    counts = [count for count in looked_up if count] or [1]
    return Points(max(-(-count // -(-count // MAX_SLOTS)) for count in counts))


def draw_key(plan: Plan, party: int, stream: Stream) -> PartyKey:
    """Draw party p's key of an upload from the stream that the dealer shares with it."""
    return PartyKey(party, WORD.uniform(stream, "delta", ()), SecretPoint.draw(points_of(plan), stream))


def _halves(layer: Layer, upload: Stream) -> dict[str, Array]:
    """A party's halves of s, int64 of 32 bits: the owner's own streams, as without verification."""
    source, low = upload.at(layer.name), (1 << WORD.low) - 1
    return {
        part: uniform(Ring(WORD.low), source, part, shape).astype(np.int64) & low
        for part, shape in layer.weights().items()
    }


def deal_upload(
    plan: Plan, keys: tuple[PartyKey, PartyKey], owner: tuple[Stream, Stream], own: tuple[Stream, Stream]
) -> tuple[dict[str, LayerMasks], dict[str, Corrections]]:
    """Deal the tags of all weights. `owner` are the streams of s that the owner gave, `own` the dealer's.

    Returns the dealer's masks and what is sent to bob, by layer.
    """
    masks, sent = dict[str, LayerMasks](), dict[str, Corrections]()
    for layer in plan.layers:
        one, other = (_halves(layer, stream) for stream in owner)
        if one:
            s = masks[layer.name] = {part: one[part] + other[part] for part in one}
            dealer = AuthenticDealer(WORD, WORD.wrap(keys[0].delta + keys[1].delta), *(o.at(layer.name) for o in own))
            if "weight" in s:
                product.deal_weight(dealer, s["weight"])
            sent[layer.name] = dealer.corrections
    return masks, sent


def weights_at(
    plan: Plan, key: PartyKey, masked: Mapping[str, Array], owner: Stream, own: Stream, sent: Mapping[str, Corrections]
) -> dict[str, VerifiedWeights]:
    """A party's part of the model under its key, from w^ by "layer.weight", the streams of the upload, and what the
    dealer sent bob; alice passes nothing for that."""
    weights, low = dict[str, VerifiedWeights](), (1 << WORD.low) - 1
    for layer in plan.layers:
        halves = _halves(layer, owner)
        whole = {part: masked[f"{layer.name}.{part}"].astype(np.int64) & low for part in halves}
        if halves:
            holder = AuthenticHolder(WORD, key.party, own.at(layer.name), sent.get(layer.name, {}))
            weights[layer.name] = product.prepare_weight(holder, key.delta, whole, halves)
    return weights


def _last(plan: Plan) -> Reshare | None:
    """One more opening behind the output's wire, where other layers read that too, where it is not opened itself, or
    where a count of all rows is."""
    made = {layer.name: layer for layer in plan.layers}[plan.output.wire]
    opened = not isinstance(made, Open | Bias | Local)
    if opened and not plan.readers[made.name] and plan.output.kind != "count":
        return None
    shape = plan.wires[made.name].shape
    return Reshare.model_construct(name=OUTPUT, input=made.name, shape=shape)  # by a name that no plan has


def _steps(plan: Plan) -> tuple[list[Layer], str]:
    """The layers of a run, and which of them has a result under the mask that the client will know."""
    last = _last(plan)
    return ([*plan.layers], plan.output.wire) if last is None else ([*plan.layers, last], OUTPUT)


def client_keys(plan: Plan, rows: int, stream: Addressed) -> ClientKeys:
    """Draw party p's keys of a bundle's rows from its stream of the bundle."""
    return ClientKeys.draw(stream, rows, counts=plan.output.kind == "count")


def _given(plan: Plan, keys: ClientKeys) -> tuple[Array, Array]:
    """Party p's shares of the masks that the client will learn: of one input's values and label (rows, n), and of the
    output (rows, *shape), int64."""
    inputs, outputs = keys.masks(WORD, plan.input.shared_size, plan.wires[plan.output.wire].shape)
    return inputs.astype(np.int64), outputs.astype(np.int64)


def deal(
    plan: Plan,
    rows: int,
    keys: tuple[PartyKey, PartyKey],
    masks: Mapping[str, LayerMasks],
    streams: tuple[Addressed, Addressed],
) -> Iterator[tuple[str, Corrections]]:
    """Deal one bundle: yield what is sent to bob, by layer in the plan's order, and at last for the verdict."""
    points, (layers, last) = (keys[0].point, keys[1].point), _steps(plan)
    inputs, outputs = zip(*(_given(plan, client_keys(plan, rows, each)) for each in streams), strict=True)

    def dealer_of(name: str) -> LayerDealer:
        at, delta = (streams[0].at(name), streams[1].at(name)), WORD.wrap(keys[0].delta + keys[1].delta)
        return LayerDealer(WORD, delta, points, rows, at, masks, outputs if name == last else None)

    dealer = dealer_of(INPUT)
    one, other = (_inputs(plan, values) for values in inputs)
    wires = {name: DealtWire((one[name] + other[name]) & ((1 << WORD.low) - 1)) for name in one}
    words = dealer.given("mask", one[plan.input.name], other[plan.input.name])
    wires[plan.input.name] = DealtWire(WORD.lowest(words), words, WORD.low + 1)
    yield INPUT, dealer.corrections
    for layer in layers:
        dealer = dealer_of(layer.name)
        wires[layer.name] = protocol_of(layer).deal(dealer, layer, *(wires[name] for name in layer.reads))
        yield layer.name, dealer.corrections
    sources = streams[0].at(VERDICT), streams[1].at(VERDICT)
    yield VERDICT, claims.deal_verdicts(sources, rows) | proofs.deal_mask(points[0].points, points, sources, rows)


def prepare(
    plan: Plan,
    key: PartyKey,
    rows: int,
    weights: Mapping[str, VerifiedWeights],
    stream: Addressed,
    sent: Mapping[str, Corrections],
) -> PreparedRun:
    """Compute all that party p can before the inputs exist. bob passes what the dealer sent."""
    points, (layers, last), keys = key.point.points, _steps(plan), client_keys(plan, rows, stream)
    given, result = _given(plan, keys)

    def holder_of(name: str) -> LayerHolder:
        output = result if name == last else None
        return LayerHolder(WORD, key.party, points, rows, stream.at(name), sent.get(name, {}), weights, output)

    masks: dict[str, Authentic | None] = dict.fromkeys(_inputs(plan, given))  # no product reads a label
    masks[plan.input.name] = holder_of(INPUT).given("mask", _inputs(plan, given)[plan.input.name])
    ready = dict[str, Any]()
    for layer in layers:
        read = (masks[name] for name in layer.reads)
        ready[layer.name], masks[layer.name] = protocol_of(layer).prepare(holder_of(layer.name), layer, *read)
    source, corrections = stream.at(VERDICT), sent.get(VERDICT, {})
    verdicts = claims.prepare_verdicts(key.party, source, rows, corrections)
    return PreparedRun(given, ready, verdicts, proofs.prepare_mask(points, key.party, source, rows, corrections), keys)


def run(
    plan: Plan,
    key: PartyKey,
    name: bytes,
    x: Array,
    prepared: PreparedRun,
    weights: Mapping[str, VerifiedWeights],
    nonces: Nonces,
    standing: Standing,
    requests: Sequence[int],
) -> Session[list[PartyAnswer]]:
    """Turn [x]_p (rows, values of one input) into party p's answer to each client, and check the other party.

    `requests` says how many of the rows each client's request has, in their order. One check covers them all. `name` is
    the run's, the same at both parties and never used again. Raises CheckFailed and UploadEnded.
    """
    sums = proofs.LookUpSums.start(key.point, prepared.masks)
    session = evaluate(plan, key, x, prepared, weights, requests)
    return claims.checked(
        session, claims.VerifiedRun(WORD, key.party, name, prepared.verdicts[0], nonces, sums, standing)
    )


def evaluate(
    plan: Plan,
    key: PartyKey,
    x: Array,
    prepared: PreparedRun,
    weights: Mapping[str, VerifiedWeights],
    requests: Sequence[int],
) -> Session[list[PartyAnswer]]:
    """Run all layers without the check."""
    party, ready = RunningParty(WORD, key.party, key.one, weights), prepared.layers
    given = yield from alone(_open_input(x, prepared.inputs))
    result = yield from evaluation.evaluate(plan, party, ready, _inputs(plan, given))
    if (last := _last(plan)) is None:
        return answers.apart(given, result, prepared.keys.rows, requests)
    lift, starts = ready[OUTPUT], [0, *accumulate(requests)][:-1]
    if plan.output.kind == "count":
        lift = truncation.added_up(lift, starts)
        result = np.add.reduceat(result, starts, axis=0) & ((1 << WORD.low) - 1)
    result = yield from alone(truncation.evaluate(party, last, lift, result))
    if plan.output.kind == "count":
        return answers.counted(given, result, prepared.keys, starts)
    return answers.apart(given, result, prepared.keys.rows, requests)


def _inputs(plan: Plan, values: Array) -> dict[str, Array]:
    """Arrange what a client shares of each input (rows, n) as the wires that it is: the input, and its label."""
    whole = {plan.input.name: values[:, : plan.input.size].reshape(-1, *plan.input.shape)}
    return whole | ({LABELS: values[:, plan.input.size :]} if plan.input.classes else {})


def _open_input(x: Array, mask: Array) -> Generator[Opening, Array, Array]:
    ring = Ring(WORD.low)
    opened = yield Opening((x + mask).astype(ring.dtype), Kind.RING, ring)
    value: Array = opened.astype(np.int64) & ((1 << WORD.low) - 1)
    return value
