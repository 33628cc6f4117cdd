"""A client's handshake with a party: the public-key operations that its requests of the next minutes share.

A handshake takes no round trip, and a party need not remember it. The client draws a key for each party and seals that
key to the party (HPKE, see `sealing.py`), with a proof that the client holds the key its token is bound to. Every
envelope begins with the sealed handshake. The rest of the envelope is AES-256-GCM under the key in it. A party keeps in
memory which handshakes it opened, and any other process of the party opens them anew.

A handshake says nothing about a request. The envelope's own cipher binds the envelope to its request, plan, upload and
time, as associated data.
"""

import hashlib
import secrets
import struct
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moiety_shared.crypto.possession import PROOF_BYTES, prove
from moiety_shared.crypto.sealing import SEAL_OVERHEAD, PublicKey
from moiety_shared.formats import HANDSHAKE, check_magic
from moiety_shared.problems import Problem, ProblemType

MAX_SECONDS = 300
"""The most seconds between a handshake and a request that uses it, by the client's own clock."""

_MAGIC_BYTES, _KEY_BYTES, _NONCE_BYTES, _TAG_BYTES, _TIME_BYTES = 4, 32, 12, 16, 8
_CONTENT = struct.Struct(f"<4s{_KEY_BYTES}sQ{PROOF_BYTES}s")  # magic, key, time, proof
SEALED_BYTES = SEAL_OVERHEAD + _CONTENT.size
ENVELOPE_OVERHEAD = SEALED_BYTES + _NONCE_BYTES + _TAG_BYTES
"""The bytes of an envelope besides its content."""


@dataclass(frozen=True, repr=False)
class Handshake:
    """What both ends know: the key of the envelopes; when the client drew it, in seconds since 1970 by its own clock;
    and a proof of who drew it, which is zeros where the token is bound to no key."""

    key: bytes
    time: int
    proof: bytes = bytes(PROOF_BYTES)

    @classmethod
    def new(cls, time: int, party: int, token: str = "", holder: Ed25519PrivateKey | None = None) -> "Handshake":
        """Make a fresh handshake with party p. `holder`, if given, signs it for that token."""
        fresh = cls(secrets.token_bytes(_KEY_BYTES), time)
        return fresh if holder is None else cls(fresh.key, time, prove(holder, fresh.statement(party, token)))

    def statement(self, party: int, token: str) -> bytes:
        """The statement that the proof signs: this key, for this party alone, under this token.

        The proof for the other party signs another statement. So a party that sees one proof cannot use it at the other
        party.
        """
        terms = self.time.to_bytes(_TIME_BYTES, "little") + hashlib.sha256(self.key).digest()
        return f"moiety/v1 handshake {party}\0".encode() + terms + hashlib.sha256(token.encode()).digest()

    @cached_property
    def _cipher(self) -> AESGCM:
        return AESGCM(self.key)

    def pack(self) -> bytes:
        return _CONTENT.pack(HANDSHAKE, self.key, self.time, self.proof)

    @classmethod
    def unpack(cls, raw: bytes) -> "Handshake":
        """Raises Problem MALFORMED or UNSUPPORTED_VERSION."""
        check_magic(raw[:_MAGIC_BYTES], HANDSHAKE, "a handshake")
        if len(raw) != _CONTENT.size:
            raise Problem(ProblemType.MALFORMED, "a handshake has the wrong length")
        _, key, time, proof = _CONTENT.unpack(raw)
        return cls(key, time, proof)

    def sealed(self, recipient: PublicKey, party: int) -> bytes:
        """Seal it to party p. Envelopes to that party begin with the result, which is `SEALED_BYTES` long."""
        return recipient.seal(self.pack(), context(party))

    def seal(self, sealed: bytes, message: bytes | bytearray, bound_to: bytes) -> bytes:
        """Make an envelope. It opens with this handshake alone, and for `bound_to` alone. `sealed` is the handshake,
        sealed.

        Nonces are random. A key is used for minutes, and in that time the chance that a nonce comes twice is
        negligible.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return b"".join((sealed, nonce, self._cipher.encrypt(nonce, message, bound_to)))

    def open(self, envelope: bytes | memoryview, bound_to: bytes) -> bytes:
        """Return the envelope's message. Raises Problem SEALED_FOR_ANOTHER when its binding or any bit differs."""
        nonce, sealed = envelope[SEALED_BYTES : SEALED_BYTES + _NONCE_BYTES], envelope[SEALED_BYTES + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(bytes(nonce), sealed, bound_to)
        except (InvalidTag, ValueError) as error:
            raise Problem(ProblemType.SEALED_FOR_ANOTHER) from error


def context(party: int) -> bytes:
    """HPKE's `info` of a handshake with party p."""
    return f"moiety/v1 handshake {party}\0".encode()
