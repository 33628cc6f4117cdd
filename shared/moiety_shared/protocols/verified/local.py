"""Layers that open nothing: the parties know x^, so they compute y^ = L(x^) alone, under the mask L(r).

A wire's tag goes with it where L is applied to shares and tags as to values. Where that is not possible, Open, whose
wire a product reads, fixes the mask anew with a tag: 13 bytes a value, and no round. (The parties open y^ of a product
under a mask that no party holds a share of. ReLU needs none.)
"""

from collections.abc import Generator

import numpy as np

from moiety_shared.plan.layers import Bias, Layer, Open
from moiety_shared.plan.local import Combine, Local, Take
from moiety_shared.protocols.opening import Opening
from moiety_shared.protocols.verified.layer import LayerDealer, LayerHolder, RunningParty
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array

_GAIN_BITS = 26  # what a limb of 36 bits may gain in int64


def deal(dealer: LayerDealer, layer: Layer, *x: DealtWire) -> DealtWire:
    """The mask of the layer's wire."""
    word, values = dealer.word, [wire.low for wire in x]
    match layer:
        case Open() if x[0].words is None:
            return DealtWire(values[0], dealer.fix("mask", values[0]), word.bits)
        case Local() if bits := _bits(word, layer, [wire.bits for wire in x]):
            words = _applied(word, layer, [wire.tagged for wire in x])
            return DealtWire(word.lowest(words), words, bits)
        case Local() | Bias():
            bias = dealer.constants[layer.name]["bias"] if isinstance(layer, Bias) else None
            return DealtWire(_value(word, layer, values, bias))
    return x[0]


def prepare(holder: LayerHolder, layer: Layer, *masks: Authentic | None) -> tuple[None, Authentic | None]:
    """Party p's share of the mask, where the wire is tagged."""
    mask = masks[0] if isinstance(layer, Open) else None
    if isinstance(layer, Open) and mask is None:
        mask = holder.fixed("mask", (holder.rows, *layer.shape))
    if isinstance(layer, Local):
        known = [one for one in masks if one is not None]
        bits = _bits(holder.word, layer, [one.bits if one else 0 for one in masks])
        if bits:
            shares, tags = ([getattr(one, part) for one in known] for part in ("value", "tag"))
            mask = Authentic(_applied(holder.word, layer, shares), _applied(holder.word, layer, tags), bits)
    return None, mask


def evaluate(party: RunningParty, layer: Layer, prepared: object, *x: Array) -> Generator[Opening, Array, Array]:
    """Compute the layer's open values. No opening."""
    yield from ()
    if isinstance(layer, Open):
        return x[0]
    bias = party.weights[layer.name].bias if isinstance(layer, Bias) else None
    return _value(party.word, layer, list(x), bias)


def _value(word: Word, layer: Layer, x: list[Array], bias: Array | None) -> Array:
    """Compute L(x) modulo 2^32: int64 wraps modulo a multiple of that."""
    whole = layer.apply(*x) if isinstance(layer, Local) else x[0] + bias
    value: Array = whole & ((1 << word.low) - 1)
    return value


def _bits(word: Word, layer: Local, bits: list[int]) -> int:
    """The bits of the words that the layer makes of words of so many bits; 0 where they have no tag, or would leave
    int64."""
    gain = sum(layer.gains) if isinstance(layer, Combine) else max(layer.gains)
    if not all(bits) or gain >> _GAIN_BITS:
        return 0
    factors = (
        layer.factors if isinstance(layer, Combine) else np.ravel(layer.factors) if isinstance(layer, Take) else ()
    )
    return word.bits if any(factor < 0 for factor in factors) else min(max(bits) + (gain - 1).bit_length(), word.bits)


def _applied(word: Word, layer: Local, words: list[Array]) -> Array:
    return word.wrap(np.stack([layer.apply(*(each[limb] for each in words)) for limb in (0, 1)]))
