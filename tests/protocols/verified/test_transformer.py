"""A block of a transformer, softmax, norms and GELU included: right to the last bit, and no lie in it is accepted."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from moiety_server.compiler.compilation import Compiled, compile_model, encode_rows
from moiety_shared.plan.exp2 import Exp2
from moiety_shared.plan.layers import MatMul
from moiety_shared.plan.normalise import Normalise
from moiety_shared.plan.pieces import Pieces
from moiety_shared.plan.waves import Waves
from moiety_shared.ring import Array
from tests.protocols.verified.running import Bundle, Upload, accepted, drive, stored
from tests.protocols.verified.test_layers import CHECK, changed, flipped

TOKENS, WIDTH = 3, 4


@cache
def compiled() -> Compiled:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH, 1, WIDTH, activation="gelu", batch_first=True, norm_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(TOKENS * WIDTH, 2)).eval()
    rows = torch.randn(64, TOKENS, WIDTH).clamp(-2, 2)
    return compile_model(model, rows, low=-2, high=2, ring_bits=32)


def dealt(rows: int) -> tuple[Upload, Array, Bundle]:
    made = compiled()
    up = Upload(made.plan, made.weights)
    torch.manual_seed(1)
    return up, encode_rows(made.plan, torch.randn(rows, TOKENS, WIDTH).clamp(-2, 2)), up.deal(rows)


def test_an_honest_run_is_bit_exact_and_at_the_stated_cost() -> None:
    for rows in (3, 1):
        up, x, bundle = dealt(rows)
        outcome = drive(up.sessions(bundle, x))
        y = accepted(up, bundle, x, outcome)
        assert y is not None and np.array_equal(y, up.expected(bundle, x))
    kinds = {type(layer) for layer in up.plan.layers}
    assert kinds >= {Exp2, MatMul, Normalise, Pieces, Waves}
    stated = compiled().verified().plan.verified
    assert stated is not None and (stated.rounds, stated.online_bytes) == (outcome.rounds, outcome.sent[0])
    assert compiled().relative_error < 0.01


@pytest.mark.long
@pytest.mark.parametrize("liar", [0, 1], ids=["alice", "bob"])
def test_no_lie_in_a_message_is_accepted(liar: int) -> None:
    """One bit of each opening behind the input's, in all rounds."""
    up, x, bundle = dealt(2)
    sent = list[tuple[int, int]]()

    def watched(at: int, place: int, raw: bytes) -> bytes:
        sent.append((at, place))
        return raw

    check = drive(up.sessions(bundle, x), liar, watched).rounds - CHECK
    for where in [place for place in sent if 0 < place[0] < check]:

        def tamper(at: int, place: int, raw: bytes, where: tuple[int, int] = where) -> bytes:
            return flipped(raw, (at, place) == where)

        assert drive(up.sessions(bundle, x), liar, tamper).answers[1 - liar] is None, where


@pytest.mark.long
@pytest.mark.parametrize("liar", [0, 1], ids=["alice", "bob"])
def test_no_lie_in_anything_stored_is_accepted(liar: int) -> None:
    up, x, bundle = dealt(16)
    for name, array in stored(bundle.ready[liar].layers):
        if array.size and not name.endswith("at_point"):
            with changed(array):
                assert drive(up.sessions(bundle, x)).answers[1 - liar] is None, name
    assert accepted(up, bundle, x, drive(up.sessions(bundle, x))) is not None
