"""Layers in tiny rings, and what of their randomness is enumerated."""

from typing import Any

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.layers import lift_bits
from moiety_shared.plan.lookups import Decide, Lookup, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.waves import Wave, Waves
from tests.protocols.enumeration import Axis
from tests.protocols.exhaustion import Case


def truncate(shift: int, opened_bits: int) -> Truncate:
    return Truncate(name="t", input="x", shape=(1,), shift=shift, opened_bits=opened_bits)


def wide(k: int, layer: Truncate) -> Case:
    """Every bit of everything that either party ever holds."""
    q = layer.opened_bits
    return Case(k, layer, k, (Axis("value", 1, q), Axis("lift", 2, lift_bits(q, k))), (Axis("value", 1, q),))


def compared(k: int, layer: Lookup, share_bits: int, *, both: bool = False, only: Any = None, **names: int) -> Case:
    """The masks of the values, of alice or of both, and alice's words of the named masks."""
    mask = Axis("value", layer.size, layer.opened_bits)
    small = layer.rank_bits if isinstance(layer, TopK) else layer.opened_bits
    others = tuple(Axis(name, count, small) for name, count in names.items())
    return Case(k, layer, share_bits, (mask, *others), (mask,) if both else (), only)


def with_sign(k: int, layer: ReLU) -> Case:
    """The masks and the mask bits of both, and all that the dealer fixes for the sign."""
    masks = Axis("value", 1, layer.opened_bits), Axis("masks", 1, layer.lookups + 1)
    tables = Axis("tables", len(layer.digits), 1 << layer.digit_bits), Axis("monomials", 1, layer.monomials)
    return Case(k, layer, 0, (*masks, *tables), masks)


def hinged(shift: int, q: int, B: int, digit: int, hinges: tuple[int, ...] = (0,)) -> ReLU:
    return ReLU(
        name="r", input="x", shape=(1,), shift=shift, opened_bits=q, range_bits=B, digit_bits=digit, hinges=hinges
    )


def decided(shift: int, q: int, B: int, digit: int, *hinges: int) -> Decide:
    return Decide(**hinged(shift, q, B, digit, hinges).model_dump(exclude={"op"}))


def indexed(k: int, classes: int, *, indices: int = 1, full: bool = False) -> Case:
    """The masks of both; in full also all that the dealer fixes."""
    w = max((classes - 1).bit_length(), 2)
    shape = (1,) if indices == 1 else (indices, 1)
    layer = OneHot(name="h", input="labels", shape=shape, opened_bits=w, classes=classes)
    mask, row = Axis("value", indices, w), Axis("row", indices << w, k)
    return Case(k, layer, k, (mask, row) if full else (mask,), (mask,))


def pool(shape: tuple[int, int], shift: int, q: int, B: int, digit: int) -> MaxPool:
    return MaxPool(
        name="m",
        input="x",
        shape=(1, *shape),
        kernel=shape,
        stride=shape,
        output_size=(1, 1),
        shift=shift,
        opened_bits=q,
        range_bits=B,
        digit_bits=digit,
    )


def ranked(n: int, result: Any, shift: int, q: int, B: int, digit: int, k: int = 1) -> TopK:
    return TopK(
        name="k",
        input="x",
        shape=(n,),
        shift=shift,
        opened_bits=q,
        range_bits=B,
        digit_bits=digit,
        k=k,
        result=result,
    )


def looked_up(shift: int, m: int, *values: tuple[int, ...]) -> Table:
    return Table(name="f", input="x", shape=(1,), shift=shift, opened_bits=m, values=values)


def table_case(k: int, layer: Table, *, full: bool = False) -> Case:
    """The masks of value and output bits of both; in full also all that the dealer fixes."""
    masks = Axis("value", 1, layer.opened_bits), Axis("masks", sum(layer.widths), 1)
    fixed = Axis("one_hot", layer.words, 1 << layer.opened_bits), Axis("beta", sum(layer.widths), k)
    return Case(k, layer, k, (*masks, *fixed) if full else masks, masks)


def waving(shift: int, q: int, word_bits: int, *waves: tuple[int, int, int], constant: int = 0) -> Waves:
    """Each wave is (cosine, sine, table_bits)."""
    made = tuple(Wave(cosine=c, sine=s, table_bits=a) for c, s, a in waves)
    return Waves(
        name="f", input="x", shape=(1,), shift=shift, opened_bits=q, word_bits=word_bits, constant=constant, waves=made
    )


def waves_case(k: int, layer: Waves, *, full: bool = False, only: Any = None) -> Case:
    """The masks of both; in full also all that the dealer fixes. Of alice's shares the bits that hold the dither."""
    mask, words = Axis("value", 1, layer.opened_bits), Axis("words", layer.words, layer.word_bits)
    return Case(k, layer, layer.shift, (mask, words) if full else (mask,), (mask,), only)


def raised(shift: int, q: int, word_bits: int, **more: int) -> Exp2:
    return Exp2(name="f", input="x", shape=(1,), shift=shift, opened_bits=q, word_bits=word_bits, **more)


def exp2_case(k: int, layer: Exp2, *, full: bool = False, only: Any = None) -> Case:
    """The masks of both; in full also all that the dealer fixes. Of alice's shares the bits that hold the dither."""
    mask, words = Axis("value", 1, layer.opened_bits), Axis("words", layer.spans, layer.word_bits)
    return Case(k, layer, layer.shift, (mask, words) if full else (mask,), (mask,), only)


def by_pieces(function: Any, q: int, m: int, degree: int, *, frac_bits: int, lowest: int, bits: int) -> Case:
    """The masks of both, for every t mod 2^q."""
    layer = Pieces(
        name="f",
        input="x",
        shape=(1,),
        shift=1,
        opened_bits=q,
        word_bits=bits,
        function=function,
        frac_bits=frac_bits,
        lowest=lowest,
        piece_bits=m,
        degree=degree,
        value_bits=4,
        table_bits=3,
    )
    mask = Axis("value", 1, q)
    return Case(bits, layer, 1, (mask,), (mask,), tuple(range(2 << q)))


def normalised(k: int, shift: int, B: int, digit: int, *hinges: int, full: bool = False) -> Case:
    """The masks of both; in full also all that the dealer fixes in the ring."""
    head: dict[str, Any] = {"opened_bits": k - shift, "range_bits": B, "digit_bits": digit}
    layer = Normalise(name="n", input="x", shape=(1,), shift=shift, hinges=hinges, **head)
    mask, beta = Axis("value", 1, k), Axis("beta", 2 * len(hinges), k)
    return Case(k, layer, 0, (mask, beta) if full else (mask,), (mask,) if k < 7 else ())


CASES = {
    "truncate: 3 of 4 bits": wide(4, truncate(1, 3)),
    "truncate: 2 of 4 bits": wide(4, truncate(2, 2)),
    "truncate: the middle bits": wide(4, truncate(1, 2)),
    "truncate: the low bits": wide(4, truncate(0, 3)),
    "truncate: nothing to lift": wide(4, truncate(0, 4)),
    "truncate: a large shift": wide(5, truncate(3, 2)),
    "relu: 1 digit of 3 bits": compared(6, hinged(2, 4, 3, 3), 6, both=True),
    "relu: 1 digit, the smallest range": compared(4, hinged(1, 2, 1, 1), 4, both=True),
    "relu: 1 digit, all there is of its sign": with_sign(3, hinged(0, 3, 2, 2)),
    "relu: 2 digits, all there is of its sign": with_sign(3, hinged(0, 3, 2, 1)),
    "relu: 2 digits of 1 bit": compared(5, hinged(1, 3, 2, 1), 5, both=True),
    "relu: 2 digits of 2 bits": compared(6, hinged(0, 6, 4, 2), 0),
    "relu: a short top digit": compared(5, hinged(1, 4, 3, 2), 5, both=True),
    "relu: 3 digits": compared(4, hinged(0, 4, 3, 1), 4, both=True),
    "relu: 4 digits": compared(6, hinged(1, 5, 4, 1), 1),
    "relu: range below what is opened": compared(7, hinged(2, 5, 3, 2), 2, both=True),
    "relu: nothing to lift": compared(4, hinged(0, 4, 3, 2), 4, both=True),
    "relu: two hinges": compared(5, hinged(1, 4, 3, 3, (-1, 2)), 5, both=True),
    "relu: two hinges, 2 digits": compared(4, hinged(0, 4, 3, 2, (-1, 2)), 0, both=True),
    "relu: hinges in no order": compared(5, hinged(0, 4, 3, 3, (2, -1, 0)), 0, both=True),
    "relu: a hinge above the range of what is opened": compared(6, hinged(0, 4, 3, 3, (5,)), 0, both=True),
    "decide: one hinge": compared(5, decided(1, 4, 3, 3, 1), 5, both=True),
    "decide: one hinge, 2 digits": compared(5, decided(1, 3, 2, 1, 0), 5, both=True),
    "decide: between two hinges": compared(5, decided(1, 4, 3, 3, -1, 2), 5, both=True),
    "decide: three hinges": compared(5, decided(0, 4, 2, 2, 1, -1, 0), 0, both=True),
    "one-hot: 3 classes, all there is": indexed(2, 3, full=True),
    "one-hot: 5 classes of 8 indices": indexed(4, 5),
    "one-hot: 8 classes of 8 indices": indexed(4, 8),
    "one-hot: 2 classes": indexed(3, 2),
    "one-hot: two indices of 3 classes": indexed(2, 3, indices=2),
    "pool: 1 x 2": compared(4, pool((1, 2), 1, 3, 2, 2), 4),
    "pool: 1 x 2, 2 digits": compared(3, pool((1, 2), 0, 3, 2, 1), 0, both=True),
    "pool: 2 x 1": compared(3, pool((2, 1), 0, 3, 2, 2), 3),
    "pool: 1 x 3": compared(4, pool((1, 3), 0, 3, 2, 2), 0, only=range(-3, 2), differences=1),
    "pool: 2 x 2": compared(3, pool((2, 2), 0, 2, 1, 1), 0, only=range(-2, 3), differences=1),
    "top 1 of 2, words": compared(4, ranked(2, "words", 1, 3, 2, 2), 1, rank=2),
    "top 2 of 2, words": compared(3, ranked(2, "words", 0, 3, 2, 1, 2), 0, rank=2),
    "top 1 of 2, share": compared(3, ranked(2, "share", 0, 3, 2, 1), 0, rank=2),
    "top 1 of 3, share": compared(3, ranked(3, "share", 0, 2, 1, 1), 0, only=(-1, 0, 1), rank=3),
    "top 2 of 3, words": compared(3, ranked(3, "words", 0, 2, 1, 1, 2), 0, only=(-1, 0, 1), rank=3),
    "waves: one of 2 bits, all there is": waves_case(5, waving(2, 2, 5, (1, 0, 1)), full=True),
    "waves: one of 3 bits": waves_case(5, waving(1, 3, 5, (0, -1, 1), constant=-1)),
    "waves: two of 4 bits": waves_case(12, waving(1, 4, 12, (13, 20, 3), (-5, 9, 4), constant=3), only=range(-20, 20)),
    "waves: words of fewer bits than the ring": waves_case(9, waving(0, 3, 8, (3, -2, 2), (1, 1, 2))),
    "exp2: whole octaves, all there is": exp2_case(
        6, raised(1, 2, 6, octave_bits=0, span_bits=1, top=0, height_bits=2, table_bits=1), full=True, only=range(-8, 8)
    ),
    "exp2: two spans of 4 octaves": exp2_case(
        14, raised(2, 4, 12, octave_bits=1, span_bits=3, top=3, height_bits=5, table_bits=4), only=range(-40, 40)
    ),
    "exp2: words of fewer bits than the ring": exp2_case(
        12, raised(0, 5, 11, octave_bits=2, span_bits=3, top=-9, height_bits=4, table_bits=4), only=range(-40, 40)
    ),
    "pieces: a line, 4 bits": by_pieces("reciprocal", 4, 1, 1, frac_bits=2, lowest=12, bits=11),
    "pieces: parabolas, 5 bits": by_pieces("log2", 5, 2, 2, frac_bits=2, lowest=11, bits=12),
    "pieces: cubics, 5 bits": by_pieces("rsqrt", 5, 3, 3, frac_bits=1, lowest=7, bits=12),
    "normalise: one hinge, all there is": normalised(4, 1, 2, 2, 1, full=True),
    "normalise: one hinge, 2 digits": normalised(6, 2, 3, 2, 2),
    "normalise: nothing dropped": normalised(5, 0, 4, 2, 3),
    "normalise: two hinges": normalised(7, 1, 5, 5, 1, 16),
    "normalise: two hinges, more than is compared": normalised(8, 1, 5, 3, 1, 16),
    "table: 2 bits, all there is": table_case(3, looked_up(1, 2, (0, 1, 1, 0)), full=True),
    "table: 2 bits": table_case(4, looked_up(2, 2, (-1, 2, 1, 0))),
    "table: 3 bits, two functions": table_case(
        4, looked_up(1, 3, (5, 2, 4, 3, 5, 5, 3, 2), (0, -1, 0, 0, -1, 0, 0, 0))
    ),
}
