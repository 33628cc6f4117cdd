"""What the parties answer a client with, and how it decides: it knows x, and the dealer committed to its masks.

No tag covers the input. So the client computes x^ = x + r itself, from both shares of r, and compares; and it unmasks
y^ by both shares of r_out. A party could lie about its shares, so the dealer commits to them, row by row. The client
decides before it knows y, by what does not depend on y: whether it accepts tells nothing.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from moiety_shared.crypto.integrity import joined
from moiety_shared.crypto.prg import Stream
from moiety_shared.protocols.verified.claims import CheckFailed
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array

_ROLES = (b"alice", b"bob")


class RowMasks(NamedTuple):
    """Party p's shares of the masks that the client learns: of its input (rows, *shape), and of the output (rows,
    *shape). int64 of 32 bits."""

    input: Array
    output: Array


class PartyAnswer(NamedTuple):
    """One party's answer: x^ (rows, *shape) and y^ (rows, *shape), int64 of 32 bits, and its shares of both masks."""

    opened: Array
    result: Array
    masks: RowMasks


def row_masks(word: Word, stream: Stream, rows: int, input_layer: str, shapes: tuple[tuple[int, ...], ...]) -> RowMasks:
    """Draw party p's shares from its stream of the bundle. `shapes` are those of the input and of the output."""
    given = word.uniform_low(stream.at(input_layer), "input", (rows, *shapes[0]))
    return RowMasks(given, output_mask(word, stream, rows, shapes[1]))


def output_mask(word: Word, stream: Stream, rows: int, shape: tuple[int, ...]) -> Array:
    """Draw [r_out]_p (rows, *shape), int64 of 32 bits."""
    return word.uniform_low(stream.at("/output"), "mask", (rows, *shape))


def commitments(bundle: bytes, party: int, masks: RowMasks) -> list[bytes]:
    """What the dealer signs for each row of a bundle: the client checks party p's shares against it."""
    rows = zip(masks.input, masks.output, strict=True)
    return [_commitment(bundle, party, row, *shares) for row, shares in enumerate(rows)]


def _commitment(bundle: bytes, party: int, row: int, given: Array, result: Array) -> bytes:
    shares = (part.astype(np.uint32).tobytes() for part in (given, result))
    parts = (b"moiety/v1 row masks", bundle, _ROLES[party], row.to_bytes(8, "little"), *shares)
    return sha256(joined(parts)).digest()


def accept(
    word: Word,
    bundle: bytes,
    x: Array,
    answers: tuple[PartyAnswer, PartyAnswer],
    committed: tuple[Sequence[bytes], ...],
) -> Array:
    """Return y (rows, *shape), int32, for the encoded inputs x (rows, *shape) that the client shared.

    Raises CheckFailed when the parties' answers differ, when a share of a mask is not what the dealer committed to, or
    when x^ is not x.
    """
    one, other = answers
    for party, answer in enumerate(answers):
        if commitments(bundle, party, answer.masks) != list(committed[party]):
            raise CheckFailed
    low = (1 << word.low) - 1
    opened = (x + one.masks.input + other.masks.input) & low
    same = np.array_equal(one.opened, other.opened) and np.array_equal(one.result, other.result)
    if not same or not np.array_equal(one.opened, opened):
        raise CheckFailed
    y: Array = (one.result - one.masks.output - other.masks.output) & low
    return y.astype(np.uint32).view(np.int32)
