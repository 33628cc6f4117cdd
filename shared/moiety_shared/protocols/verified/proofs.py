"""One party's proof of a whole run's look-ups, and how the other checks it. bits.py says what is proved."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moiety_shared.protocols.dealing import Source
from moiety_shared.protocols.verified import fields
from moiety_shared.protocols.verified.polynomials import Points, SecretPoint
from moiety_shared.ring import Array

_L = (fields.L_BYTES,)
_TOGETHER = 32
"""Groups that are weighted at a time: their products stay in the cache."""


class ProofMask(NamedTuple):
    """A at the further points (k + 7, 8), for one's own proof, and the other's A at one's secret point (8,)."""

    further: Array
    at_point: Array


def deal_mask(
    points: Points, keys: tuple[SecretPoint, SecretPoint], streams: tuple[Source, Source], rows: int
) -> dict[str, Array]:
    """Deal the masks of proofs, one a row. Returns what is sent to bob: (rows, 8) of each direction."""
    alices, bobs = (_mask(source, points, rows) for source in streams)
    basis = [key.whole[len(points.given) :] for key in keys]
    sent = _at(alices, basis[1])
    bobs[:, -1] = 0
    missing = streams[0].words("mask at point", (rows, *_L), np.uint8) ^ _at(bobs, basis[0])
    return {"mask at point": sent, "mask end": fields.product(missing, keys[0].last_inverse)}


def prepare_mask(
    points: Points, party: int, stream: Source, rows: int, corrections: dict[str, Array]
) -> list[ProofMask]:
    """Return the mask of each row. A run adds up those of its rows."""
    further = _mask(stream, points, rows)
    if party == 0:
        return [
            ProofMask(*pair) for pair in zip(further, stream.words("mask at point", (rows, *_L), np.uint8), strict=True)
        ]
    further[:, -1] = corrections["mask end"]
    return [ProofMask(*pair) for pair in zip(further, corrections["mask at point"], strict=True)]


def _mask(source: Source, points: Points, rows: int) -> Array:
    return source.words("mask", (rows, points.further, *_L), np.uint8)


def _at(further: Array, basis: Array) -> Array:
    """The values (rows, 8) at a secret point of polynomials that are 0 but at the further points."""
    total: Array = np.bitwise_xor.reduce(fields.product(further, basis), axis=1)
    return total


@dataclass
class LookUpSums:
    """One party's proof of a run, and what it takes to check the other's. All start at the masks."""

    points: Points
    key: SecretPoint
    proof: Array
    expected: Array
    said: Array

    @classmethod
    def start(cls, key: SecretPoint, masks: list[ProofMask]) -> "LookUpSums":
        further, at_point = (np.bitwise_xor.reduce(np.stack(parts), axis=0) for parts in zip(*masks, strict=True))
        return cls(key.points, key, further, at_point, np.zeros((key.points.slots, *_L), np.uint8))

    def add(self, weights: Array, further: Array, expected: Array, said: Array) -> None:
        """Add a layer: weights (groups, 8) of L; one's own sum (groups, k + 7) of K; the other's at the point
        (groups, 8); what the other sent (groups, k) of K."""
        for at in range(0, len(weights), _TOGETHER):
            part = slice(at, at + _TOGETHER)
            both = _weighted(np.concatenate((further[part], said[part]), axis=1), weights[part])
            self.proof ^= both[: self.points.further]
            self.said ^= both[self.points.further :]
        self.expected ^= np.bitwise_xor.reduce(fields.product(expected, weights), axis=0)

    def convinced(self, proof: Array) -> bool:
        """Whether the other's proof (k + 7, 8) is right."""
        slots, given = self.points.slots, len(self.points.given)
        basis = np.concatenate((self.key.whole[:slots], self.key.whole[given:]))
        value = np.bitwise_xor.reduce(fields.product(np.concatenate((self.said, proof)), basis), axis=0)
        return bool(np.array_equal(value, self.expected))


def _weighted(a: Array, weights: Array) -> Array:
    """sum w a over groups: (groups, n) of K and (groups, 8) of L to (n, 8)."""
    total: Array = np.bitwise_xor.reduce(fields.byte_product(a[:, None], weights[:, :, None]), axis=0)
    return total.T
