"""Envelopes: bytes that one recipient can open, bound to the context in which they were sealed. There are three ways.

To a party: HPKE (RFC 9180) with the post-quantum hybrid MLKEM768-X25519, HKDF-SHA256 and AES-128-GCM, from pyca. Its
single-shot form has no associated data, so the context goes into `info`.

Back to the client: AES-256-GCM under a key that the client drew for this request alone and put into that party's
envelope (as Oblivious HTTP, RFC 9458, does with an exported key). The way back takes no public-key operation, and the
relaying party cannot read what the other one returns. Nonces are random, because a party may use a key twice: when a
run breaks off at its very end, the client has it run again, and the party seals a second, different share under the
same key.

Large content that is stored, or sent in pieces, such as a model: AES-256-GCM in numbered chunks, under a key that is
drawn for this content alone and sealed in one of the ways above.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from moiety_shared.problems import Problem, ProblemType

KEY_ID_BYTES = 8
SEAL_OVERHEAD = 1144  # bytes: the key's id (8), the encapsulated key (1088 + 32) and the tag (16)
RESULT_OVERHEAD = 28  # bytes: the nonce (12) and the tag (16)
CHUNK_OVERHEAD = 16  # bytes: the tag
CHUNK_KEY_BYTES = 32
_NONCE = 12
_MLKEM_PUBLIC, _MLKEM_SEED, _X25519 = 1184, 64, 32


def _suite() -> Suite:
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_128_GCM)


@dataclass(frozen=True)
class PublicKey:
    """A party's sealing key, in the raw form that the catalogue carries (1184 + 32 bytes)."""

    raw: bytes

    @property
    def key_id(self) -> str:
        """The first 16 hex digits of the key's SHA-256. Envelopes begin with it."""
        return hashlib.sha256(self.raw).hexdigest()[: 2 * KEY_ID_BYTES]

    def text(self) -> str:
        return base64.urlsafe_b64encode(self.raw).decode()

    @classmethod
    def from_text(cls, text: str) -> "PublicKey":
        """Raises ValueError when it is not a key."""
        raw = base64.b64decode(text, altchars=b"-_", validate=True)
        if len(raw) != _MLKEM_PUBLIC + _X25519:
            raise ValueError(f"a sealing key has {_MLKEM_PUBLIC + _X25519} bytes, this one {len(raw)}")
        key = cls(raw)
        key.seal(b"", b"")  # some points make no key: the reader of the key learns it, not whoever seals with it
        return key

    def seal(self, message: bytes | bytearray, context: bytes) -> bytes:
        """Seal `message`. Only the holder of the private key can open it, and only under the same context."""
        return self._id + _suite().encrypt(message, self._key, info=context)

    @cached_property
    def _id(self) -> bytes:
        return bytes.fromhex(self.key_id)

    @cached_property
    def _key(self) -> MLKEM768X25519PublicKey:
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(self.raw[:_MLKEM_PUBLIC]),
            X25519PublicKey.from_public_bytes(self.raw[_MLKEM_PUBLIC:]),
        )


class PrivateKey:
    """The private half of a party's sealing key. `raw` is the ML-KEM seed and the X25519 key (64 + 32 bytes)."""

    def __init__(self, raw: bytes) -> None:
        if len(raw) != _MLKEM_SEED + _X25519:
            raise ValueError("not a sealing key")
        self.raw = raw
        mlkem = MLKEM768PrivateKey.from_seed_bytes(raw[:_MLKEM_SEED])
        x25519 = X25519PrivateKey.from_private_bytes(raw[_MLKEM_SEED:])
        self._key = MLKEM768X25519PrivateKey(mlkem, x25519)
        self.public = PublicKey(mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> "PrivateKey":
        x25519 = X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        return cls(MLKEM768PrivateKey.generate().private_bytes_raw() + x25519)

    def open(self, envelope: bytes | memoryview, context: bytes) -> bytes:
        """Return the message. Raises Problem SEALED_FOR_ANOTHER when the key, the context or any bit differs."""
        if bytes(envelope[:KEY_ID_BYTES]).hex() != self.public.key_id:
            raise Problem(ProblemType.SEALED_FOR_ANOTHER)
        try:
            return _suite().decrypt(envelope[KEY_ID_BYTES:], self._key, info=context)
        except (InvalidTag, ValueError) as error:
            raise Problem(ProblemType.SEALED_FOR_ANOTHER) from error


def seal_result(key: bytes, message: bytes, context: bytes) -> bytes:
    """Seal to the client, under the key that the client drew for this request and party."""
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, message, context)


def open_result(key: bytes, sealed: bytes | memoryview, context: bytes) -> bytes:
    """Return the message. Raises Problem SEALED_FOR_ANOTHER when it was not sealed with this key in this context."""
    try:
        return AESGCM(key).decrypt(bytes(sealed[:_NONCE]), sealed[_NONCE:], context)
    except (InvalidTag, ValueError) as error:
        raise Problem(ProblemType.SEALED_FOR_ANOTHER, "a result share") from error


class Chunks:
    """One content, chunk by chunk in order. The reader must know how many chunks there are. Each key is for one
    content."""

    def __init__(self, key: bytes, context: bytes = b"") -> None:
        self._cipher, self._context, self._number = AESGCM(key), context, 0

    def seal(self, piece: bytes | memoryview) -> bytes:
        return self._cipher.encrypt(self._nonce(), piece, self._context)

    def open(self, sealed: bytes | bytearray | memoryview) -> bytes:
        """Open the next chunk. Raises Problem MALFORMED when `sealed` is not the next chunk of this content."""
        try:
            return self._cipher.decrypt(self._nonce(), sealed, self._context)
        except (InvalidTag, ValueError) as error:
            raise Problem(ProblemType.MALFORMED, "a sealed chunk was changed, or is not the next one") from error

    def _nonce(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(_NONCE, "little")
