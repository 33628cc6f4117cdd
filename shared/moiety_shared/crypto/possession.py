"""Proof of possession (RFC 7800). A token may name the hash of a key, and then only the holder of that key can use it.

The client signs its handshake with each party (`handshake.py`), and every request begins with that handshake.
"""

import base64
import hashlib
import hmac

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moiety_shared.problems import Problem, ProblemType

_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
PROOF_BYTES = _KEY_BYTES + _SIGNATURE_BYTES
"""The bytes of the public key and the signature together."""


def thumbprint(public: bytes) -> str:
    """The JWK thumbprint (RFC 7638, SHA-256) of a raw Ed25519 public key. A token carries it as `cnf.jkt`."""
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{_base64(public)}"}}'
    return _base64(hashlib.sha256(jwk.encode()).digest())


def private_pem(key: Ed25519PrivateKey) -> str:
    """PKCS #8, the form in which access files and `moiety keys client` store the key. It is a secret."""
    raw = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return raw.decode()


def private_from_pem(pem: bytes) -> Ed25519PrivateKey:
    """Raises ValueError when it is not the PEM of an Ed25519 private key."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (TypeError, UnsupportedAlgorithm):  # it is under a password, or of another kind
        raise ValueError("not an Ed25519 key that can be read") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")
    return key


def public_pem(key: Ed25519PublicKey) -> str:
    """SubjectPublicKeyInfo, the form in which an owner gets the key to bind a token to it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def public_from_pem(pem: bytes) -> Ed25519PublicKey:
    """Raises ValueError when it is not the PEM of an Ed25519 public key."""
    try:
        key = serialization.load_pem_public_key(pem)
    except UnsupportedAlgorithm:
        raise ValueError("not an Ed25519 key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 key")
    return key


def prove(key: Ed25519PrivateKey, statement: bytes) -> bytes:
    """Sign the statement, which proves that the holder of the key made it. The proof is `PROOF_BYTES` long."""
    return key.public_key().public_bytes_raw() + key.sign(statement)


def _holders_key(public: bytes, expected: str) -> Ed25519PublicKey:
    """Return the public key if `expected` is its thumbprint. Raises Problem UNAUTHORIZED otherwise."""
    try:
        if hmac.compare_digest(thumbprint(public), expected):
            return Ed25519PublicKey.from_public_bytes(public)
    except ValueError:
        pass
    raise Problem(
        ProblemType.UNAUTHORIZED,
        "the token is bound to a key, and the request was not made with that key: it is in the access file, or in the "
        "file that MOIETY_CLIENT_KEY_FILE names",
    )


def check(proof: bytes, statement: bytes, expected: str) -> None:
    """Raises Problem UNAUTHORIZED unless the key with the thumbprint `expected` signed the statement."""
    try:
        _holders_key(proof[:_KEY_BYTES], expected).verify(proof[_KEY_BYTES:], statement)
    except InvalidSignature:
        raise Problem(ProblemType.UNAUTHORIZED, "the request is not signed by the token's key") from None


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
