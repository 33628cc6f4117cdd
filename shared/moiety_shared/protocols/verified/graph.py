"""Whole plans in verified mode: deals, prepares and evaluates their layers one after another. No I/O.

Every wire between layers is open under a mask. Open of the input is the only opening of shares: what a ReLU gives is
open already, under the mask that the next product reads.
"""

from collections.abc import Generator, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.layers import Layer, Linear, Open
from moiety_shared.plan.lookups import ReLU
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols import sign
from moiety_shared.protocols.dealing import Addressed, Dealer, Holder, Source, uniform
from moiety_shared.protocols.opening import Kind, Opening, Result, Round, Session
from moiety_shared.protocols.verified import answers, bits, claims, product, proofs, select
from moiety_shared.protocols.verified.answers import InputSource, PartyAnswer, RowKeys
from moiety_shared.protocols.verified.claims import Nonces, Standing, Verdict
from moiety_shared.protocols.verified.dealing import Authentic, AuthenticDealer, AuthenticHolder
from moiety_shared.protocols.verified.polynomials import MAX_SLOTS, Points, SecretPoint
from moiety_shared.protocols.verified.product import Masked, PreparedVerified, VerifiedWeights
from moiety_shared.protocols.verified.select import VerifiedReLU
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array, Ring

WORD = Word()
VERDICT = "/verdict"  # no layer's name
_COMPARISON_WORK = 1000  # a comparison and its proof cost about as much as that many multiply-adds

Corrections = dict[str, Array]


class PartyKey(NamedTuple):
    """What party p keeps for the life of an upload: its share of Delta, words (2,), and its secret point."""

    party: int
    delta: Array
    point: SecretPoint

    @property
    def one(self) -> Authentic:
        """The public 1, as a share of a value and of its tag."""
        return Authentic(WORD.of(np.array(self.party, np.int64)), self.delta)


class LayerMasks(NamedTuple):
    """The dealer's s of a weight (out, in) and of its bias (out,): int64, the integer sums of both halves."""

    weight: Array
    bias: Array


Prepared = PreparedVerified | VerifiedReLU | Authentic


class PreparedRun(NamedTuple):
    """What party p computed of a bundle: its layers; row by row the shares of a verdict, of which a run uses the first
    row's, and the masks of proofs, which it adds up; and the keys that the client will learn."""

    layers: dict[str, Prepared]
    verdicts: list[Verdict]
    masks: list[proofs.ProofMask]
    keys: RowKeys


def check_supported(plan: Plan) -> None:
    """Raises ValueError where the plan has something that this mode does not verify yet."""
    made = {layer.name: layer for layer in plan.layers}
    for layer in plan.layers:
        reads = [made.get(name) for name in layer.reads]
        match layer, reads:
            case (Open(), [None | ReLU()]) | (Linear(bias=True), [Open()]) | (ReLU(), [Linear()]):
                continue
        raise ValueError(f"layer {layer.name!r} cannot be verified yet")
    last = made.get(plan.output.wire)
    if len(plan.readers[plan.input.name]) > 1:  # the client compares one opening of x
        raise ValueError("an input that several layers read cannot be verified yet")
    if plan.ring_bits != WORD.low or plan.input.classes or not isinstance(last, Linear) or plan.readers[last.name]:
        raise ValueError("only outputs of a last linear layer, in a ring of 32 bits, can be verified yet")


def points_of(plan: Plan) -> Points:
    """The points of all look-ups of a plan: groups of at most 120, alike for all layers."""
    counts = [layer.comparisons for layer in plan.layers if layer.comparisons] or [1]
    return Points(max(-(-count // -(-count // MAX_SLOTS)) for count in counts))


def draw_key(plan: Plan, party: int, stream: Stream) -> PartyKey:
    """Draw party p's key of an upload from the stream that the dealer shares with it."""
    return PartyKey(party, WORD.uniform(stream, "delta", ()), SecretPoint.draw(points_of(plan), stream))


_PARTS = ("weight", "bias")


def _half(layer: Linear, upload: Stream, part: str) -> Array:
    """A party's half of s, int64 of 32 bits: the owner's own streams, as without verification."""
    half = uniform(Ring(WORD.low), upload.at(layer.name), part, layer.weights()[part])
    return half.astype(np.int64) & ((1 << WORD.low) - 1)


def deal_upload(
    plan: Plan, keys: tuple[PartyKey, PartyKey], owner: tuple[Stream, Stream], own: tuple[Stream, Stream]
) -> tuple[dict[str, LayerMasks], dict[str, Corrections]]:
    """Deal the tags of all weights. `owner` are the streams of s that the owner gave, `own` the dealer's.

    Returns the dealer's masks and what is sent to bob, by layer.
    """
    masks, sent = dict[str, LayerMasks](), dict[str, Corrections]()
    for layer in plan.layers:
        if isinstance(layer, Linear):
            s = LayerMasks(*(_half(layer, owner[0], part) + _half(layer, owner[1], part) for part in _PARTS))
            dealer = AuthenticDealer(WORD, WORD.wrap(keys[0].delta + keys[1].delta), *(o.at(layer.name) for o in own))
            product.deal_weight(dealer, WORD, s.weight)
            masks[layer.name], sent[layer.name] = s, dealer.corrections
    return masks, sent


def weights_at(
    plan: Plan, party: int, masked: Mapping[str, Array], owner: Stream, own: Stream, sent: Mapping[str, Corrections]
) -> dict[str, VerifiedWeights]:
    """Party p's part of the model, from w^ by "layer.weight", the streams of the upload, and what the dealer sent bob;
    alice passes nothing for that."""
    weights, low = dict[str, VerifiedWeights](), (1 << WORD.low) - 1
    for layer in plan.layers:
        if isinstance(layer, Linear):
            weight, bias = (masked[f"{layer.name}.{part}"].astype(np.int64) & low for part in _PARTS)
            holder = AuthenticHolder(WORD, party, own.at(layer.name), sent.get(layer.name, {}))
            half = _half(layer, owner, "weight")
            weights[layer.name] = product.prepare_weight(holder, WORD, party, weight, bias, half)
    return weights


def deal(
    plan: Plan,
    rows: int,
    keys: tuple[PartyKey, PartyKey],
    masks: Mapping[str, LayerMasks],
    streams: tuple[Addressed, Addressed],
) -> Iterator[tuple[str, Corrections]]:
    """Deal one bundle: yield what is sent to bob, by layer in the plan's order, and at last for the verdict."""
    delta, wires = WORD.wrap(keys[0].delta + keys[1].delta), dict[str, Array]()
    for layer in plan.layers:
        dealer = AuthenticDealer(WORD, delta, *(_source(plan, layer, stream, rows) for stream in streams))
        match layer:
            case Open() if layer.input in wires:
                wires[layer.name] = wires[layer.input]
            case Open():
                wires[layer.name] = dealer.mask("input", (rows, *layer.shape))
            case Linear() if layer.name == plan.output.wire:
                halves = [answers.output_mask(WORD, RowKeys.draw(s, rows), layer.output_shape) for s in streams]
                product.deal_output(dealer, WORD, layer, wires[layer.input], *masks[layer.name], halves[0] + halves[1])
            case Linear():
                wires[layer.name] = product.deal(dealer, WORD, layer, wires[layer.input], *masks[layer.name])
            case ReLU():
                local = [stream.at(layer.name) for stream in streams]
                looked_up = Dealer(Ring(WORD.low), rows, *local)
                wires[layer.name] = select.deal(dealer, looked_up, WORD, layer, wires[layer.input])
                dealer.corrections |= looked_up.corrections
                dealer.corrections |= _deal_tags(keys, layer, rows, streams, looked_up.corrections)
        yield layer.name, dealer.corrections
    yield VERDICT, _deal_verdict(keys, rows, streams)


def _source(plan: Plan, layer: Layer, stream: Addressed, rows: int) -> Source:
    """What a layer of a bundle draws from."""
    source = stream.at(layer.name)
    return InputSource(RowKeys.draw(stream, rows), source) if layer.reads == (plan.input.name,) else source


def _points(keys: tuple[PartyKey, PartyKey]) -> tuple[SecretPoint, SecretPoint]:
    return keys[0].point, keys[1].point


def _deal_tags(
    keys: tuple[PartyKey, PartyKey], layer: ReLU, rows: int, streams: tuple[Addressed, Addressed], sent: Corrections
) -> Corrections:
    """Deal the tags of a comparison's bits, of which each party holds what `prepare` makes of its stream."""
    holders = (Holder(Ring(WORD.low), p, rows, stream.at(layer.name), sent) for p, stream in enumerate(streams))
    alices, bobs = (bits.planes(layer, *sign.prepare(holder, layer)) for holder in holders)
    sources = streams[0].at(layer.name), streams[1].at(layer.name)
    return bits.deal(keys[0].point.points, _points(keys), sources, (alices, bobs))


def _deal_verdict(keys: tuple[PartyKey, PartyKey], rows: int, streams: tuple[Addressed, Addressed]) -> Corrections:
    sources = streams[0].at(VERDICT), streams[1].at(VERDICT)
    return claims.deal_verdicts(sources, rows) | proofs.deal_mask(keys[0].point.points, _points(keys), sources, rows)


def prepare(
    plan: Plan,
    key: PartyKey,
    rows: int,
    weights: Mapping[str, VerifiedWeights],
    stream: Addressed,
    sent: Mapping[str, Corrections],
) -> PreparedRun:
    """Compute all that party p can before the inputs exist. bob passes what the dealer sent."""
    masks, ready, points = dict[str, Authentic](), dict[str, Prepared](), key.point.points
    for layer in plan.layers:
        source, corrections = _source(plan, layer, stream, rows), sent.get(layer.name, {})
        holder = AuthenticHolder(WORD, key.party, source, corrections)
        match layer:
            case Open():
                masks[layer.name] = masks.get(layer.input) or holder.mask("input", (rows, *layer.shape))
                ready[layer.name] = masks[layer.name]
            case Linear():
                last, mask = layer.name == plan.output.wire, masks[layer.input].value
                ready[layer.name] = product.prepare(holder, WORD, key.party, layer, mask, weights[layer.name], last)
            case ReLU():
                signs = sign.prepare(Holder(Ring(WORD.low), key.party, rows, source, corrections), layer)
                shares = bits.planes(layer, *signs)
                provable = bits.prepare(points, layer, key.party, stream.at(layer.name), shares, corrections)
                ready[layer.name] = relu = select.prepare(holder, layer, rows, signs, provable)
                masks[layer.name] = relu.mask
    source, corrections = stream.at(VERDICT), sent.get(VERDICT, {})
    verdicts = claims.prepare_verdicts(key.party, source, rows, corrections)
    proof_masks = proofs.prepare_mask(points, key.party, source, rows, corrections)
    return PreparedRun(ready, verdicts, proof_masks, RowKeys.draw(stream, rows))


def _input_layer(plan: Plan) -> str:
    return next(layer.name for layer in plan.layers if layer.reads == (plan.input.name,))


def run(
    plan: Plan,
    key: PartyKey,
    name: bytes,
    x: Array,
    prepared: PreparedRun,
    weights: Mapping[str, VerifiedWeights],
    nonces: Nonces,
    standing: Standing,
) -> Session[PartyAnswer]:
    """Turn [x]_p (rows, values of one input) into party p's answer to the client, and check the other party.

    `name` is the run's, the same at both parties and never used again. Raises CheckFailed and UploadEnded.
    """
    sums = proofs.LookUpSums.start(key.point, prepared.masks)
    session = evaluate(plan, key, x, prepared, weights)
    return claims.checked(
        session, claims.VerifiedRun(WORD, key.party, name, prepared.verdicts[0], nonces, sums, standing)
    )


def evaluate(
    plan: Plan, key: PartyKey, x: Array, prepared: PreparedRun, weights: Mapping[str, VerifiedWeights]
) -> Session[PartyAnswer]:
    """Run all layers without the check."""
    opened, masked = dict[str, Masked](), dict[str, Array]()
    for layer in plan.layers:
        ready = prepared.layers[layer.name]
        match layer, ready:
            case Open(), _ if layer.input in opened:
                opened[layer.name] = opened[layer.input]
            case Open(), Authentic():
                opened[layer.name] = yield from _alone(_open_input(x.reshape(-1, *layer.shape), ready), 0)
            case Linear(), PreparedVerified():
                y = product.evaluate(WORD, key.one, layer, opened[layer.input], ready, weights[layer.name])
                masked[layer.name] = yield from _alone(y, len(x) * layer.multiply_adds)
            case ReLU(), VerifiedReLU():
                h = select.evaluate(WORD, key.one, key.party, layer, masked[layer.input], ready)
                opened[layer.name] = yield from _alone(h, len(x) * layer.comparisons * _COMPARISON_WORK)
    x_opened = answers.digest(opened[_input_layer(plan)].value)
    return PartyAnswer(x_opened, WORD.lowest(masked[plan.output.wire]), prepared.keys)


def _open_input(x: Array, mask: Authentic) -> Generator[Opening, Array, Masked]:
    ring = Ring(WORD.low)
    opened = yield Opening((x + mask.value).astype(ring.dtype), Kind.RING, ring)
    return Masked(opened.astype(np.int64) & ((1 << WORD.low) - 1), mask)


def _alone(step: Generator[Opening, Array, Result], work: int) -> Session[Result]:
    """Run one layer, one opening a round."""
    opening = next(step)
    while True:
        (opened,) = yield Round((opening,), work)
        try:
            opening = step.send(opened)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
