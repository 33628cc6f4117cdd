"""Every layer that is verified: honest runs are bit-exact, and one lie in a message or in what is stored is caught."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moiety_server import sources
from moiety_server.compiler.compilation import encode_rows
from moiety_server.zoo import samples
from moiety_server.zoo.network import normalise
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.layers import Bias, Conv, Linear, MatMul, Mul, Open, Reshare
from moiety_shared.plan.local import Combine, Concat, Pad, Reshape, Slice, Sum, SumPool, Take
from moiety_shared.plan.lookups import Decide, Lookup, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.plan import Output, Plan
from moiety_shared.plan.waves import Wave, Waves
from moiety_shared.protocols.verified import graph
from moiety_shared.protocols.verified.prepared import joined, rows_of
from moiety_shared.ring import Array
from tests.protocols.running import integers, plan_of
from tests.protocols.verified.lies import number
from tests.protocols.verified.running import Bundle, Upload, accepted, drive, recorded, stored

OPENED: dict[str, Any] = {"shift": 3, "opened_bits": 16, "range_bits": 13}
CHECK = 4
"""Rounds of the check behind the last opening."""


def relu(name: str, wire: str, *shape: int, **more: Any) -> ReLU:
    return ReLU(**{"name": name, "input": wire, "shape": shape, **OPENED, **more})


def network(*layers: Any, shape: tuple[int, ...] = (5,)) -> Plan:
    """Layers behind an opened input."""
    return plan_of(Open(name="o", input="input", shape=shape), *layers, shape=shape)


def conv(name: str, wire: str, shape: tuple[int, int, int], out: int, kernel: int = 3, **more: Any) -> Conv:
    return Conv(name=name, input=wire, shape=shape, out_channels=out, kernel=(kernel, kernel), **more)


def pool(shape: tuple[int, int, int], size: tuple[int, int], **more: Any) -> MaxPool:
    return MaxPool(**{"name": "p", "input": "a", "shape": shape, "output_size": size, **OPENED, **more})


PICTURE = (2, 6, 5)


def counting() -> Plan:
    """How many inputs have the label that the client says, and nothing of any one."""
    layers = (
        Open(name="o", input="input", shape=(5,)),
        Linear(name="a", input="o", shape=(5,), out_features=3),
        TopK(name="k", input="a", shape=(3,), result="share", **OPENED),
        OneHot(name="h", input="labels", opened_bits=2, classes=3),
        Open(name="p", input="k", shape=(3,)),
        Open(name="q", input="h", shape=(3,)),
        Mul(name="m", left="p", right="q", left_shape=(3,), right_shape=(3,)),
        Sum(name="s", input="m", shape=(3,), axes=(0,)),
    )
    plan = plan_of(*layers, shape=(5,), classes=3)
    return plan.model_copy(update={"output": plan.output.model_copy(update={"kind": "count"})})


SQUARES = tuple(value * value - 100_000 for value in range(32))
WAVES = tuple(Wave(cosine=c, sine=s, table_bits=11) for c, s in ((2900, -700), (0, 1300), (-450, 1)))
# Its domain, -3144 to 3000, holds all that weights of 5 bits make of 5 inputs of 6.
POWERS: dict[str, Any] = {"octave_bits": 9, "span_bits": 11, "top": 3000, "height_bits": 18, "table_bits": 10}
PIECES: dict[str, Any] = {
    "frac_bits": 5, "lowest": 40, "piece_bits": 6, "degree": 2, "value_bits": 14, "table_bits": 12,
}  # fmt: skip
EIGHT = tuple(1 << 4 * place for place in range(8))
LAST = Linear(name="last", input="q", shape=(4,), out_features=3)
PLANS = {
    "a clip, which has two hinges": network(
        Linear(name="a", input="o", shape=(5,), out_features=4),
        relu("r", "a", 4, hinges=(0, 20)),
        Open(name="q", input="r", shape=(4,)),
        LAST,
    ),
    "groups of two sizes": network(
        Linear(name="a", input="o", shape=(5,), out_features=130),
        relu("r", "a", 130, digit_bits=5),
        Open(name="p", input="r", shape=(130,)),
        Linear(name="b", input="p", shape=(130,), out_features=4),
        relu("s", "b", 4, range_bits=10),
        Open(name="q", input="s", shape=(4,)),
        LAST,
    ),
    "a product of several rows, without a bias": network(
        Linear(name="a", input="o", shape=(3, 5), out_features=4, bias=False),
        relu("r", "a", 3, 4),
        shape=(3, 5),
    ),
    "a convolution": network(
        conv("a", "o", PICTURE, 3, padding=(1, 0), stride=(2, 1)),
        relu("r", "a", 3, 3, 3),
        Open(name="p", input="r", shape=(3, 3, 3)),
        conv("b", "p", (3, 3, 3), 4),
        shape=PICTURE,
    ),
    "a kernel for each channel, dilated": network(
        conv("a", "o", PICTURE, 2, groups=2, dilation=(2, 2), padding=(2, 2), bias=False),
        relu("r", "a", *PICTURE),
        shape=PICTURE,
    ),
    "groups": network(conv("a", "o", (4, 5, 4), 6, groups=2, stride=(3, 2)), shape=(4, 5, 4)),
    "a transposed convolution": network(
        conv("a", "o", (4, 3, 2), 6, groups=2, stride=(2, 3), padding=(1, 0), output_padding=(1, 0), transposed=True),
        shape=(4, 3, 2),
    ),
    "a pool of squares": network(
        conv("a", "o", PICTURE, 2, 1),
        pool((2, 6, 5), (3, 2), kernel=(2, 2), stride=(2, 2)),
        relu("r", "p", 2, 3, 2, shift=0, range_bits=14),
        Reshape(name="f", input="r", shape=(2, 3, 2), to=(12,)),
        Open(name="q", input="f", shape=(12,)),
        Linear(name="last", input="q", shape=(12,), out_features=3),
        shape=PICTURE,
    ),
    "windows that overlap and hang over": network(
        conv("a", "o", PICTURE, 2, 1),
        pool(PICTURE, (3, 3), kernel=(4, 3), stride=(2, 2), padding=(1, 1)),
        relu("r", "p", 2, 3, 3, shift=0, range_bits=14),
        shape=PICTURE,
    ),
    "a residual block": network(
        conv("a", "o", (2, 4, 4), 2, padding=(1, 1)),
        relu("r", "a", 2, 4, 4),
        Open(name="p", input="r", shape=(2, 4, 4)),
        conv("b", "p", (2, 4, 4), 2, padding=(1, 1)),
        Combine(name="sum", inputs=("b", "r"), shapes=((2, 4, 4),) * 2, factors=(1, 8)),
        relu("s", "sum", 2, 4, 4),
        SumPool(name="t", input="s", shape=(2, 4, 4), kernel=(2, 2), stride=(2, 2)),
        Open(name="q", input="t", shape=(2, 2, 2)),
        conv("last", "q", (2, 2, 2), 3, 2),
        shape=(2, 4, 4),
    ),
    "wires that are joined, and a product of a product": network(
        Linear(name="a", input="o", shape=(5,), out_features=4),
        relu("r", "a", 4),
        Concat(name="j", inputs=("a", "r"), shapes=((4,), (4,)), axis=0),
        Open(name="q", input="j", shape=(8,)),
        Linear(name="last", input="q", shape=(8,), out_features=2),
    ),
    "differences and padding, tagged": network(
        Linear(name="a", input="o", shape=(5,), out_features=4),
        relu("r", "a", 4),
        Take(name="d", input="r", shape=(4,), axis=0, places=((0, 1, 3), (1, 2, 0)), factors=((2, 3, 1), (-1, -1, -1))),
        Pad(name="e", input="d", shape=(3,), before=(1,), after=(0,)),
        Open(name="q", input="e", shape=(4,)),
        LAST,
    ),
    "constants, a truncation, and an output that is summed": network(
        Linear(name="a", input="o", shape=(5,), out_features=6),
        Truncate(name="t", input="a", shape=(6,), shift=2, opened_bits=20),
        Bias(name="c", input="t", shape=(6,), bias_shape=(6,)),
        Sum(name="s", input="c", shape=(6,), axes=(0,)),
    ),
    "fresh masks": plan_of(
        Bias(name="c", input="input", shape=(5,), bias_shape=(1,)),
        Reshare(name="f", input="c", shape=(5,)),
        relu("r", "f", 5),
        shape=(5,),
    ),
    "decisions": network(
        Linear(name="a", input="o", shape=(5,), out_features=6),
        Decide(name="d", input="a", shape=(6,), hinges=(-9, 12), **OPENED),
        Open(name="p", input="d", shape=(6,)),
        Linear(name="b", input="p", shape=(6,), out_features=1),
    ),
    "labels and nothing else": network(
        Linear(name="a", input="o", shape=(5,), out_features=4), TopK(name="k", input="a", shape=(4,), k=2, **OPENED)
    ),
    "the largest": network(
        Linear(name="a", input="o", shape=(5,), out_features=3),
        TopK(name="k", input="a", shape=(3,), result="share", **OPENED),
        Open(name="p", input="k", shape=(3,)),
        Linear(name="b", input="p", shape=(3,), out_features=1),
    ),
    "products of wires": network(
        Linear(name="a", input="o", shape=(2, 3), out_features=3),
        Open(name="p", input="a", shape=(2, 3)),
        Slice(name="s", input="a", shape=(2, 3), axis=0, start=0, stop=1),
        Open(name="q", input="s", shape=(1, 3)),
        Mul(name="m", left="q", right="p", left_shape=(1, 3), right_shape=(2, 3)),
        Open(name="r", input="m", shape=(2, 3)),
        MatMul(name="t", left="r", right="o", left_shape=(2, 3), right_shape=(2, 3)),
        Open(name="v", input="t", shape=(2, 2)),
        Mul(name="square", left="v", right="v", left_shape=(2, 2), right_shape=(2, 2)),
        shape=(2, 3),
    ),
    "smooth functions": network(
        Linear(name="a", input="o", shape=(5,), out_features=4),
        Table(name="t", input="a", shape=(4,), shift=2, opened_bits=5, values=(SQUARES, (7, *(-3,) * 31))),
        Reshape(name="f", input="t", shape=(2, 4), to=(8,)),
        Open(name="p", input="f", shape=(8,)),
        Linear(name="b", input="p", shape=(8,), out_features=1),
    ),
    "a table of two bits": network(  # whose word has more bits than entries
        Linear(name="a", input="o", shape=(5,), out_features=4),
        Table(name="t", input="a", shape=(4,), shift=2, opened_bits=2, values=((3, -1, 0, 0),)),
        Reshape(name="f", input="t", shape=(1, 4), to=(4,)),
    ),
    "waves": network(
        Linear(name="a", input="o", shape=(5,), out_features=3),
        Waves(name="w", input="a", shape=(3,), shift=2, opened_bits=10, word_bits=32, constant=-1234, waves=WAVES),
        Truncate(name="t", input="w", shape=(3,), shift=14, opened_bits=18),
    ),
    "powers of two": network(
        Linear(name="a", input="o", shape=(5,), out_features=3),
        Exp2(name="e", input="a", shape=(3,), shift=0, opened_bits=13, word_bits=31, **POWERS),
        Truncate(name="t", input="e", shape=(3,), shift=20, opened_bits=11),
    ),
    "pieces": network(
        Linear(name="a", input="o", shape=(5,), out_features=2),
        Pieces(name="p", input="a", shape=(2,), shift=3, opened_bits=9, word_bits=32, function="rsqrt", **PIECES),
        Truncate(name="t", input="p", shape=(2,), shift=16, opened_bits=16),
    ),
    "normal forms": network(
        Linear(name="a", input="o", shape=(5,), out_features=2),
        Normalise(name="n", input="a", shape=(2,), shift=2, opened_bits=30, range_bits=11, hinges=(2, 32, 512)),
        Slice(name="y", input="n", shape=(3, 2), axis=0, start=0, stop=1),
        Slice(name="s", input="n", shape=(3, 2), axis=0, start=1, stop=2),
        Open(name="p", input="y", shape=(1, 2)),
        Open(name="q", input="s", shape=(1, 2)),
        Mul(name="m", left="p", right="q", left_shape=(1, 2), right_shape=(1, 2)),
    ),
    "a normal form of all there is, given out": network(
        Linear(name="a", input="o", shape=(5,), out_features=1),
        Normalise(name="n", input="a", shape=(1,), shift=2, opened_bits=30, range_bits=11, hinges=EIGHT),
    ),
    "a count of right labels": counting(),
    "ids of two digits in a secret table": plan_of(
        Slice(name="f", input="input", shape=(3, 2), axis=1, start=0, stop=1),
        Reshape(name="g", input="f", shape=(3, 1), to=(3, 1, 1)),
        OneHot(name="block", input="g", shape=(3, 1, 1), opened_bits=2, classes=3),
        Slice(name="s", input="input", shape=(3, 2), axis=1, start=1, stop=2),
        OneHot(name="place", input="s", shape=(3, 1), opened_bits=2, classes=4),
        Open(name="o", input="place", shape=(3, 4)),
        Linear(name="a", input="o", shape=(3, 4), out_features=6, bias=False),
        Reshape(name="b", input="a", shape=(3, 6), to=(3, 2, 3)),
        Open(name="p", input="block", shape=(3, 1, 3)),
        Open(name="q", input="b", shape=(3, 2, 3)),
        MatMul(name="m", left="p", right="q", left_shape=(3, 1, 3), right_shape=(3, 2, 3)),
        shape=(3, 2),
    ),
    "no look-up": network(Linear(name="a", input="o", shape=(5,), out_features=3)),
    "an output that is read": network(
        Linear(name="a", input="o", shape=(5,), out_features=3), relu("r", "a", 3), shape=(5,)
    ).model_copy(update={"output": Output(wire="a", shape=(3,))}),
}


@pytest.fixture(scope="module", params=PLANS)
def up(request: pytest.FixtureRequest) -> Upload:
    plan = PLANS[request.param]
    return Upload(plan, {wire: integers(shape, 5) for wire, shape in plan.weights()})


def given(up: Upload, rows: int = 3) -> tuple[Array, Bundle]:
    x = integers((rows, up.plan.input.size), 6)
    labels = np.arange(rows, dtype=np.int32)[:, None] * bool(up.plan.input.classes)
    return np.concatenate((x, labels), axis=1)[:, : up.plan.input.shared_size], up.deal(rows)


def test_an_honest_run_is_bit_exact(up: Upload) -> None:
    for rows in (1, 3):
        x, bundle = given(up, rows)
        _assert_exact(up, bundle, x)
    _assert_exact(up, _rows_2_and_0(bundle), x[[2, 0]])


def _assert_exact(up: Upload, bundle: Bundle, x: Array) -> None:
    y, expected = accepted(up, bundle, x, drive(up.sessions(bundle, x))), up.expected(bundle, x)
    assert y is not None and np.array_equal(y.reshape(expected.shape), expected)


def _rows_2_and_0(bundle: Bundle) -> Bundle:
    """Two rows of a bundle that was prepared as a whole, each cut out of it, and joined the other way round."""
    ready = [joined([rows_of(run, 2, 3), rows_of(run, 0, 1)]) for run in bundle.ready]
    masks = {name: low[[2, 0]] for name, low in bundle.masks.items()}
    return replace(bundle, ready=ready, masks=masks, records=recorded(ready))


@pytest.mark.parametrize("liar", [0, 1], ids=["alice", "bob"])
def test_a_lie_in_any_message_is_caught(up: Upload, liar: int) -> None:
    """One bit, of the lowest 32 of a word, in each opening behind the input's."""
    x, bundle = given(up)
    honest = drive(up.sessions(bundle, x), liar, lambda at, place, raw: raw)
    for target in range(1, honest.rounds - CHECK):

        def tamper(at: int, place: int, raw: bytes, target: int = target) -> bytes:
            return flipped(raw, at == target and not place)

        assert drive(up.sessions(bundle, x), liar, tamper).answers[1 - liar] is None, target
    assert accepted(up, bundle, x, drive(up.sessions(bundle, x))) is not None


def flipped(raw: bytes, here: bool) -> bytes:
    """Flip the first bit, if it is to be here: of a word its lowest, of looked-up bits that of a digit, of signs the
    first one."""
    return bytes([raw[0] ^ here]) + raw[1:]


@contextmanager
def changed(array: Array) -> Iterator[None]:
    """Another value everywhere, so that some wire reads it, and then the first again: a power of two below 2^32 more,
    or other bits."""
    before = array.copy()
    if array.dtype == np.int64:
        array[0] += 1 << number(13)
    elif array.dtype == np.float64:
        array += 1
    elif array.dtype == np.uint8:
        array ^= Stream(new_seed()).words("bytes", array.shape, np.uint8) | 1
    else:
        array ^= array.dtype.type(np.iinfo(array.dtype).max)
    try:
        yield
    finally:
        array[...] = before


@pytest.mark.parametrize("liar", [pytest.param(0, id="alice", marks=pytest.mark.long), pytest.param(1, id="bob")])
def test_a_lie_in_anything_stored_is_caught(up: Upload, liar: int) -> None:
    """Of so many rows that each look-up has 64 values, up to 16: a changed lift of a ReLU shows in one of four values
    at least, and three ranks may hide one."""
    looked_up = [layer.size for layer in up.plan.layers if isinstance(layer, Lookup)]
    x, bundle = given(up, min(-(-64 // min(looked_up, default=64)), 16))
    told = 0
    for name, array in stored(bundle.ready[liar].layers):
        if not array.size or name.endswith("at_point"):  # what it expects of the other party is for its own verdict
            continue
        with changed(array):
            assert drive(up.sessions(bundle, x)).answers[1 - liar] is None, name
        told += 1
    assert told
    assert accepted(up, bundle, x, drive(up.sessions(bundle, x))) is not None


def test_the_shipped_convolutional_network_is_bit_exact() -> None:
    """LeNet: convolutions and max pools, in 30 rounds for 25."""
    compiled = sources.load("lenet").compile()
    pictures, labels = samples.images()
    x = encode_rows(compiled.plan, normalise(pictures[:4], "lenet").reshape(4, -1))
    up = Upload(compiled.plan, compiled.weights)
    bundle = up.deal(len(x))
    outcome = drive(up.sessions(bundle, x))
    y = accepted(up, bundle, x, outcome)
    assert y is not None and np.array_equal(y, up.expected(bundle, x))
    assert np.array_equal(y.argmax(axis=1), labels[:4].numpy())
    assert outcome.rounds == 30 and compiled.plan.rounds == 25


REFUSED = {
    "a ring of 64 bits": plan_of(
        Open(name="o", input="input", shape=(5,)),
        LAST.model_copy(update={"input": "o", "shape": (5,)}),
        shape=(5,),
        bits=64,
    ),
    "an output of too many products": network(
        Linear(name="a", input="o", shape=(1 << 20,), out_features=1), shape=(1 << 20,)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_verified_yet_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="be verified yet"):
        graph.check_supported(REFUSED[name])
