"""Words of 40 and 48 bits, which parties keep in 5 and 6 bytes: read, hidden and summed as if they were of 64."""

import numpy as np
import pytest

from moiety_shared.crypto.prg import Stream
from moiety_shared.plan.approximate import Approximate
from moiety_shared.plan.layers import upper_dtype
from moiety_shared.protocols import reduce
from moiety_shared.protocols.dealing import Dealer, Holder, LongWords
from moiety_shared.protocols.registry import PROTOCOLS
from moiety_shared.ring import Array, Ring
from tests.protocols.enumeration import Tape
from tests.protocols.test_exp2 import an_exp2
from tests.protocols.test_normalising import by_pieces
from tests.protocols.test_waves import some_waves

SEEDS = bytes(32), bytes([1]) * 32
ROWS, SIZE = 2, 40_000  # more than a block of either row
LAYERS: list[Approximate] = [
    some_waves(word_bits=48, shape=(SIZE,)),
    an_exp2(word_bits=48, shape=(SIZE,)),
    by_pieces("rsqrt", word_bits=48, value_bits=12, table_bits=12, degree=2, piece_bits=5, shape=(SIZE,)),
]


def dealt(layer: Approximate) -> tuple[dict[str, Array], Array]:
    """What the dealer sends, and the masks r (rows, size) from 0 on."""
    alice, bob = map(Stream, SEEDS)
    dealer = Dealer(Ring(64), ROWS, alice, bob)
    PROTOCOLS[type(layer)].deal(dealer, layer)
    ring = reduce.opened_ring(layer)
    one, other = (Holder(Ring(64), 0, ROWS, Stream(seed), {}).mask("value", (SIZE,), ring) for seed in SEEDS)
    return dealer.corrections, ring.lift(ring.wrap(one + other), Ring(64))


@pytest.mark.parametrize("bits", [40, 48])
def test_they_are_read_like_the_array_that_they_stand_for(bits: int) -> None:
    plain = Stream(bytes(32)).words("plain", (3, 4, 5), np.int64) & ((1 << bits) - 1)
    long = LongWords(plain.astype(np.int32), (plain >> 32).astype(upper_dtype(bits)))
    assert long.dtype == plain.dtype and np.array_equal(long[:], plain)
    assert np.array_equal(long[:, 2, 1:3], plain[:, 2, 1:3])
    places = np.array([[59, 0], [17, 17]])
    assert np.array_equal(long.take(places, mode="clip"), plain.take(places))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.op)
def test_what_is_sent_of_them_is_hidden_by_words_of_alice_that_are_used_for_nothing_else(layer: Approximate) -> None:
    protocol, alice, tapes = PROTOCOLS[type(layer)], Stream(SEEDS[0]), (Tape(), Tape())
    protocol.deal(Dealer(Ring(64), ROWS, *tapes), layer)
    assert (tapes[0].drawn, tapes[1].drawn) == (["value", "words", "words upper"], ["value"])
    corrections, r = dealt(layer)
    sent = LongWords(corrections["words"], corrections["words upper"])[:]
    hiding = LongWords(*(alice.words(name, sent.shape, array.dtype) for name, array in corrections.items()))[:]
    assert np.array_equal(sent, Ring(48).wrap(protocol.every_word(layer, r) - hiding))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.op)
def test_shares_of_them_add_up_to_the_reference(layer: Approximate) -> None:
    protocol, total = PROTOCOLS[type(layer)], np.zeros((ROWS, SIZE), dtype=np.int64)
    corrections, r = dealt(layer)
    t = Stream(bytes(32)).words("t", r.shape, np.uint16).astype(np.int64) & ((1 << layer.opened_bits) - 1)
    opened = t + r & ((1 << layer.opened_bits) - 1)
    for party, seed in enumerate(SEEDS):
        prepared = protocol.prepare(Holder(Ring(64), party, ROWS, Stream(seed), corrections), layer)
        total += protocol.summed(layer, party, opened, prepared.words)
    assert np.array_equal(Ring(48).wrap(total), Ring(48).wrap(protocol.reference(layer, t, opened)))
