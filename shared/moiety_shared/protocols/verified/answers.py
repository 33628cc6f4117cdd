"""What the parties answer a client with, and how it decides: it knows x, and the dealer vouches for its masks.

No tag covers the input. So the client computes x^ = x + r itself, from both shares of r, and compares; and it unmasks
y^ by both shares of r_out. A row of a bundle has a key at each party, which yields that party's shares of these two
masks of the row and nothing else: never a tag. The client gets both keys. A party could lie about its own, so the
dealer vouches for a record of both, row by row. The client decides before it knows y, by what does not depend on y:
whether it accepts tells nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from moiety_shared.arrays import Array
from moiety_shared.crypto.integrity import joined
from moiety_shared.crypto.prg import SEED_BYTES, Stream
from moiety_shared.protocols.dealing import Addressed
from moiety_shared.protocols.verified.word import Word

KEY_BYTES = SEED_BYTES
DIGEST_BYTES = 32
RECORD_BYTES = 32
VOUCHED_ROWS = 8
"""The rows that one signature of the dealer vouches for. With more, the answer to a request of one row is longer."""
VOUCHER_BYTES = 8 + VOUCHED_ROWS * RECORD_BYTES + 64
"""The number of the first of these rows, their records, and a signature of Ed25519."""


class CheckFailed(Exception):
    """A party deviated from the protocol. The result must not be used, nor anything of its upload."""


@dataclass(frozen=True, repr=False)
class RowKeys:
    """The keys of some rows."""

    keys: tuple[bytes, ...]

    @classmethod
    def draw(cls, stream: Addressed, rows: int) -> "RowKeys":
        """Draw party p's keys from its stream of the bundle."""
        keys = stream.at("/rows").words("key", (rows, KEY_BYTES), np.uint8)
        return cls(tuple(key.tobytes() for key in keys))

    def masks(self, word: Word, values: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Draw [r]_p (rows, values of one input) and [r_out]_p (rows, *shape), int64 of 32 bits.

        Each row's come from its key alone, both of one stream: to begin a stream takes longer than its words.
        """
        drawn = np.empty((len(self.keys), values + math.prod(shape)), np.uint32)
        for key, row in zip(self.keys, drawn, strict=True):
            Stream(key, "row").fill("masks", row)
        whole = drawn.astype(np.int64) & ((1 << word.low) - 1)
        return whole[:, :values], whole[:, values:].reshape(-1, *shape)


class PartyAnswer(NamedTuple):
    """One party's answer: the digest of x^, y^ (rows, *shape), int64 of 32 bits, and its keys of the rows."""

    opened: bytes
    result: Array
    keys: RowKeys


def digest(opened: Array) -> bytes:
    """A hash of x^ (rows, values of one input), int64 of 32 bits."""
    return sha256(b"moiety/v1 opened input\0" + opened.astype(np.uint32).tobytes()).digest()


def apart(opened: Array, result: Array, keys: RowKeys, requests: Sequence[int]) -> list[PartyAnswer]:
    """Return one party's answer to each of the requests that shared a run, from x^ (rows, values of one input), y^ and
    the keys of the run's rows. `requests` says how many rows each has. Of y^ each has as many rows, or one.

    Each answer is of its own rows alone: a client could neither check the others' nor may it have their keys.
    """
    ends = list(accumulate(requests))
    results = np.split(result, ends[:-1] if len(result) == ends[-1] else len(ends))
    return [
        PartyAnswer(digest(opened[end - rows : end]), own, RowKeys(keys.keys[end - rows : end]))
        for end, rows, own in zip(ends, requests, results, strict=True)
    ]


def records(keys: tuple[RowKeys, RowKeys]) -> list[bytes]:
    """What the dealer vouches for of each row: a hash of both its keys, which tells neither."""
    return [
        sha256(joined((b"moiety/v1 row record", *pair))).digest()
        for pair in zip(*(each.keys for each in keys), strict=True)
    ]


def accept(
    word: Word, x: Array, answers: tuple[PartyAnswer, PartyAnswer], dealt: Callable[[tuple[RowKeys, RowKeys]], bool]
) -> Array:
    """Return y (rows, *shape), int32, for the encoded inputs x (rows, values of one input) that the client shared.

    `dealt` says whether the dealer's records are of these keys. Raises CheckFailed when they are not, when the parties'
    answers differ, or when x^ is not x.
    """
    one, other = answers
    keys, low = (one.keys, other.keys), (1 << word.low) - 1
    if not len(x) == len(one.keys.keys) == len(other.keys.keys) or not dealt(keys):
        raise CheckFailed
    (r, r_out), (s, s_out) = (each.masks(word, x.shape[1], one.result.shape[1:]) for each in keys)
    opened = digest((x + r + s) & low)
    if not (one.opened == other.opened == opened and np.array_equal(one.result, other.result)):
        raise CheckFailed
    count = len(one.result)  # of a count 1: it is of all rows, under the first's mask
    y: Array = (one.result - r_out[:count] - s_out[:count]) & low
    return y.astype(np.uint32).view(np.int32)
