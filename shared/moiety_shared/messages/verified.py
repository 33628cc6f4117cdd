"""What the parties of a verified run tell its client, sealed, and what the dealer vouches for.

A party's answer holds, little-endian:

    rows         lease 16, number of the first row 8: where the run's rows were dealt
    digest of x^ 32
    keys         32 a row
    y^           4 a value
    vouchers     328 each, in bob's answer alone: the dealer's, for groups of 8 rows of a bundle

Of a count the two kinds of keys are apart (answers.py), and so are the answers: one with no y^, of all rows; behind it,
if the client may read the count, one of the request's first row, with no input. The model's owner gets the second one.

A voucher is the number of a group's first row, the records of its rows (answers.py), zeros where a bundle ends before
the group does, and the dealer's signature. So a client verifies one signature for 8 rows: a signature takes as long as
all else that it does for 5. The client takes what both parties say of the rows only if they say the same, so a voucher
for other rows is of no use. The dealer signs with a key that it derives from both seeds of the weights' masks. The
owner, who drew them, derives it too, and puts its public half into the catalogue entry. Neither party has both seeds.
"""

import math
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
    Kind,
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
        y, keys = self.answer.result.astype(np.uint32).tobytes(), self.answer.keys.keys
        return b"".join((place, self.answer.opened, *keys, y, *self.vouchers))

    @classmethod
    def unpack(cls, raw: bytes, party: int, rows: int, shape: tuple[int, ...], of: Kind = "row") -> "VerifiedAnswer":
        """Read party p's answer, of results of this shape. Raises Problem MALFORMED for another length."""
        _check(raw, _lengths(party, rows, math.prod(shape)))
        lease, first = _ROWS.unpack_from(raw)
        at = _ROWS.size + DIGEST_BYTES
        end = at + rows * KEY_BYTES
        keys = RowKeys(tuple(raw[i : i + KEY_BYTES] for i in range(at, end, KEY_BYTES)), of)
        y = np.frombuffer(raw[end:], np.uint32, rows * math.prod(shape)).astype(np.int64)
        vouchers = tuple(raw[i : i + VOUCHER_BYTES] for i in range(end + y.size * 4, len(raw), VOUCHER_BYTES))
        result = y.reshape(rows, *shape)
        return cls(lease.hex(), first, PartyAnswer(raw[_ROWS.size : at], result, keys), vouchers)


def _check(raw: bytes, lengths: range) -> None:
    if len(raw) not in lengths:
        raise Problem(ProblemType.MALFORMED, "a verified answer has another length than its plan says")


def _lengths(party: int, rows: int, size: int) -> range:
    """The lengths that an answer of party p may have, with results of so many values. bob's has a voucher at least, and
    no more than one a row."""
    own = _ROWS.size + DIGEST_BYTES + rows * (KEY_BYTES + 4 * size)
    return range(own + VOUCHER_BYTES, own + rows * VOUCHER_BYTES + 1, VOUCHER_BYTES) if party else range(own, own + 1)


def count_bytes(plan: Plan, party: int) -> int:
    """The length of party p's answer that holds a count."""
    return _lengths(party, 1, plan.output.size).start


def answer_lengths(plan: Plan, party: int, rows: int, counted: bool = True) -> range:
    """The lengths that what party p tells a client may have. `counted` says whether a count is the client's to read."""
    if plan.output.kind != "count":
        return _lengths(party, rows, plan.output.size)
    own, behind = _lengths(party, rows, 0), count_bytes(plan, party) * counted
    return range(own.start + behind, own.stop + behind, own.step)


def without_vouchers(raw: bytes, plan: Plan, party: int, rows: int) -> bytes:
    """What party p told a client who may read all of it, without what the dealer vouches for. Raises Problem MALFORMED
    for another length."""
    if plan.output.kind != "count":
        return VerifiedAnswer.unpack(raw, party, rows, plan.output.shape)._replace(vouchers=()).pack()
    _check(raw, answer_lengths(plan, party, rows))
    end = len(raw) - count_bytes(plan, party)
    inputs = VerifiedAnswer.unpack(raw[:end], party, rows, (0,))
    count = VerifiedAnswer.unpack(raw[end:], party, 1, plan.output.shape, "count")
    return b"".join(each._replace(vouchers=()).pack() for each in (inputs, count))


def accept(
    said: Sequence[bytes], x: Array, plan: Plan, upload_id: str, dealer: Ed25519PublicKey, counted: bool = True
) -> Array:
    """Return y (rows, *shape), int32; of a plan that counts (1, *shape), or (rows, 0) where the count is not `counted`
    among what the client may read.

    `said` is what alice and bob told, and x are the encoded inputs (rows, values of one input). Raises CheckFailed when
    that does not hold together, Problem MALFORMED for another length.
    """
    if plan.output.kind != "count":
        return _accept(said, x, plan.output.shape, "row", upload_id, dealer)
    inputs, counts = list[bytes](), list[bytes]()
    for party, raw in enumerate(said):
        _check(raw, answer_lengths(plan, party, len(x), counted))
        end = len(raw) - count_bytes(plan, party) * counted
        inputs.append(raw[:end])
        counts.append(raw[end:])
    nothing = _accept(inputs, x, (0,), "row", upload_id, dealer)
    return accept_count(counts, plan, upload_id, dealer) if counted else nothing


def accept_count(said: Sequence[bytes], plan: Plan, upload_id: str, dealer: Ed25519PublicKey) -> Array:
    """Return a count (1, *shape), int32, from the answers of alice and bob that hold it.

    Raises CheckFailed when they do not hold together, Problem MALFORMED for another length.
    """
    return _accept(said, np.empty((1, 0), np.int64), plan.output.shape, "count", upload_id, dealer)


def _accept(
    said: Sequence[bytes], x: Array, shape: tuple[int, ...], of: Kind, upload_id: str, dealer: Ed25519PublicKey
) -> Array:
    one, other = (VerifiedAnswer.unpack(raw, party, len(x), shape, of) for party, raw in enumerate(said))
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
