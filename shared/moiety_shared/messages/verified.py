"""What the parties of a verified run tell its client, sealed, and what the dealer vouches for.

A party's answer holds, little-endian:

    rows         lease 16, number of the first row 8: where the run's rows were dealt
    digest of x^ 32
    keys         32 a row
    y^           4 a value
    vouchers     328 each, in bob's answer alone: the dealer's, for groups of 8 rows of a bundle

A voucher is the number of a group's first row, the records of its rows (answers.py), zeros where a bundle ends before
the group does, and the dealer's signature. So a client verifies one signature for 8 rows: a signature takes as long as
all else that it does for 5. The client takes what both parties say of the rows only if they say the same, so a voucher
for other rows is of no use. The dealer signs with a key that it derives from both seeds of the weights' masks. The
owner, who drew them, derives it too, and puts its public half into the catalogue entry. Neither party has both seeds.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from moiety_shared.arrays import Array
from moiety_shared.crypto.integrity import check_key, joined
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.verified import answers
from moiety_shared.protocols.verified.answers import (
    DIGEST_BYTES,
    KEY_BYTES,
    RECORD_BYTES,
    VOUCHED_ROWS,
    VOUCHER_BYTES,
    CheckFailed,
    PartyAnswer,
    RowKeys,
)
from moiety_shared.protocols.verified.word import Word

_ROWS = struct.Struct("<16sQ")  # lease, first row
_VOUCHER = struct.Struct(f"<Q{VOUCHED_ROWS * RECORD_BYTES}s64s")  # first row, records, signature of Ed25519


def record_key(seeds: tuple[bytes, bytes]) -> Ed25519PrivateKey:
    """The key with which the dealer signs an upload's records, from both seeds of the weights' masks."""
    return Ed25519PrivateKey.from_private_bytes(check_key(seeds, "records"))


def vouchers(dealer: Ed25519PrivateKey, upload_id: str, lease_id: str, first: int, records: list[bytes]) -> list[bytes]:
    """Vouch for a bundle's rows, the first of which has this number. Returns row by row the voucher of its group."""
    out = list[bytes]()
    for at in range(0, len(records), VOUCHED_ROWS):
        group = b"".join(records[at : at + VOUCHED_ROWS]).ljust(VOUCHED_ROWS * RECORD_BYTES, b"\0")
        signature = dealer.sign(_vouched(upload_id, lease_id, first + at, group))
        out += [_VOUCHER.pack(first + at, group, signature)] * min(VOUCHED_ROWS, len(records) - at)
    return out


def _vouched(upload_id: str, lease_id: str, first: int, group: bytes) -> bytes:
    place = (bytes.fromhex(upload_id), bytes.fromhex(lease_id), first.to_bytes(8, "little"))
    return joined((b"moiety/v1 vouched rows", *place, group))


class VerifiedAnswer(NamedTuple):
    """What one party tells the client of a request's rows."""

    lease_id: str
    first_row: int
    answer: PartyAnswer
    vouchers: tuple[bytes, ...] = ()

    def pack(self) -> bytes:
        place = _ROWS.pack(bytes.fromhex(self.lease_id), self.first_row)
        opened, result, keys = self.answer
        return b"".join((place, opened, *keys.keys, result.astype(np.uint32).tobytes(), *self.vouchers))

    @classmethod
    def unpack(cls, raw: bytes, plan: Plan, party: int, rows: int) -> "VerifiedAnswer":
        """Read party p's answer. Raises Problem MALFORMED for another length."""
        if len(raw) not in answer_lengths(plan, party, rows):
            raise Problem(ProblemType.MALFORMED, "a verified answer has another length than its plan says")
        lease, first = _ROWS.unpack_from(raw)
        at = _ROWS.size + DIGEST_BYTES
        end = at + rows * KEY_BYTES
        keys = RowKeys(tuple(raw[i : i + KEY_BYTES] for i in range(at, end, KEY_BYTES)))
        y = np.frombuffer(raw, np.uint32, rows * plan.output.size, end).astype(np.int64)
        vouchers = tuple(raw[i : i + VOUCHER_BYTES] for i in range(end + y.size * 4, len(raw), VOUCHER_BYTES))
        result = y.reshape(rows, *plan.output.shape)
        return cls(lease.hex(), first, PartyAnswer(raw[_ROWS.size : at], result, keys), vouchers)


def answer_lengths(plan: Plan, party: int, rows: int) -> range:
    """The lengths that party p's answer may have. bob's has a voucher at least, and no more than one a row."""
    own = _ROWS.size + DIGEST_BYTES + rows * (KEY_BYTES + 4 * plan.output.size)
    return range(own + VOUCHER_BYTES, own + rows * VOUCHER_BYTES + 1, VOUCHER_BYTES) if party else range(own, own + 1)


def accept(said: Sequence[bytes], x: Array, plan: Plan, upload_id: str, dealer: Ed25519PublicKey) -> Array:
    """Return y (rows, *shape), int32.

    `said` are alice's and bob's answers and x the encoded inputs (rows, values of one input). Raises CheckFailed when
    they do not hold together, Problem MALFORMED for another length.
    """
    one, other = (VerifiedAnswer.unpack(raw, plan, party, len(x)) for party, raw in enumerate(said))
    if (one.lease_id, one.first_row) != (other.lease_id, other.first_row):
        raise CheckFailed

    def dealt(keys: tuple[RowKeys, RowKeys]) -> bool:
        try:
            known = set(_records(dealer, upload_id, other))
        except InvalidSignature:
            return False
        return known.issuperset(enumerate(answers.records(keys), one.first_row))

    return answers.accept(Word(), x, (one.answer, other.answer), dealt)


def _records(dealer: Ed25519PublicKey, upload_id: str, said: VerifiedAnswer) -> Iterator[tuple[int, bytes]]:
    """The numbers and records of the rows that the dealer vouches for. Raises InvalidSignature."""
    for voucher in said.vouchers:
        first, group, signature = _VOUCHER.unpack(voucher)
        dealer.verify(signature, _vouched(upload_id, said.lease_id, first, group))
        starts = range(0, len(group), RECORD_BYTES)
        yield from enumerate((group[at : at + RECORD_BYTES] for at in starts), first)
