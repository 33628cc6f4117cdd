"""Proofs that a handshake was made by who holds the token's key."""

import base64
import json
from dataclasses import replace

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from moiety_shared.crypto import tokens
from moiety_shared.crypto.handshake import Handshake
from moiety_shared.crypto.possession import (
    PROOF_BYTES,
    check,
    private_from_pem,
    private_pem,
    prove,
    public_from_pem,
    public_pem,
    thumbprint,
)
from moiety_shared.crypto.signing import key_text
from moiety_shared.crypto.tokens import Grant
from moiety_shared.problems import Problem, ProblemType

KEY, OWNER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
BOUND = thumbprint(KEY.public_key().public_bytes_raw())
HANDSHAKE = Handshake(b"k" * 32, 1000)


def refused(proof: bytes, statement: bytes, expected: str = BOUND) -> None:
    with pytest.raises(Problem) as caught:
        check(proof, statement, expected)
    assert caught.value.kind is ProblemType.UNAUTHORIZED


def test_the_thumbprint_is_that_of_the_standard() -> None:
    """RFC 8037, appendix A.3: the JWK thumbprint of an Ed25519 public key."""
    public = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    assert thumbprint(public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_proof_is_for_one_key_one_party_and_one_token() -> None:
    statement = HANDSHAKE.statement(0, "token")
    proof = prove(KEY, statement)
    check(proof, statement, BOUND)
    others = [
        HANDSHAKE.statement(1, "token"),
        HANDSHAKE.statement(0, "another token"),
        replace(HANDSHAKE, key=bytes(32)).statement(0, "token"),
        replace(HANDSHAKE, time=1001).statement(0, "token"),
    ]
    assert len({statement, *others}) == 1 + len(others)
    for other in others:
        refused(proof, other)
    assert HANDSHAKE.key not in statement, "whoever verifies it may keep it"


def test_a_handshake_is_signed_by_the_holder() -> None:
    made = Handshake.new(1000, 1, "token", KEY)
    check(made.proof, made.statement(1, "token"), BOUND)
    assert Handshake.new(1000, 1, "token", KEY).key != made.key
    assert Handshake.new(1000, 1, "token").proof == bytes(PROOF_BYTES)


def test_other_proofs_are_refused() -> None:
    statement = HANDSHAKE.statement(0, "token")
    stranger, good = Ed25519PrivateKey.generate(), prove(KEY, statement)
    refused(prove(stranger, statement), statement)
    refused(good[:32] + prove(stranger, statement)[32:], statement)
    refused(bytes(PROOF_BYTES), statement)
    refused(bytes(PROOF_BYTES), statement, thumbprint(bytes(32)))
    for at in range(PROOF_BYTES):
        refused(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :], statement)


def test_a_token_says_which_key_it_needs() -> None:
    grant = Grant(token_id="ab" * 16, subject="clinic", expires=2000, key=BOUND)
    owner = key_text(OWNER.public_key())
    text = tokens.issue(grant, OWNER)
    assert tokens.verify(text, owner) == grant
    claims = jwt.decode(text, options={"verify_signature": False})
    assert claims["cnf"] == {"jkt": BOUND}
    without = grant.model_copy(update={"key": None})
    assert tokens.verify(tokens.issue(without, OWNER), owner) == without
    for other in ({}, {"kid": "x"}, {"jkt": None}, {"jkt": ""}, {"jkt": 7}, None, "x", []):
        signed = jwt.encode(claims | {"cnf": other}, OWNER, algorithm="EdDSA")
        with pytest.raises(Problem) as caught:
            tokens.verify(signed, owner)
        assert caught.value.kind is ProblemType.UNAUTHORIZED, "what is not understood is never ignored"


def test_grants_of_the_first_release_are_read() -> None:
    old = {
        "token_id": "ab" * 16,
        "subject": "clinic",
        "models": ["*"],
        "outputs": ["logits"],
        "expires": 9,
        "quota": None,
    }
    assert Grant.model_validate_json(json.dumps(old)).key is None


def test_keys_are_read_as_they_were_written() -> None:
    assert private_pem(private_from_pem(private_pem(KEY).encode())) == private_pem(KEY)
    assert public_from_pem(public_pem(KEY.public_key()).encode()) == KEY.public_key()
    curve = generate_private_key(SECP256R1())
    other = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    for wrong in (b"", b"x", other, public_pem(KEY.public_key()).encode()):
        with pytest.raises(ValueError, match=r".+"):
            private_from_pem(wrong)
    for wrong in (b"", b"x", private_pem(KEY).encode()):
        with pytest.raises(ValueError, match=r".+"):
            public_from_pem(wrong)
