"""What the parties of a verified run tell its client, sealed, and what the dealer vouches for.

A party's answer holds, little-endian:

    rows         lease 16, number of the first row 8: where the run's rows were dealt
    digest of x^ 32
    keys         32 a row
    y^           4 a value
    signatures   64 a row, in bob's answer alone: the dealer's, of the rows' records

The client takes what both parties say of the rows only if they say the same, so a signature of other rows is of no use.
The dealer signs with a key that it derives from both seeds of the weights' masks. The owner, who drew them, derives it
too, and puts its public half into the catalogue entry. Neither party has both seeds.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moiety_shared.arrays import Array
from moiety_shared.crypto.integrity import check_key
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified import answers
from moiety_shared.protocols.verified.answers import (
    DIGEST_BYTES,
    KEY_BYTES,
    SIGNATURE_BYTES,
    CheckFailed,
    PartyAnswer,
    RowKeys,
)
from moiety_shared.protocols.verified.word import Word

_ROWS = struct.Struct("<16sQ")  # lease, first row


def record_key(seeds: tuple[bytes, bytes]) -> Ed25519PrivateKey:
    """The key with which the dealer signs an upload's records, from both seeds of the weights' masks."""
    return Ed25519PrivateKey.from_private_bytes(check_key(seeds, "records"))


def record_context(upload_id: str, lease_id: str) -> bytes:
    """What a record is bound to besides its row."""
    return bytes.fromhex(upload_id) + bytes.fromhex(lease_id)


class VerifiedAnswer(NamedTuple):
    """What one party tells the client of a request's rows."""

    lease_id: str
    first_row: int
    answer: PartyAnswer
    signatures: tuple[bytes, ...] = ()

    def pack(self) -> bytes:
        place = _ROWS.pack(bytes.fromhex(self.lease_id), self.first_row)
        opened, result, keys = self.answer
        return b"".join((place, opened, *keys.keys, result.astype(np.uint32).tobytes(), *self.signatures))

    @classmethod
    def unpack(cls, raw: bytes, plan: Plan, party: int, rows: int) -> "VerifiedAnswer":
        """Read party p's answer. Raises Problem MALFORMED for another length."""
        if len(raw) != answer_bytes(plan, party, rows):
            raise Problem(ProblemType.MALFORMED, "a verified answer has another length than its plan says")
        lease, first = _ROWS.unpack_from(raw)
        at = _ROWS.size + DIGEST_BYTES
        end = at + rows * KEY_BYTES
        keys = RowKeys(tuple(raw[i : i + KEY_BYTES] for i in range(at, end, KEY_BYTES)))
        y = np.frombuffer(raw, np.uint32, rows * plan.output.size, end).astype(np.int64)
        signed = raw[end + y.size * 4 :]
        signatures = tuple(signed[i : i + SIGNATURE_BYTES] for i in range(0, len(signed), SIGNATURE_BYTES))
        result = y.reshape(rows, *plan.output.shape)
        return cls(lease.hex(), first, PartyAnswer(raw[_ROWS.size : at], result, keys), signatures)


def answer_bytes(plan: Plan, party: int, rows: int) -> int:
    """The length of party p's answer."""
    row = KEY_BYTES + 4 * plan.output.size + (SIGNATURE_BYTES if party else 0)
    return _ROWS.size + DIGEST_BYTES + rows * row


def accept(said: Sequence[bytes], x: Array, plan: Plan, upload_id: str, dealer: Ed25519PublicKey) -> Array:
    """Return y (rows, *shape), int32.

    `said` are alice's and bob's answers and x the encoded inputs (rows, values of one input). Raises CheckFailed when
    they do not hold together, Problem MALFORMED for another length.
    """
    one, other = (VerifiedAnswer.unpack(raw, plan, party, len(x)) for party, raw in enumerate(said))
    if (one.lease_id, one.first_row) != (other.lease_id, other.first_row):
        raise CheckFailed

    def dealt(keys: tuple[RowKeys, RowKeys]) -> bool:
        records = answers.records(record_context(upload_id, one.lease_id), one.first_row, keys)
        return all(_is_signed(dealer, *pair) for pair in zip(other.signatures, records, strict=True))

    return answers.accept(Word(), x, (one.answer, other.answer), dealt)


def _is_signed(dealer: Ed25519PublicKey, signature: bytes, record: bytes) -> bool:
    try:
        dealer.verify(signature, record)
    except InvalidSignature:
        return False
    return True
