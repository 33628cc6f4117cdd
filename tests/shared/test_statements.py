"""What a party signs of a run: one statement can be shown, and what is beside it says nothing of the others."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_shared.crypto.signing import BadSignature
from moiety_shared.messages.statements import SignedStatement, Statement, leaves, sign_run
from moiety_shared.messages.wire import Binding
from moiety_shared.problems import Problem
from moiety_shared.protocols.sent import SentPiece

BINDING = Binding(bytes(32), b"u" * 16, b"r" * 16, bytes(32), 7)
KEY = Ed25519PrivateKey.generate()


def statement(first_row: int) -> Statement:
    pieces = SentPiece(2, (b"a" * 32, b"b" * 32)), SentPiece(1, (b"c" * 32, b"d" * 32))
    return Statement(1, BINDING, "ab" * 16, first_row, pieces, b"o" * 32)


def shown(secret: bytes, place: int = 1, party: int = 1) -> SignedStatement:
    packed = [statement(row).pack() for row in (0, 3, 6)]
    run = leaves(secret, packed)
    return SignedStatement.of(packed[place], secret, place, run, sign_run(party, run, KEY))


def test_a_statement_is_read_as_it_was_signed() -> None:
    assert shown(bytes(32)).verify(1, KEY.public_key()) == statement(3)
    assert statement(3).rows == 3


def test_anything_else_is_none() -> None:
    good = shown(bytes(32))
    other = shown(bytes(32), 2)
    bad = [
        (good.model_copy(update={"statement": other.statement}), 1, KEY),
        (good.model_copy(update={"place": 2}), 1, KEY),
        (good.model_copy(update={"place": 3}), 1, KEY),
        (good.model_copy(update={"salt": "00" * 32}), 1, KEY),
        (good.model_copy(update={"leaves": good.leaves[:2]}), 1, KEY),
        (good, 0, KEY),
        (good, 1, Ed25519PrivateKey.generate()),
        (shown(bytes(32), party=0), 1, KEY),
        (shown(bytes(32), party=0), 0, KEY),  # signed by alice, but a statement of bob's
    ]
    for signed, party, key in bad:
        with pytest.raises(BadSignature):
            signed.verify(party, key.public_key())


def test_what_is_cut_or_longer_is_no_statement() -> None:
    packed = statement(3).pack()
    for raw in (b"", packed[:-1], packed + b"\0", packed[:100], packed[:129] + bytes([99]) + packed[130:]):
        with pytest.raises(Problem):
            Statement.unpack(raw)


def test_the_others_leaves_are_salted() -> None:
    """Who can guess what another client's rows opened cannot test the guess: each run's salts are secret."""
    one, again = shown(bytes(32)), shown(b"s" * 32)
    assert not set(one.leaves) & set(again.leaves)
    assert one.salt != shown(bytes(32), 2).salt
