"""What the parties answer a client with, and how it decides: it knows x, and the dealer vouches for its masks.

No tag covers the input. So the client computes x^ = x + r itself, from both shares of r, and compares; and it unmasks
y^ by both shares of r_out. A row of a bundle has a key at each party, which yields that party's shares of these two
masks of the row and nothing else: never a tag. The client gets both keys. A party could lie about its own, so the
dealer vouches for a record of both, row by row. The client decides before it knows y, by what does not depend on y:
whether it accepts tells nothing.

A count is one result for all rows of a request, and may be for the model's owner, who must not learn the inputs. So
of a plan that counts a row has two keys at each party: one yields the mask of its input, the other that of a result.
The client gets the first of each of its rows, whoever reads the count; who reads it gets the second of the first row.
Each is an answer of its own: one has inputs and no result, the other a result and no input.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np

from moiety_shared.arrays import Array
from moiety_shared.crypto.integrity import joined
from moiety_shared.crypto.prg import SEED_BYTES, fill_each
from moiety_shared.protocols.dealing import Addressed
from moiety_shared.protocols.verified.word import Word

Kind = Literal["row", "count"]
"""What a key is of: a row, or a count that begins with it."""
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
    """The keys of some rows, or those of the counts that begin with them."""

    keys: tuple[bytes, ...]
    of: Kind = "row"

    @classmethod
    def draw(cls, stream: Addressed, rows: int, of: Kind = "row") -> "RowKeys":
        """Draw party p's keys from its stream of the bundle."""
        keys = stream.at(f"/{of}s").words("key", (rows, KEY_BYTES), np.uint8)
        return cls(tuple(key.tobytes() for key in keys), of)

    def __getitem__(self, rows: slice) -> "RowKeys":
        return RowKeys(self.keys[rows], self.of)

    def masks(self, word: Word, values: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Draw [r]_p (rows, values of one input) and [r_out]_p (rows, *shape), uint32.

        Each row's come from its key alone, both of one stream: to begin a stream takes longer than its words.
        """
        drawn = np.empty((len(self.keys), values + math.prod(shape)), np.uint32)
        fill_each(self.keys, drawn, "masks", self.of)
        drawn &= (1 << word.low) - 1
        return drawn[:, :values], drawn[:, values:].reshape(len(drawn), *shape)


class ClientKeys(NamedTuple):
    """A party's keys of some rows, and of the counts that may begin with each; none of a plan that does not count."""

    rows: RowKeys
    counts: RowKeys

    @classmethod
    def draw(cls, stream: Addressed, rows: int, *, counts: bool) -> "ClientKeys":
        """Draw party p's keys from its stream of the bundle."""
        return cls(RowKeys.draw(stream, rows), RowKeys.draw(stream, rows, "count") if counts else RowKeys((), "count"))

    def masks(self, word: Word, values: int, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """Draw [r]_p (rows, values of one input) and [r_out]_p (rows, *shape), uint32."""
        if not self.counts.keys:
            return self.rows.masks(word, values, shape)
        return self.rows.masks(word, values, (0,))[0], self.counts.masks(word, 0, shape)[1]


class PartyAnswer(NamedTuple):
    """One party's answer: the digest of x^, y^ (rows, *shape), int64 of 32 bits, and its keys of the rows.

    A plan that counts has no y^ of rows, (rows, 0), and a second answer: of no input, and of the count as one row.
    """

    opened: bytes
    result: Array
    keys: RowKeys
    counted: "PartyAnswer | None" = None


def digest(opened: Array) -> bytes:
    """A hash of x^ (rows, values of one input), of 32 bits."""
    return sha256(b"moiety/v1 opened input\0" + opened.astype(np.uint32, copy=False).tobytes()).digest()


def apart(opened: Array, result: Array, keys: RowKeys, requests: Sequence[int]) -> list[PartyAnswer]:
    """Return one party's answer to each of the requests that shared a run, from x^ (rows, values of one input), y^ and
    the keys of the run's rows. `requests` says how many rows each has.

    Each answer is of its own rows alone: a client could neither check the others' nor may it have their keys.
    """
    ends = list(accumulate(requests))
    places = [slice(end - rows, end) for end, rows in zip(ends, requests, strict=True)]
    return [PartyAnswer(digest(opened[place]), result[place], keys[place]) for place in places]


def counted(opened: Array, sums: Array, keys: ClientKeys, starts: Sequence[int]) -> list[PartyAnswer]:
    """Return one party's answer to each of the requests that shared a run of a plan that counts, from x^ (rows, values
    of one input) and y^ of the requests' counts (requests, *shape). `starts` are the numbers of their first rows."""
    requests = np.diff([*starts, len(opened)]).tolist()
    firsts = RowKeys(tuple(keys.counts.keys[start] for start in starts), "count")
    inputs = apart(opened, np.empty((len(opened), 0), np.int64), keys.rows, requests)
    results = apart(np.empty((len(starts), 0), np.int64), sums, firsts, [1] * len(starts))
    return [own._replace(counted=result) for own, result in zip(inputs, results, strict=True)]


def records(keys: tuple[RowKeys, RowKeys]) -> list[bytes]:
    """What the dealer vouches for of each row or count: a hash of both its keys, which tells neither."""
    label = f"moiety/v1 {keys[0].of} record".encode()
    return [sha256(joined((label, *pair))).digest() for pair in zip(*(each.keys for each in keys), strict=True)]


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
    opened = x.astype(np.uint32)
    for share in (r, s):
        opened += share
    opened &= low
    if not (one.opened == other.opened == digest(opened) and np.array_equal(one.result, other.result)):
        raise CheckFailed
    y: Array = (one.result - r_out - s_out) & low
    return y.astype(np.uint32).view(np.int32)
