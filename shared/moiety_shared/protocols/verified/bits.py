"""The claim of a comparison: that the looked-up bits and the masked signs are those of what was dealt.

Each entry of a table, each mask and each monomial of a comparison is a bit that both parties hold an XOR share of. One
such bit, of all comparisons of a row, is a *plane*. A plane is cut into groups of k, and a party's shares in a group
are the values of a polynomial X at k slots; the other party knows tau = X(zeta) at its secret point (polynomials.py).

    pads of alice, tau of alice      their streams
    tau of bob, pads of bob          sent to bob: 8 bytes each for a group of a plane

The byte that a party sends, with its share of the masked sign as bit 7, is a sum over planes, slot by slot, if bit c of
a byte is worth x^c in K:

    byte = sum C Y  + what is public        Y: fixed multiples of planes; C: public bits, such as "the digit is v"

So at the end a party proves its bytes of all layers with one polynomial, weighted by coins w of L:

    P(z) = sum w sum C(z) Y(z) + A(z)        of degree at most 2k + 14

The other takes P at the slots from the bytes that it got, is sent P at k + 7 further points, interpolates it at zeta,
and compares that with sum w C(zeta) tau + A(zeta). A is a dealt mask, 0 at slots and pads. A wrong byte survives the
weights with 2^-64, and a wrong polynomial agrees at zeta with probability (2k + 14) / 2^64.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from moiety_shared.plan.lookups import Comparison
from moiety_shared.protocols import sign
from moiety_shared.protocols.dealing import Source
from moiety_shared.protocols.verified import fields
from moiety_shared.protocols.verified.claims import CheckFailed, ClaimSums
from moiety_shared.protocols.verified.polynomials import PADS, Points, SecretPoint, packed_groups
from moiety_shared.ring import Array

_SIGN = 7  # the bit of a byte that holds the masked sign
_CACHED_BYTES = 1 << 17
"""The values at further points that are computed at a time: they stay in the cache until they are multiplied."""


class ProvableBits(NamedTuple):
    """What party p holds of a comparison's bits: Y at the further points (rows, summands, groups, k + 7), bytes of K,
    for its own proof; and the other's Y at zeta (rows, summands, groups), uint64 of L."""

    further: Array
    at_point: Array


def planes(layer: Comparison, tables: Array, words: Array) -> Array:
    """A party's shares of all bits of a comparison, as `sign.prepare` returns them: (rows, planes, n) of 0 and 1."""
    of_tables = [
        tables[:, place] >> entry & 1 for place in range(len(layer.digits)) for entry in range(_entries(layer, place))
    ]
    of_words = [words >> bit & 1 for bit in range(layer.lookups + 1 + layer.monomials)]
    return np.stack([plane.astype(np.uint8) for plane in (*of_tables, *of_words)], axis=1)


def _entries(layer: Comparison, place: int) -> int:
    """The number of a table's bits that are looked up: of each value of the digit, and of the one after the last."""
    return min((1 << layer.digits[place][1]) + 1, 8 * np.dtype(layer.table_dtype).itemsize)


def summands(layer: Comparison, x: Array) -> Array:
    """Y (rows, summands, ...) from the planes X (rows, planes, ...), bytes of K: one for each value of each digit but
    the last value, and one for each coefficient that bits of the word have.

    Some value of a digit is chosen always. So that of the last value is added to those of the others, and to what is
    chosen always: the masks, and the bits of the word whose coefficient is 1.
    """
    out, at = list[Array](), 0
    always = np.zeros((len(x), *x.shape[2:]), np.uint8)
    for place, (_, width) in enumerate(layer.digits):
        table = x[:, at : at + _entries(layer, place)]
        at += table.shape[1]
        reached = table[:, : 1 << width]
        beyond = np.zeros_like(reached)
        beyond[:, : table.shape[1] - 1] = table[:, 1:]
        each = _times(1 << 2 * place, beyond)
        if place:
            each ^= _times(1 << 2 * place - 1, reached ^ beyond)
        always ^= each[:, -1]
        out.append(each[:, :-1] ^ each[:, -1:])
    word = x[:, at:]
    for place in range(layer.lookups):
        always ^= _times(1 << place, word[:, place])
    word = _times(1 << _SIGN, word)
    first, *others = (np.bitwise_xor.reduce(word[:, bits], axis=1) for bits in _coefficients(layer).bits)
    return np.concatenate([*out, np.stack((first ^ always, *others), axis=1)], axis=1)


def _times(factor: int, a: Array) -> Array:
    product: Array = fields.byte_table()[factor].take(a)
    return product


class Chosen(NamedTuple):
    """C, as what chooses the summands of each slot: the values of its digits (rows, digits, groups, slots), and the
    coefficients that are 1 (rows, groups, slots), a bit for each. Where no comparison has a slot, the values are above
    all that they can be, and no coefficient is 1."""

    digits: Array
    coefficients: Array

    @classmethod
    def of(cls, layer: Comparison, points: Points, opened: Array, bits: Array) -> "Chosen":
        """From t^ (rows, n) and the open looked-up bits (rows, n), which are read as the evaluation reads them."""
        digits = points.grouped(sign.digits_of(layer, opened), 1 << layer.digit_bits)
        most = (1 << layer.lookups) - 1
        return cls(digits, _coefficients(layer).values.take(points.grouped(np.minimum(bits, most), most + 1)))

    def packed(self, layer: Comparison) -> Array:
        """C (rows, summands, groups, ceil(k / 8)), packed bits."""
        at, count = 0, len(_coefficients(layer).bits)
        out = np.empty((len(self.digits), _digit_summands(layer) + count, *self.digits.shape[2:]), np.bool_)
        for place, (_, width) in enumerate(layer.digits):
            values = np.arange((1 << width) - 1, dtype=np.uint8)[:, None, None]
            np.equal(self.digits[:, place, None], values, out=out[:, at : at + len(values)])
            at += len(values)
        places = (1 << np.arange(count, dtype=self.coefficients.dtype))[:, None, None]
        for coefficients, into in zip(self.coefficients, out[:, at:], strict=True):
            np.not_equal(coefficients & places, 0, out=into)
        return packed_groups(out)

    def sums(self, layer: Comparison, slots: int, y: Array) -> Array:
        """sum C Y at each of the k slots (rows, groups, k), from Y (rows, summands, groups), uint64 of L."""
        out, at = np.zeros((*self.coefficients.shape[:2], slots), np.uint64), 0
        for place, (_, width) in enumerate(layer.digits):
            each = np.swapaxes(y[:, at : at + (1 << width) - 1], 1, 2)
            out ^= _picked(each, self.digits[:, place, :, :slots])
            at += each.shape[2]
        for first in range(0, y.shape[1] - at, 8):
            every = _subsets(y[:, at + first : at + first + 8])
            out ^= _picked(every, self.coefficients[..., :slots] >> first & 255)
        return out


def _picked(values: Array, index: Array) -> Array:
    """Of each group the value that each slot names, 0 above the last: values (rows, groups, v) by (rows, groups,
    slots)."""
    rows, groups, count = values.shape
    whole = np.zeros((rows * groups, count + 1), np.uint64)
    whole[:, :count] = values.reshape(-1, count)
    starts = (count + 1) * np.arange(rows * groups).reshape(rows, groups, 1)
    picked: Array = whole.reshape(-1).take(np.minimum(index, count) + starts)
    return picked


def _subsets(y: Array) -> Array:
    """The sums of all subsets of Y (rows, n, groups): (rows, groups, 2^n). A subset's number has a bit for each Y."""
    out = np.zeros((len(y), y.shape[2], 1 << y.shape[1]), np.uint64)
    for bit in range(y.shape[1]):
        np.bitwise_xor(out[..., : 1 << bit], y[:, bit, :, None], out=out[..., 1 << bit : 2 << bit])
    return out


def _digit_summands(layer: Comparison) -> int:
    """The number of summands that digits choose. They come first."""
    return sum((1 << width) - 1 for _, width in layer.digits)


class _Coefficients(NamedTuple):
    """The coefficients that bits of a word have, each once: which bits have each one, and which of them are 1 for each
    byte of looked-up bits, (2^lookups + 1,) uint16. The first is always 1, but for the last byte, where none is."""

    bits: tuple[list[int], ...]
    values: Array


def _coefficients(layer: Comparison) -> _Coefficients:
    return _different(len(layer.digits), layer.word_dtype, layer.lookups + 1 + layer.monomials)


@cache
def _different(digits: int, dtype: str, count: int) -> _Coefficients:
    """See `_Coefficients`; the words have `count` bits."""
    words = sign.coefficients(digits, dtype)
    found: dict[bytes, list[int]] = {np.ones_like(words).tobytes(): []}
    for bit in range(count):
        found.setdefault((words >> bit & 1).tobytes(), []).append(bit)
    each = [np.frombuffer(column, dtype).astype(np.uint16) << place for place, column in enumerate(found)]
    return _Coefficients(tuple(found.values()), np.append(np.bitwise_or.reduce(each), np.uint16(0)))


def public_sign(layer: Comparison, opened: Array, bits: Array) -> Array:
    """What bob XORs to his share of the masked sign, (rows, n)."""
    words = sign.coefficients(len(layer.digits), layer.word_dtype).take(bits, mode="clip")
    last = words >> (layer.lookups + 1 + layer.monomials) & 1
    public: Array = (last ^ (opened >> layer.range_bits & 1)).astype(np.uint8)
    return public


def deal(
    points: Points, keys: tuple[SecretPoint, SecretPoint], streams: tuple[Source, Source], shares: tuple[Array, Array]
) -> dict[str, Array]:
    """Deal pads and tau of both directions. `keys` are alice's and bob's secret points, `shares` their planes (rows,
    planes, n). Returns what is sent to bob."""
    alices, bobs = (points.packed(share) for share in shares)
    tau = keys[1].of_bits(alices) ^ keys[1].of_pads(_pads(streams[0], alices))
    return {"tau": tau, "pads": keys[0].pads_of(_tau(streams[0], bobs) ^ keys[0].of_bits(bobs))}


def _pads(source: Source, packed: Array) -> Array:
    return source.words("pads", (*packed.shape[:-1], PADS), np.uint8)


def _tau(source: Source, packed: Array) -> Array:
    return source.words("tau", packed.shape[:-1], np.uint64)


def prepare(
    points: Points,
    party: int,
    stream: Source,
    share: Array,
    corrections: Mapping[str, Array],
    multiples: Callable[[Array], Array],
) -> ProvableBits:
    """Compute all of the proof and its check that does not depend on t^, from party p's planes (rows, planes, n).
    `multiples` makes Y (rows, summands, ...) of planes (rows, planes, ...)."""
    packed = points.packed(share)
    pads, tau = (corrections["pads"], corrections["tau"]) if party else (_pads(stream, packed), _tau(stream, packed))
    at_point = fields.words(multiples(fields.unwords(tau)))
    return ProvableBits(multiples(points.extended(packed, pads)), at_point)


class LookedUp(NamedTuple):
    """Comparisons of one round: t^; the party's own share of the looked-up bits, and these open; and its own share of
    the masked signs, and these open. All (rows, n)."""

    t: Array
    looked_up: Array
    bits: Array
    mine: Array
    signs: Array


@dataclass(frozen=True)
class LookUpClaim:
    """That both the looked-up bits, opened before, and the masked signs are those of what was dealt. A layer has one
    claim, at its last opening of signs; `earlier` are those that it opened before."""

    layer: Comparison
    party: int
    ready: ProvableBits
    t: Array
    looked_up: Array
    bits: Array
    earlier: Sequence[LookedUp] = ()

    def settle(self, check: ClaimSums, mine: Array, opened: Array) -> None:
        """Raises CheckFailed too."""
        rounds = (*self.earlier, LookedUp(self.t, self.looked_up, self.bits, mine, opened))
        every = LookedUp(*(np.concatenate(parts, axis=1) for parts in zip(*rounds, strict=True)))
        if _unread(self.layer, every.bits):
            raise CheckFailed
        public = public_sign(self.layer, every.t, every.bits)
        signs = every.signs ^ every.mine ^ public if self.party == 0 else every.signs ^ every.mine
        theirs = signs << _SIGN | (every.bits ^ every.looked_up)
        key = check.look_ups.key
        chosen = Chosen.of(self.layer, key.points, every.t, every.bits)
        expected = key.of_slots(chosen.sums(self.layer, key.points.slots, self.ready.at_point))
        prove(check, self.layer.name, self.ready.further, chosen.packed(self.layer), fields.unwords(expected), theirs)


def _unread(layer: Comparison, looked_up: Array) -> bool:
    """Whether a byte has bits above those that are looked up. No proof covers them: the sign is in their place."""
    return bool((looked_up >> layer.lookups).any())


def prove(check: ClaimSums, name: str, further: Array, packed: Array, expected: Array, theirs: Array) -> None:
    """Add to both parties' proofs that bytes are sum C Y, with C (rows, summands, groups, ceil(k / 8)), packed bits.

    `further` is one's own Y (rows, summands, groups, k + 7), `expected` what sum C Y is at zeta for the other's
    (rows, groups, 8), and `theirs` are the bytes (rows, n) that the other party sent. Each name is used once.
    """
    sums, (rows, _, groups, _) = check.look_ups, packed.shape
    own = np.empty((rows, groups, further.shape[-1]), np.uint8)
    step = max(_CACHED_BYTES * rows // further.nbytes, 1)
    for at in range(0, rows, step):
        part = slice(at, at + step)
        each = fields.byte_product(sums.points.extended(packed[part]), further[part])
        np.bitwise_xor.reduce(each, axis=1, out=own[part])
    said = sums.points.grouped(theirs)[..., : sums.points.slots]
    weights = check.coins.field(name, rows * groups)
    sums.add(weights, *(part.reshape(rows * groups, -1) for part in (own, expected, said)))
