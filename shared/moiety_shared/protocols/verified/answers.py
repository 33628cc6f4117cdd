"""What the parties answer a client with, and how it decides: it knows x, and the dealer vouches for its masks.

No tag covers the input. So the client computes x^ = x + r itself, from both shares of r, and compares; and it unmasks
y^ by both shares of r_out. A row of a bundle has a key at each party, which yields that party's shares of these two
masks of the row and nothing else: never a tag. The client gets both keys. A party could lie about its own, so the
dealer signs a record of both, row by row. The client decides before it knows y, by what does not depend on y: whether
it accepts tells nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moiety_shared.arrays import Array
from moiety_shared.crypto.integrity import joined
from moiety_shared.crypto.prg import SEED_BYTES, Stream
from moiety_shared.protocols.dealing import Addressed
from moiety_shared.protocols.verified.word import Word

KEY_BYTES = SEED_BYTES
DIGEST_BYTES = 32
SIGNATURE_BYTES = 64
"""Of Ed25519, by which the dealer vouches for a row."""
_ROLES = (b"alice", b"bob")


class CheckFailed(Exception):
    """A party deviated from the protocol. The result must not be used, nor anything of its upload."""


@dataclass(frozen=True)
class RowKeys:
    """The keys of some rows, and the words that they yield: (rows, ...)."""

    keys: tuple[bytes, ...]

    @classmethod
    def draw(cls, stream: Addressed, rows: int) -> "RowKeys":
        """Draw party p's keys from its stream of the bundle."""
        keys = stream.at("/rows").words("key", (rows, KEY_BYTES), np.uint8)
        return cls(tuple(key.tobytes() for key in keys))

    def words(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        """Draw uniform words, each row's from its key alone."""
        return np.stack([Stream(key, "row").words(name, shape[1:], dtype) for key in self.keys])


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


def input_mask(word: Word, keys: RowKeys, values: int) -> Array:
    """Draw [r]_p (rows, values of one input), int64 of 32 bits."""
    return word.uniform_low(keys, "input", (len(keys.keys), values))


def output_mask(word: Word, keys: RowKeys, shape: tuple[int, ...]) -> Array:
    """Draw [r_out]_p (rows, *shape), int64 of 32 bits."""
    return word.uniform_low(keys, "output", (len(keys.keys), *shape))


def records(context: bytes, first: int, keys: tuple[RowKeys, RowKeys]) -> list[bytes]:
    """What the dealer signs of each row, from the row's number `first` on. It tells no key. `context` names the upload
    and the lease."""
    pairs = enumerate(zip(*(each.keys for each in keys), strict=True), first)
    return [_record(context, row, pair) for row, pair in pairs]


def _record(context: bytes, row: int, keys: tuple[bytes, ...]) -> bytes:
    hashes = [sha256(joined((b"moiety/v1 row key", *pair))).digest() for pair in zip(_ROLES, keys, strict=True)]
    return joined((b"moiety/v1 row record", context, row.to_bytes(8, "little"), *hashes))


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
    halves = [input_mask(word, each, x.shape[1]) for each in keys]
    opened = digest((x + halves[0] + halves[1]) & low)
    if not (one.opened == other.opened == opened and np.array_equal(one.result, other.result)):
        raise CheckFailed
    first = [RowKeys(each.keys[: len(one.result)]) for each in keys]  # a count is of all rows, under the first's mask
    masks = [output_mask(word, each, one.result.shape[1:]) for each in first]
    y: Array = (one.result - masks[0] - masks[1]) & low
    return y.astype(np.uint32).view(np.int32)
