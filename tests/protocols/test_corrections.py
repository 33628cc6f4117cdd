"""What the dealer sends: each correction is a value under words of alice's stream that are used for nothing else.

The exhaustive tests enumerate what is opened. With this, what bob holds besides tells him nothing.
"""

from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.layers import Conv, Linear, MatMul, Mul, Open, Reshare
from moiety_shared.plan.local import Reshape
from moiety_shared.plan.lookups import Decide, MaxPool, OneHot, ReLU, Table, TopK, Truncate
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.plan import Input, Output, Plan
from moiety_shared.plan.waves import Wave, Waves
from moiety_shared.protocols import graph
from moiety_shared.protocols import product as products
from moiety_shared.protocols.dealing import Dealer, uniform
from moiety_shared.protocols.preparation import Preparation
from moiety_shared.ring import Array, Ring
from tests.protocols.bugs import Patch, bare

IMAGE = (2, 2, 2)
WAVES: dict[str, Any] = {
    "word_bits": 32,
    "constant": 5,
    "waves": (Wave(cosine=900, sine=-70, table_bits=9), Wave(cosine=0, sine=300, table_bits=8)),
}
EXP2 = {"word_bits": 32, "octave_bits": 3, "span_bits": 5, "top": 0, "height_bits": 15, "table_bits": 11}
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
EVERY_KIND = Plan(
    ring_bits=32,
    input=Input(shape=IMAGE, frac_bits=4, low=-8, high=8, classes=5),
    layers=(
        Reshare(name="fresh", input="input", shape=IMAGE),
        Decide(name="decide", input="fresh", shape=IMAGE, shift=2, opened_bits=8, range_bits=6, hinges=(1, 3)),
        OneHot(name="row", input="labels", opened_bits=3, classes=5),
        Open(name="o", input="input", shape=IMAGE),
        Conv(name="conv", input="o", shape=IMAGE, out_channels=2, kernel=(1, 1)),
        Mul(name="mul", left="o", right="o", left_shape=IMAGE, right_shape=IMAGE),
        MatMul(name="matmul", left="o", right="o", left_shape=IMAGE, right_shape=IMAGE),
        Linear(name="linear", input="o", shape=IMAGE, out_features=2, bias=False),
        MaxPool(
            name="pool",
            input="conv",
            shape=IMAGE,
            kernel=(2, 2),
            stride=(2, 2),
            output_size=(1, 1),
            shift=2,
            opened_bits=16,
            range_bits=14,
        ),
        ReLU(name="relu", input="pool", shape=(2, 1, 1), shift=1, opened_bits=12, range_bits=11, digit_bits=3),
        ReLU(name="clip", input="mul", shape=IMAGE, shift=0, opened_bits=16, range_bits=7, hinges=(0, 5)),
        Truncate(name="truncate", input="linear", shape=IMAGE, shift=4, opened_bits=20),
        Table(name="table", input="relu", shape=(2, 1, 1), shift=0, opened_bits=7, values=(tuple(range(128)),)),
        Waves(name="waves", input="relu", shape=(2, 1, 1), shift=0, opened_bits=7, **WAVES),
        Truncate(name="dulled", input="waves", shape=(2, 1, 1), shift=14, opened_bits=18),
        Exp2(name="exp2", input="relu", shape=(2, 1, 1), shift=0, opened_bits=7, **EXP2),
        Truncate(name="blunt", input="exp2", shape=(2, 1, 1), shift=18, opened_bits=14),
        Normalise(
            name="normalise", input="relu", shape=(2, 1, 1), shift=2, opened_bits=30, range_bits=12, hinges=(16, 256)
        ),
        Pieces(name="pieces", input="relu", shape=(2, 1, 1), shift=0, opened_bits=8, **PIECES),
        Truncate(name="whittled", input="pieces", shape=(2, 1, 1), shift=17, opened_bits=15),
        Reshape(name="flat", input="clip", shape=IMAGE, to=(8,)),
        TopK(name="winner", input="flat", shape=(8,), shift=0, opened_bits=16, range_bits=12, result="share"),
        TopK(name="places", input="winner", shape=(8,), shift=0, opened_bits=16, range_bits=12, k=3),
    ),
    output=Output(wire="places", shape=(8,), kind="labels"),
)


IN_SMALL_RINGS = {
    ("winner", "beta"): 3,
    ("places", "beta"): 3,
    **{(layer.name, "lift"): 32 - layer.opened_bits for layer in EVERY_KIND.layers if isinstance(layer, Truncate)},
    **{
        (layer.name, name): 31 - layer.range_bits
        for layer in EVERY_KIND.layers
        if isinstance(layer, ReLU)
        for name in ("lift", "carry")
    },
}
"""The bits of their ring, by layer and name; the others fill their words."""


@dataclass
class Words:
    """A `Stream` that notes what is drawn from it, and yields nothing but zeros under one address."""

    seed: bytes
    without: tuple[str, str] | None = None
    address: str = ""
    drawn: dict[tuple[str, str], tuple[tuple[int, ...], str]] = field(default_factory=dict)

    def at(self, address: str) -> "Words":
        return replace(self, address=address)

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        where = self.address, name
        assert where not in self.drawn, f"{where} drawn twice"
        self.drawn[where] = shape, np.dtype(dtype).str
        words = Stream(self.seed, self.address).words(name, shape, dtype)
        return words * 0 if where == self.without else words


def dealt(
    seeds: list[bytes], rows: int, without: tuple[str, str] | None = None
) -> tuple[dict[Any, Array], list[Words]]:
    ring = graph.ring_of(EVERY_KIND)
    masks = {
        layer.name: Stream(seeds[0], "upload").words(layer.name, layer.weights()["weight"], ring.dtype)
        for layer in EVERY_KIND.layers
        if isinstance(layer, Linear | Conv)
    }
    streams = [Words(seed, without if at == 0 else None) for at, seed in enumerate(seeds)]
    alice, bob = cast(list[Any], streams)
    names = [(layer.name, c.name) for layer in EVERY_KIND.layers for c in layer.corrections(32)]
    arrays = [array.copy() for _, array in graph.deal(EVERY_KIND, rows, masks, alice, bob)]
    return dict(zip(names, arrays, strict=True)), streams


def check_corrections() -> None:
    """Without its words of alice's stream a correction is the value; with them value - word, or value xor word, and
    no other correction depends on them. Party 0 draws the same words, and bob's stream has none of them."""
    rows, seeds = 3, [new_seed() for _ in range(2)]
    corrections, (alice, bob) = dealt(seeds, rows)
    assert {kind for kind, *_ in corrections} >= {
        "conv",
        "mul",
        "matmul",
        "linear",
        "pool",
        "relu",
        "clip",
        "truncate",
        "table",
        "waves",
        "normalise",
        "pieces",
    }
    masks = {where for where in alice.drawn if where not in corrections}
    assert masks == set(bob.drawn), "both halves of every mask, and bob's stream has nothing else"
    for where, correction in corrections.items():
        values, _ = dealt(seeds, rows, where)
        shape, dtype = alice.drawn[where]
        words = Stream(seeds[0], where[0]).words(where[1], shape, dtype)
        assert words.shape == correction.shape and words.dtype.itemsize == correction.itemsize
        ring = Ring(IN_SMALL_RINGS.get(where, 32))
        hidden = ring.wrap(values[where] - words), values[where] ^ words
        assert any(np.array_equal(correction, found) for found in hidden), f"{where} is not hidden"
        for other in corrections:
            assert other == where or np.array_equal(values[other], corrections[other]), f"{other} hides behind {where}"
    holder = Words(seeds[0])
    preparation = Preparation(EVERY_KIND, 0, rows, cast(Any, holder), models())
    for layer in EVERY_KIND.layers:
        preparation.add(layer, b"")
    assert holder.drawn == alice.drawn, "alice and the dealer draw alike"


def models() -> dict[str, products.Weights]:
    """Weights of zero: what alice draws does not depend on them."""
    shapes = {layer.name: layer.weights() for layer in EVERY_KIND.layers if isinstance(layer, Linear | Conv)}
    zeros = {name: np.zeros(shape["weight"], dtype=np.int32) for name, shape in shapes.items()}
    return {name: products.Weights(zero, zero, None) for name, zero in zeros.items()}


def test_every_correction_is_hidden_by_words_of_its_own() -> None:
    check_corrections()


@pytest.mark.parametrize(
    "where",
    ["tables", "monomials", "lift", "select", "carry", "one_hot", "beta", "ranks", "row", "zero", "product", "words"],
)
def test_a_correction_that_is_not_hidden_is_noticed(monkeypatch: Patch, where: str) -> None:
    bare(where)(monkeypatch)
    with pytest.raises(AssertionError, match="is not hidden"):
        check_corrections()


def test_one_word_for_a_whole_correction_is_noticed(monkeypatch: Patch) -> None:
    def fix(self: Any, name: str, value: Array, ring: Ring | None = None) -> None:
        words = uniform(ring or self.ring, self._alice, name, value.shape)
        self.corrections[name] = (ring or self.ring).wrap(value - np.broadcast_to(words[:, :1], value.shape))

    monkeypatch.setattr(Dealer, "fix", fix)
    with pytest.raises(AssertionError, match="is not hidden"):
        check_corrections()


def test_one_word_for_two_corrections_is_noticed(monkeypatch: Patch) -> None:
    """Here each behind words that mask a value as well."""

    def fix(self: Any, name: str, value: Array, ring: Ring | None = None) -> None:
        words = uniform(ring or self.ring, self._alice, "input" if name == "product" else "value", value.shape)
        self.corrections[name] = (ring or self.ring).wrap(value - words)

    monkeypatch.setattr(Dealer, "fix", fix)
    with pytest.raises(AssertionError, match="drawn twice"):
        check_corrections()
