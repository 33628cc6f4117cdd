"""A plan that makes no sense is refused, and the message names the layer."""

import tracemalloc
from typing import Any

import pytest
from pydantic import ValidationError

from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.layers import Bias, Conv, Linear, MatMul, Mul, Open, Reshare, Wire
from moiety_shared.plan.local import Combine, Concat, Keep, Pad, Permute, Reshape, Slice, Sum, SumPool, Take, Upsample
from moiety_shared.plan.lookups import Decide, MaxPool, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.plan import AnyLayer, Input, Output, Plan
from moiety_shared.plan.reduced import Reduce
from moiety_shared.plan.waves import Wave, Waves
from tests.protocols.growing import TABLE_BITS
from tests.protocols.running import plan_of

A, B = (2, 3), (3, 4)
OPEN = Open(name="o", input="input", shape=A)
WAVE = Wave(cosine=30_000, sine=-500, table_bits=9)
WAVES: dict[str, Any] = {"word_bits": 32, "constant": 5, "waves": (WAVE, WAVE)}
PIECES: dict[str, Any] = {
    "word_bits": 32,
    "function": "rsqrt",
    "frac_bits": 4,
    "lowest": 15,
    "piece_bits": 5,
    "degree": 2,
    "value_bits": 12,
    "table_bits": 8,
}
Q: dict[str, Any] = {"shift": 0, "opened_bits": 16, "range_bits": 8}
POOL = MaxPool(name="m", input="input", shape=(1, 2, 2), kernel=(2, 2), stride=(2, 2), output_size=(1, 1), **Q)
WORDS = TopK(name="k", input="input", shape=(3,), **Q)
REFUSED: dict[str, tuple[tuple[int, ...], tuple[AnyLayer, ...], str]] = {
    "another shape": (A, (Open(name="bad", input="input", shape=B),), "'bad' reads wires of other shapes"),
    "another number of axes": (A, (Open(name="bad", input="input", shape=(6,)),), "'bad' reads wires of other shapes"),
    "a wire that is not there": (A, (Open(name="bad", input="nothing", shape=A),), "'bad' reads 'nothing'"),
    "a wire that comes later": (
        A,
        (Linear(name="bad", input="o", shape=A, out_features=1), OPEN),
        "'bad' reads 'o', which no earlier layer makes",
    ),
    "itself": (A, (Open(name="bad", input="bad", shape=A),), "'bad' reads 'bad'"),
    "labels where there are none": (A, (Open(name="bad", input="labels", shape=A),), "'bad' reads 'labels'"),
    "a name twice": (A, (OPEN, OPEN), "two wires are called 'o'"),
    "the input's name": (A, (Open(name="input", input="input", shape=A),), "two wires are called 'input'"),
    "a product of a share": (
        A,
        (Linear(name="bad", input="input", shape=A, out_features=1),),
        "'bad' reads wires that",
    ),
    "a product with a share": (
        A,
        (OPEN, Mul(name="bad", left="o", right="input", left_shape=A, right_shape=A)),
        "'bad' reads wires that no layer has opened",
    ),
    "matrices with shares": (
        A,
        (OPEN, MatMul(name="bad", left="o", right="input", left_shape=A, right_shape=A)),
        "'bad' reads wires that no layer has opened",
    ),
    "opening what is open": (A, (OPEN, Open(name="bad", input="o", shape=A)), "'bad' opens what is not shares"),
    "comparing what is open": (A, (OPEN, ReLU(name="bad", input="o", shape=A, **Q)), "'bad' opens"),
    "adding what is open": (A, (OPEN, Bias(name="bad", input="o", shape=A, bias_shape=A)), "'bad' reads shares"),
    "permuting what is open": (A, (OPEN, Permute(name="bad", input="o", shape=A, order=(1, 0))), "'bad' reads shares"),
    "adding words": ((3,), (WORDS, Bias(name="bad", input="k", shape=(3,), bias_shape=(3,))), "'bad' reads shares"),
    "comparing words": ((3,), (WORDS, ReLU(name="bad", input="k", shape=(3,), **Q)), "'bad' opens"),
    "opening words": ((3,), (WORDS, Open(name="bad", input="k", shape=(3,))), "'bad' opens"),
    "opening a smaller ring": (
        (1, 2, 2),
        (POOL, Open(name="bad", input="m", shape=(1, 1, 1))),
        "'bad' opens what is not shares",
    ),
    "two rings": (
        (1, 2, 2),
        (POOL, Combine(name="bad", inputs=("m", "input"), shapes=((1, 1, 1), (1, 2, 2)), factors=(1, 1))),
        "'bad' reads shares that are not of one ring",
    ),
    "more bits than the ring has": (
        A,
        (
            Reshare(name="fresh", input="input", shape=A),
            Truncate(name="bad", input="fresh", shape=A, shift=20, opened_bits=16),
        ),
        "'bad' opens more bits",
    ),
    "more bits than the smaller ring has": (
        (1, 2, 2),
        (POOL, Truncate(name="bad", input="m", shape=(1, 1, 1), shift=1, opened_bits=16)),
        "'bad' opens more bits",
    ),
    "less than the whole of a value": (
        A,
        (Normalise(name="bad", input="input", shape=A, shift=0, opened_bits=16, range_bits=8, hinges=(16,)),),
        "'bad' does not open the whole",
    ),
    "the whole of a value in a smaller ring": (
        (1, 2, 2),
        (POOL, Normalise(name="bad", input="m", shape=(1, 1, 1), shift=2, opened_bits=14, range_bits=8, hinges=(16,))),
        "'bad' does not open the whole",
    ),
    "a factor of another shape": (
        A,
        (OPEN, Mul(name="bad", left="o", right="o", left_shape=A, right_shape=(2, 1))),
        "'bad' reads wires of other shapes",
    ),
    "a window larger than its input": (
        (1, 2, 2),
        (SumPool(name="bad", input="input", shape=(1, 2, 2), kernel=(3, 3), stride=(1, 1)),),
        "'bad' has a size that cannot",
    ),
    "a factor that the ring does not hold": (
        A,
        (Take(name="bad", input="input", shape=A, axis=0, places=((0,),), factors=((1 << 40,),)),),
        "'bad' multiplies by more than the ring holds",
    ),
    "too many values": (
        (1, 1, 1),
        (Upsample(name="bad", input="input", shape=(1, 1, 1), factors=(1 << 16, 1 << 16)),),
        "'bad' has a size that cannot",
    ),
}


SUM = Waves(name="f", input="fresh", shape=A, shift=2, opened_bits=9, **WAVES)
STEEP = Pieces(name="f", input="fresh", shape=A, shift=2, opened_bits=8, **PIECES)


def unhidden(bits: int) -> dict[str, tuple[AnyLayer, ...]]:
    """What may not follow a layer that drops so many bits."""
    return {
        "as they are": (),
        "moved": (Permute(name="bad", input="f", shape=A, order=(1, 0)),),
        "added up": (Combine(name="bad", inputs=("f",), shapes=(A,), factors=(1,)),),
        "opened for a product": (
            Open(name="bad", input="f", shape=A),
            Linear(name="l", input="bad", shape=A, out_features=2),
        ),
        "compared": (ReLU(name="bad", input="f", shape=A, shift=bits - 1, opened_bits=8, range_bits=7),),
        "one bit too few dropped": (Truncate(name="bad", input="f", shape=A, shift=bits - 1, opened_bits=12),),
        "some of them": (
            Truncate(name="cut", input="f", shape=A, shift=bits, opened_bits=12),
            Truncate(name="bad", input="f", shape=A, shift=0, opened_bits=32),
            Combine(name="c", inputs=("cut", "bad"), shapes=(A, A), factors=(1, 1)),
        ),
    }


@pytest.mark.parametrize("layer", [SUM, STEEP], ids=["waves", "pieces"])
@pytest.mark.parametrize("name", unhidden(2))
def test_approximate_results_are_cut_before_anything_reads_them(layer: Waves | Pieces, name: str) -> None:
    """Their last bits tell of a mask. A cut that is coarse enough makes the plan a good one."""
    fresh, bits = Reshare(name="fresh", input="input", shape=A), layer.hidden_bits
    plan_of(fresh, layer, Truncate(name="cut", input="f", shape=A, shift=bits, opened_bits=12), shape=A)
    with pytest.raises(ValueError, match=f"'(f|bad)'.*{bits} bits first"):
        plan_of(fresh, layer, *unhidden(bits)[name], shape=A)


RAISED = Exp2(
    name="f", input="fresh", shape=A, shift=2, opened_bits=9, word_bits=32, octave_bits=4, span_bits=7, top=0,
    height_bits=16, table_bits=11,
)  # fmt: skip
SUMMED: dict[str, tuple[AnyLayer, int]] = {
    "moved": (Permute(name="s", input="f", shape=A, order=(1, 0)), 0),
    "added up": (Sum(name="s", input="f", shape=A, axes=(0, 1)), 3),
    "normalised": (
        Normalise(name="s", input="f", shape=A, shift=12, opened_bits=20, range_bits=16, hinges=(16, 256)),
        0,
    ),
    "over windows": (SumPool(name="s", input="f", shape=(1, *A), kernel=(2, 3), stride=(1, 1)), 3),
    "multiplied": (Combine(name="s", inputs=("f",), shapes=(A,), factors=(-5,)), 3),
    "of several": (Concat(name="s", inputs=("f", "fresh"), shapes=(A, A), axis=0), 0),
    "with factors": (Take(name="s", input="f", shape=A, axis=1, places=((0,), (2,)), factors=((1,), (-3,))), 2),
}


@pytest.mark.parametrize("name", SUMMED)
def test_sums_of_approximate_values_are_cut_by_as_many_more_bits(name: str) -> None:
    layer, more = SUMMED[name]
    fresh, shape, bits = Reshare(name="fresh", input="input", shape=A), layer.output_shape, RAISED.hidden_bits + more
    between = (Reshape(name="r", input="f", shape=A, to=(1, *A)),) if name == "over windows" else ()
    head: dict[str, Any] = {"name": "cut", "input": "s", "shape": shape, "opened_bits": 8}
    layers = (fresh, RAISED, *between, layer.model_copy(update={"input": "r"}) if between else layer)
    plan_of(*layers, Truncate(shift=bits, **head), shape=A)
    with pytest.raises(ValueError, match=f"'cut' reads 's' without dropping {bits} bits first"):
        plan_of(*layers, Truncate(shift=bits - 1, **head), shape=A)


@pytest.mark.parametrize("plane", [0, 1, 2])
def test_what_a_normaliser_decided_shows_no_low_bits(plane: int) -> None:
    """Its first plane has them all, and is cut; the others are powers and counts of hinges."""
    layers = (
        Reshare(name="fresh", input="input", shape=A),
        RAISED,
        Normalise(name="n", input="f", shape=A, shift=12, opened_bits=20, range_bits=16, hinges=(16, 256)),
        Slice(name="s", input="n", shape=(3, *A), axis=0, start=plane, stop=plane + 1),
    )
    plan_of(*layers, Truncate(name="t", input="s", shape=(1, *A), shift=RAISED.hidden_bits, opened_bits=8), shape=A)
    if plane:
        plan_of(*layers, shape=A)
    else:
        with pytest.raises(ValueError, match="'s' is given out as it is"):
            plan_of(*layers, shape=A)


def test_waves_of_more_bits_than_the_ring_are_refused() -> None:
    with pytest.raises(ValueError, match="words of more bits"):
        SUM.output((Wire(A, 32),), 16)


SHIFTED: dict[str, Any] = {"shift": 2, "opened_bits": 16}
LOW_BITS: dict[str, tuple[AnyLayer, ...]] = {
    "the input": (Truncate(name="bad", input="input", shape=A, **SHIFTED),),
    "the input, compared": (ReLU(name="bad", input="input", shape=A, **SHIFTED, range_bits=8),),
    "the input, looked up": (
        Table(name="bad", input="input", shape=A, shift=2, opened_bits=2, values=((0, 1, 2, 3),)),
    ),
    "what is moved": (
        Permute(name="p", input="input", shape=A, order=(1, 0)),
        Truncate(name="bad", input="p", shape=(3, 2), **SHIFTED),
    ),
    "a sum": (Sum(name="s", input="input", shape=A, axes=(0,)), Truncate(name="bad", input="s", shape=(3,), **SHIFTED)),
    "a sum with something fresh": (
        Reshare(name="f", input="input", shape=A),
        Combine(name="c", inputs=("f", "input"), shapes=(A, A), factors=(1, 1)),
        Decide(name="bad", input="c", shape=A, **SHIFTED, range_bits=8),
    ),
    "a bias": (
        Bias(name="b", input="input", shape=A, bias_shape=(3,)),
        Truncate(name="bad", input="b", shape=A, **SHIFTED),
    ),
}


@pytest.mark.parametrize("name", LOW_BITS)
def test_a_client_chooses_no_dither(name: str) -> None:
    """It chose both shares: low bits are dropped of fresh ones only."""
    *before, last = LOW_BITS[name]
    with pytest.raises(ValueError, match="'bad' drops low bits of what a client shared"):
        plan_of(*before, last, shape=A)
    (read,), (shape,) = last.reads, last.input_shapes
    fresh = Reshare(name="fresh", input=read, shape=shape)
    plan_of(*before, fresh, last.model_copy(update={"input": "fresh"}), shape=A)


@pytest.mark.parametrize(("shift", "then", "bad"), [(2, 0, "r"), (0, 2, "t")])
def test_a_share_in_a_smaller_ring_is_no_fresh_one(shift: int, then: int, bad: str) -> None:
    """The low bits that are dropped of it, or with it, would be those that the client chose."""
    small = Reduce(name="r", input="input", shape=A, shift=shift, opened_bits=20)
    last = Truncate(name="t", input="r", shape=A, shift=then, opened_bits=16)
    with pytest.raises(ValueError, match=f"'{bad}' drops low bits of what a client shared"):
        plan_of(small, last, shape=A)
    plan_of(Reshare(name="f", input="input", shape=A), small.model_copy(update={"input": "f"}), last, shape=A)


@pytest.mark.parametrize("name", REFUSED)
def test_a_plan_that_does_not_fit_is_refused(name: str) -> None:
    shape, layers, message = REFUSED[name]
    given_input = Input(shape=shape, frac_bits=0, low=-1, high=1)
    with pytest.raises(ValueError, match=message):
        Plan(ring_bits=32, input=given_input, layers=layers, output=Output(wire="input", shape=shape))


@pytest.mark.parametrize(
    ("layers", "output", "message"),
    [
        ((WORDS,), Output(wire="k", shape=(3,)), "cannot be given out as logits"),
        ((WORDS,), Output(wire="k", shape=(3,), kind="count"), "cannot be given out as count"),
        ((WORDS,), Output(wire="input", shape=(3,), kind="labels"), "cannot be given out as labels"),
        ((Open(name="o", input="input", shape=(3,)),), Output(wire="o", shape=(3,)), "cannot be given out as logits"),
        ((WORDS,), Output(wire="input", shape=(4,)), "another size"),
        ((WORDS,), Output(wire="nothing", shape=(3,)), "does not exist"),
    ],
)
def test_an_output_of_another_kind_is_refused(layers: tuple[AnyLayer, ...], output: Output, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(ring_bits=32, input=Input(shape=(3,), frac_bits=0, low=-1, high=1), layers=layers, output=output)


@pytest.mark.parametrize(("left", "right"), [((3,), (3,)), (A, (2, 4)), ((2, *A), A), ((2, *A), (3, *A))])
def test_matrices_that_do_not_fit_are_refused(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="the same axes but for the last but one"):
        MatMul(name="m", left="o", right="p", left_shape=left, right_shape=right)


@pytest.mark.parametrize(
    ("layer", "attributes", "message"),
    [
        (Reshape, {"shape": A, "to": (5,)}, "must keep the number"),
        (Permute, {"shape": A, "order": (0, 0)}, "name each axis once"),
        (Slice, {"shape": A, "axis": 0, "start": 1, "stop": 3}, "outside"),
        (Slice, {"shape": A, "axis": 2, "start": 0, "stop": 1}, "outside"),
        (Pad, {"shape": A, "before": (1,), "after": (1, 1)}, "every axis"),
        (Take, {"shape": A, "axis": 2, "places": ((0,),)}, "does not have"),
        (Take, {"shape": A, "axis": 0, "places": ((0, 2),)}, "does not have"),
        (Take, {"shape": A, "axis": 0, "places": ((2**31 - 1,),)}, "does not have"),
        (Take, {"shape": A, "axis": 0, "places": ((0,), (2,)), "factors": ((1,), (1,))}, "does not have"),
        (Take, {"shape": A, "axis": 0, "places": ((1 << 80,),)}, "less than"),
        (Take, {"shape": A, "axis": 0, "places": ((-1,),)}, "greater than or equal to 0"),
        (Take, {"shape": A, "axis": 0, "places": ()}, "at least 1"),
        (Take, {"shape": A, "axis": 0, "places": ((),)}, "at least 1"),
        (Take, {"shape": A, "axis": 0, "places": ((0,), (1,))}, "with a factor for each"),
        (Take, {"shape": A, "axis": 0, "places": ((0,), (1, 0)), "factors": ((1,), (1, 1))}, "as many places"),
        (Take, {"shape": A, "axis": 0, "places": ((0, 1),), "factors": ((1,),)}, "for every place"),
        (Take, {"shape": A, "axis": 0, "places": ((0,),), "factors": ((1,), (1,))}, "for every place"),
        (Take, {"shape": A, "axis": 0, "places": ((0,),), "factors": ((1 << 80,),)}, "less than or equal"),
        (Take, {"shape": A, "axis": 0, "places": ((0,) * ((1 << 16) + 1),)}, "at most 65536"),
        (Take, {"shape": A, "axis": 0, "places": ((0,),) * 257, "factors": ((1,),) * 257}, "at most 256"),
        (Keep, {"shape": A, "keys": "a0", "keys_shape": (2,)}, "broadcast"),
        (Keep, {"shape": A, "keys": "a0", "keys_shape": (1, 2, 3)}, "do not broadcast"),
        (Keep, {"shape": A, "keys": "a0a0", "keys_shape": (3,)}, "a bit for each place"),
        (Keep, {"shape": A, "keys": "A0", "keys_shape": (3,)}, "pattern"),
        (Keep, {"shape": A, "keys": "a0" * (1 << 20), "keys_shape": (3,)}, "at most 262144"),
        (Sum, {"shape": A, "axes": (2,)}, "different axes"),
        (Sum, {"shape": A, "axes": (0, 0)}, "different axes"),
        (Bias, {"shape": A, "bias_shape": (3, 2, 3)}, "do not broadcast"),
        (Bias, {"shape": A, "bias_shape": (2,)}, "broadcast"),
        (Conv, {"shape": (3, 4, 4), "out_channels": 2, "kernel": (1, 1), "groups": 2}, "groups"),
        (Conv, {"shape": (1, 4, 4), "out_channels": 2, "kernel": (5, 1)}, "larger"),
        (ReLU, {"shape": A, "shift": 0, "opened_bits": 8, "range_bits": 8}, "below opened_bits"),
        (ReLU, {"shape": A, "shift": 0, "opened_bits": 20, "range_bits": 17}, "digits"),
        (ReLU, {"shape": A, **Q, "hinges": ()}, "hinges"),
        (Table, {"shape": A, "shift": 0, "opened_bits": 2, "values": ((0,) * 3,)}, "2\\^opened_bits"),
        (Table, {"shape": A, "shift": 0, "opened_bits": 2, "values": ((0, 0, 0, 1 << 24),)}, "2\\^24"),
        (Table, {"shape": A, "shift": 0, "opened_bits": TABLE_BITS + 1, "values": ((0,) * 2,)}, "opened_bits"),
        (Waves, {"shape": A, "shift": 0, "opened_bits": 3, **WAVES, "waves": (WAVE,) * 5}, "shorter than two steps"),
        (Waves, {"shape": A, "shift": 0, "opened_bits": 17, **WAVES}, "opened_bits"),
        (Waves, {"shape": A, "shift": 0, "opened_bits": 9, **WAVES, "word_bits": 20}, "do not fit in its words"),
        (Pieces, {"shape": A, "shift": 0, "opened_bits": 8, **PIECES, "word_bits": 21}, "do not fit in its words"),
        (Pieces, {"shape": A, "shift": 0, "opened_bits": 8, **PIECES, "lowest": 7}, "no whole piece"),
        (Pieces, {"shape": A, "shift": 0, "opened_bits": 8, **PIECES, "lowest": 256}, "no whole piece"),
        (Pieces, {"shape": A, "shift": 0, "opened_bits": 5, **PIECES}, "no whole piece"),
        (Normalise, {"shape": A, **Q, "hinges": (3, 47)}, "powers of 16 apart"),
        (Normalise, {"shape": A, **Q, "hinges": (0,)}, "not positive"),
        (Normalise, {"shape": A, **Q, "hinges": (-16, -256)}, "not positive"),
    ],
)
def test_a_layer_that_makes_no_sense_is_refused(layer: Any, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(name="bad", input="x", **attributes)


def test_taking_more_values_than_a_party_computes_is_refused() -> None:
    shape = (1 << 16, 2)
    taken = Take(name="t", input="input", shape=shape, axis=1, places=((0, 1) * (1 << 15),))
    with pytest.raises(ValueError, match="'t' has a size that cannot be computed"):
        plan_of(taken, shape=shape)


@pytest.mark.parametrize("places", [[[0] * (1 << 20)], [[-1] * (1 << 20)], [[0]] * (1 << 20), [[1 << 40] * (1 << 20)]])
def test_a_million_places_are_refused_in_little_memory(places: list[list[int]]) -> None:
    """Neither the layer nor its error holds more than the limits allow."""
    given = {"name": "t", "input": "x", "shape": A, "axis": 0, "places": places}
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError) as caught:
            Take.model_validate(given)
        errors = caught.value.errors(include_input=False, include_context=False)
        assert len(errors) <= 3 and errors[0]["loc"][0] == "places"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # pointers to 2^16 places take half a MiB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("padding", [(2, 0), (0, 2)])
def test_a_pool_of_padding_alone_is_refused(padding: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="outside"):
        MaxPool(**{**POOL.model_dump(), "padding": padding})


def test_a_pool_of_one_place_is_refused() -> None:
    with pytest.raises(ValueError, match="slice"):
        MaxPool(name="m", input="input", shape=(1, 4, 4), kernel=(1, 1), stride=(2, 2), output_size=(2, 2), **Q)


def test_a_pool_whose_dilated_window_misses_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        MaxPool(
            name="m",
            input="input",
            shape=(1, 2, 2),
            kernel=(2, 2),
            stride=(1, 1),
            padding=(1, 1),
            dilation=(3, 3),
            output_size=(1, 1),
            **Q,
        )


def test_shapes_of_fewer_axes_are_refused() -> None:
    """numpy would align the rows with an axis of the longer one."""
    with pytest.raises(ValueError, match="same number of axes"):
        Mul(name="m", left="o", right="p", left_shape=A, right_shape=(3,))
    with pytest.raises(ValueError, match="same number of axes"):
        Combine(name="m", inputs=("input", "v"), shapes=(A, (3,)), factors=(1, 1))


def test_factors_that_do_not_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="broadcast"):
        Mul(name="m", left="o", right="p", left_shape=A, right_shape=(2, 2))


@pytest.mark.parametrize(
    ("layer", "attributes", "message"),
    [
        (ReLU, {"shape": A, **Q, "hinges": (40000,)}, "a hinge lies beyond"),
        (TopK, {"shape": (3,), **Q, "k": 2, "result": "share"}, "k must be 1"),
        (Table, {"shape": A, "shift": 0, "opened_bits": 2, "values": ((1 << 70,) * 4,)}, "below 2\\^62"),
    ],
    ids=["a hinge beyond the range", "share of several", "a huge table"],
)
def test_an_attribute_that_cannot_work_is_refused(layer: Any, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(name="bad", input="x", **attributes)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Combine(name="bad", inputs=("input",), shapes=(A,), factors=(1 << 40,)), "'bad' multiplies by a factor"),
        (Table(name="bad", input="input", shape=A, shift=0, opened_bits=2, values=((1 << 40,) * 4,)), "'bad' holds"),
    ],
    ids=["factor", "table"],
)
def test_a_number_beyond_the_ring_is_refused(layer: AnyLayer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(layer, shape=A)
