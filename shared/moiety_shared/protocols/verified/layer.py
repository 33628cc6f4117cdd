"""One layer's side at the dealer and at a party: authenticated values, the bits of comparisons, and the result's mask.

A layer of a verified run has a module with three functions, beside those of an ordinary run:

    deal(dealer, layer, *wires)                  the dealer's masks of the wires that it reads, to that of its own
    prepare(holder, layer, *masks)               a party's randomness, and its share of the mask of the layer's wire
    evaluate(party, layer, prepared, *values)    open values to the layer's own open value; yields openings
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import Comparison
from moiety_shared.protocols import sign
from moiety_shared.protocols.dealing import Addressed, Dealer, Holder
from moiety_shared.protocols.verified import bits
from moiety_shared.protocols.verified.bits import ProvableBits
from moiety_shared.protocols.verified.dealing import AuthenticDealer, AuthenticHolder
from moiety_shared.protocols.verified.polynomials import Points, SecretPoint
from moiety_shared.protocols.verified.wires import Authentic, DealtWire
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array, Ring


class VerifiedWeights(NamedTuple):
    """One layer's constants at party p: w^ and V_p in torch's layout, float64 integers below 2^32; b^, int64 of 32
    bits; and the tags of w^ - s, float64 limbs (2, *weight shape). Of a Bias there is b^ alone, and empty arrays."""

    masked: Array
    local: Array
    bias: Array | None
    tags: Array


LayerMasks = Mapping[str, Array]
"""The dealer's s of a weight and of a bias, by "weight" and "bias": int64, the integer sums of both halves."""


class LayerDealer(AuthenticDealer):
    """The dealer's side of one layer of one bundle."""

    def __init__(
        self,
        word: Word,
        delta: Array,
        points: tuple[SecretPoint, SecretPoint],
        rows: int,
        streams: tuple[Addressed, Addressed],
        constants: Mapping[str, LayerMasks],
        output: tuple[Array, Array] | None,
    ) -> None:
        """`points` are alice's and bob's, `streams` those of the layer, `constants` those of all layers. `output` are
        both shares of the mask that a client will learn (rows, *shape), where the layer's result is the output."""
        super().__init__(word, delta, *streams)
        self.rows, self.constants, self.output = rows, constants, output
        self._points, self._streams = points, streams

    def result(self, shape: tuple[int, ...]) -> DealtWire:
        """The mask of what the layer opens in the end, (rows, *shape)."""
        words = self.mask("result", shape) if self.output is None else self.given("result", *self.output)
        return DealtWire(self.word.lowest(words), words, self.word.low + 1)

    def covered(self, shape: tuple[int, ...]) -> DealtWire:
        """The mask of a result that holds no fixed word times an odd number: a word, (rows, *shape)."""
        word = self.word
        if self.output is None:
            words = self.free("result", shape)
        else:
            words = self.fix("result", word.lowest(word.of(np.add(*self.output))))
        return DealtWire(word.lowest(words), words, word.bits)

    def signs(self, layer: Comparison, r: Array) -> Array:
        """Deal the tables, monomials and their tags for the masks r (rows, n). Returns beta (rows, n) as 0 or 1."""
        return self.provable(
            lambda dealer: sign.deal(dealer, layer, r),
            lambda holder: bits.planes(layer, *sign.prepare(holder, layer)),
        ).astype(np.int64)

    def provable(self, deal: Callable[[Dealer], Array], planes: Callable[[Holder], Array]) -> Array:
        """Deal bits as an ordinary run does, and their tags. `planes` are a party's shares (rows, planes, n)."""
        ring = Ring(self.word.low)
        dealer = Dealer(ring, self.rows, *(stream.at() for stream in self._streams))
        dealt = deal(dealer)
        pairs = enumerate(self._streams)
        holders = (Holder(ring, party, self.rows, stream.at(), dealer.corrections) for party, stream in pairs)
        alices, bobs = (planes(holder) for holder in holders)
        self.corrections |= dealer.corrections
        self.corrections |= bits.deal(self._points[0].points, self._points, self._streams, (alices, bobs))
        return dealt


class ProvableSigns(NamedTuple):
    """What party p holds of a layer's comparisons: the tables and words of `sign`, and what it takes to prove them."""

    tables: Array
    words: Array
    provable: ProvableBits


class LayerHolder(AuthenticHolder):
    """Party p's side of one layer of one bundle."""

    def __init__(
        self,
        word: Word,
        party: int,
        points: Points,
        rows: int,
        stream: Addressed,
        corrections: Mapping[str, Array],
        weights: Mapping[str, VerifiedWeights],
        output: Array | None,
    ) -> None:
        super().__init__(word, party, stream, corrections)
        self.rows, self.weights, self.output = rows, weights, output
        self._points, self._source = points, stream

    def result(self, shape: tuple[int, ...]) -> Authentic:
        """The share of the result's mask, words (2, rows, *shape)."""
        return self.mask("result", shape) if self.output is None else self.given("result", self.output)

    def covered(self, shape: tuple[int, ...]) -> Authentic:
        """The share of a result's mask that is a word, (2, rows, *shape)."""
        return self.free("result", shape) if self.output is None else self.fixed("result", shape)

    def signs(self, layer: Comparison) -> ProvableSigns:
        """Return what `sign.prepare` does, and what proves it."""
        tables, words = sign.prepare(self.ordinary(), layer)
        planes = bits.planes(layer, tables, words)
        return ProvableSigns(tables, words, self.provable(planes, lambda x: bits.summands(layer, x)))

    def ordinary(self) -> Holder:
        """What holds the bits, as in an ordinary run."""
        return Holder(Ring(self.word.low), self.party, self.rows, self._source.at(), self._corrections)

    def provable(self, planes: Array, multiples: Callable[[Array], Array]) -> ProvableBits:
        """Return what proves sums of these planes (rows, planes, n), of which `multiples` makes the summands."""
        return bits.prepare(self._points, self.party, self._source, planes, self._corrections, multiples)


class RunningParty(NamedTuple):
    """Party p in one run: its number, the public 1 as shares of a value and of its tag, words (2,), and the model."""

    word: Word
    number: int
    one: Authentic
    weights: Mapping[str, VerifiedWeights]
