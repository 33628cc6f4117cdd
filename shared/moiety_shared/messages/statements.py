"""What alice and bob sign of a run, so that its owner can find out later which of them lied.

At the end of a run each party has signed, for each request of the run, a *statement* of what it sent. Both sign before
bob gives out his share of the result, and each keeps what the other signed. In a verified run both sign what they sent
and heard before the coins are shown, too: so each is bound, and knows that the other knows it. One signature covers all
requests of a run, by a *leaf* for each: a hash of the request's statement and a salt. So one statement can be shown,
and the leaves of the other requests beside it say nothing of them.

    statement    party 1, binding 104, lease 16, first row 8, rows 4, number of pieces sent 4 and heard 4, outcome 32,
                 and for each piece its rows 4, number of rounds 4, a digest of 32 for each round
    leaf         SHA-256(label, salt 32, statement)
    signature    Ed25519, over a label, the party, and all leaves in the order of the requests

The salts follow from 32 bytes that the party draws for the run and sends with its signature.
"""

import base64
import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field

from moiety_shared.crypto.channel import derive
from moiety_shared.crypto.signing import BadSignature
from moiety_shared.messages.catalogue import Hex16, Hex32
from moiety_shared.messages.wire import Binding, malformed
from moiety_shared.plan.layers import Public
from moiety_shared.protocols.sent import SentPiece

SECRET_BYTES, SIGNATURE_BYTES = 32, 64
SIGNED_BYTES = SECRET_BYTES + SIGNATURE_BYTES
"""What a party sends of its signature: the secret of the run's salts, and the signature."""
NO_OUTCOME = bytes(32)
"""The outcome of who signs before it has a result, as alice always does, and of requests that bob refuses."""
MOST_WORDS = 1 << 26
"""The most bytes of words that are handed over for one request."""
_HEAD = struct.Struct("<B16s32s16s32sQ16sQIII32s")
_PIECE = struct.Struct("<II")
_DIGEST = 32
_Base64 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


class Statement(NamedTuple):
    """What party p sent in a run for one request: which rows it used, what it opened, and what it gave out."""

    party: int
    binding: Binding
    lease_id: str
    first_row: int
    pieces: tuple[SentPiece, ...]
    outcome: bytes = NO_OUTCOME
    """SHA-256 of bob's sealed share of the result."""
    heard: tuple[SentPiece, ...] = ()
    """In a verified run: what the other party sent."""

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    def pack(self) -> bytes:
        b = self.binding
        names = b.upload_id, b.plan_digest, b.request_id, b.request_digest, b.time
        place = bytes.fromhex(self.lease_id), self.first_row, self.rows, len(self.pieces), len(self.heard)
        parts = [_HEAD.pack(self.party, *names, *place, self.outcome)]
        for piece in (*self.pieces, *self.heard):
            parts += (_PIECE.pack(piece.rows, len(piece.digests)), *piece.digests)
        return b"".join(parts)

    @classmethod
    def unpack(cls, raw: bytes) -> "Statement":
        """Raises Problem MALFORMED for anything but a statement."""
        if len(raw) < _HEAD.size:
            raise malformed("a statement was cut short")
        party, upload, plan, request, digest, time, lease, first, _, sent, heard, outcome = _HEAD.unpack_from(raw)
        pieces, at = list[SentPiece](), _HEAD.size
        while len(pieces) < sent + heard and len(raw) >= at + _PIECE.size:
            rows, rounds = _PIECE.unpack_from(raw, at)
            at += _PIECE.size
            end = at + rounds * _DIGEST
            if end > len(raw):
                raise malformed("a statement was cut short")
            pieces.append(SentPiece(rows, tuple(raw[i : i + _DIGEST] for i in range(at, end, _DIGEST))))
            at = end
        binding = Binding(plan, upload, request, digest, time)
        made = cls(party, binding, lease.hex(), first, tuple(pieces[:sent]), outcome, tuple(pieces[sent:]))
        if made.pack() != raw:
            raise malformed("a statement is not well formed")
        return made


def salt(secret: bytes, place: int) -> bytes:
    """The salt of a run's request of that place."""
    return hmac.digest(secret, b"moiety/v1 statement salt" + place.to_bytes(4, "little"), "sha256")


def leaf(salt: bytes, statement: bytes) -> bytes:
    return hashlib.sha256(b"moiety/v1 statement\0" + salt + statement).digest()


def leaves(secret: bytes, statements: Sequence[bytes]) -> list[bytes]:
    """The leaves of a run's statements, in the order of its requests."""
    return [leaf(salt(secret, place), statement) for place, statement in enumerate(statements)]


def sign_run(party: int, run: Sequence[bytes], key: Ed25519PrivateKey) -> bytes:
    """Party p signs the leaves of a run."""
    return key.sign(_signed(party, run))


def verify_run(party: int, run: Sequence[bytes], signature: bytes, key: Ed25519PublicKey) -> None:
    """Raises BadSignature unless party p signed the leaves of this run."""
    try:
        key.verify(signature, _signed(party, run))
    except InvalidSignature:
        raise BadSignature("the statements of a run are not signed by their party's key") from None


def _signed(party: int, run: Sequence[bytes]) -> bytes:
    return b"moiety/v1 statements\0" + bytes([party]) + b"".join(run)


def audit_key(result_key: bytes, request_id: bytes) -> bytes:
    """The key that a party keeps of a request, by which its client proves later that it is the client."""
    return derive(result_key, "audit", request_id)


def proof(key: bytes, upload_id: str) -> bytes:
    """What proves to a party that who asks for a run's transcript sent the run's request. `key` is `audit_key`'s."""
    return hmac.digest(key, b"moiety/v1 audit\0" + bytes.fromhex(upload_id), "sha256")


class TranscriptRequest(Public):
    """The body of POST .../models/{upload_id}/transcripts at a party: which of the owner's own requests to show."""

    request_id: Hex16
    proof: Hex32 = Field(description="by a key that only the request's client and this party know")
    challenge: Hex16 = Field(description="drawn anew each time: it shows that the lease lived when this was asked")


class SignedStatement(Public):
    """One statement of a run, and what its party's signature needs."""

    statement: _Base64
    salt: Hex32
    place: int = Field(ge=0, description="of the request in its run")
    leaves: tuple[Hex32, ...] = Field(max_length=1 << 10)
    signature: _Base64

    @classmethod
    def of(
        cls, statement: bytes, secret: bytes, place: int, run: Sequence[bytes], signature: bytes
    ) -> "SignedStatement":
        text, signed = (base64.b64encode(raw).decode() for raw in (statement, signature))
        hashes = tuple(one.hex() for one in run)
        return cls(statement=text, salt=salt(secret, place).hex(), place=place, leaves=hashes, signature=signed)

    def verify(self, party: int, key: Ed25519PublicKey) -> Statement:
        """Return the statement. Raises BadSignature unless party p signed it, Problem MALFORMED if it is none."""
        raw, run = base64.b64decode(self.statement), [bytes.fromhex(one) for one in self.leaves]
        if self.place >= len(run) or run[self.place] != leaf(bytes.fromhex(self.salt), raw):
            raise BadSignature("the statement is none of its run")
        verify_run(party, run, base64.b64decode(self.signature), key)
        made = Statement.unpack(raw)
        if made.party != party:
            raise BadSignature("the statement is of the other party")
        return made


class RunTranscript(Public):
    """The answer: what the other party signed of the request, and this party's words of the request's rows, as the
    crypto provider sealed them to the owner."""

    peer: SignedStatement | None = Field(description="null when a verified run ended before it came")
    words: _Base64 = Field(description="empty when the lease is over: then the provider has none any more")

    @property
    def is_over(self) -> bool:
        return not self.words

    @property
    def sealed_words(self) -> bytes:
        return base64.b64decode(self.words)
