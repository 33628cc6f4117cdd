"""Computes again what two honest parties send in a run, for who knows everything of some rows: the owner, who was the
client as well and was handed the rows' words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from moiety_shared.arrays import Array
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols import graph
from moiety_shared.protocols.opening import lockstep
from moiety_shared.protocols.preparation import Preparation, PreparedRows, cut
from moiety_shared.protocols.product import Weights
from moiety_shared.protocols.sent import SentPiece, noted
from moiety_shared.protocols.words import GivenSource


class Recomputed(NamedTuple):
    """What both honest parties send for a request's rows, by party: its pieces, and its share of the result."""

    sent: tuple[tuple[SentPiece, ...], tuple[SentPiece, ...]]
    shares: tuple[bytes, bytes]


@dataclass(frozen=True, repr=False)
class AuditedModel:
    """All of one upload: both parties' parts of the weights, and the masks s of them."""

    plan: Plan
    weights: tuple[dict[str, Weights], dict[str, Weights]]
    masks: dict[str, Array] = field(hash=False)

    def recompute(self, words: tuple[bytes, bytes], inputs: tuple[Array, Array], pieces: Sequence[int]) -> Recomputed:
        """Run both parties on their shares of the input, (rows, ring elements of each), which are cut into pieces of so
        many rows. `words` are both parties' words of these rows.

        Raises ValueError when there are too many words or too few.
        """
        prepared = self._prepared(words, len(inputs[0]))
        sent: tuple[list[SentPiece], list[SentPiece]] = [], []
        outputs: tuple[list[Array], list[Array]] = [], []
        at = 0
        for rows in pieces:
            digests: tuple[list[bytes], list[bytes]] = [], []
            own = [(inputs[p][at : at + rows], cut(prepared[p], at, at + rows), self.weights[p]) for p in (0, 1)]
            alice, bob = (graph.evaluate(self.plan, p, *own[p]) for p in (0, 1))
            results = lockstep(noted(alice, digests[0]), noted(bob, digests[1]))
            for party in (0, 1):
                sent[party].append(SentPiece(rows, tuple(digests[party])))
                outputs[party].append(results[party])
            at += rows
        one, other = (graph.given_out(self.plan, np.concatenate(each)) for each in outputs)
        return Recomputed((tuple(sent[0]), tuple(sent[1])), (one, other))

    def _prepared(self, words: tuple[bytes, bytes], rows: int) -> tuple[PreparedRows, PreparedRows]:
        """Deal the rows again, and prepare them at each party."""
        sources = GivenSource(words[0]), GivenSource(words[1])
        dealt = [array for _, array in graph.deal(self.plan, rows, self.masks, *sources)]
        if not all(source.is_used_up for source in sources):
            raise ValueError("these are words of more rows")
        alice, bob = (
            Preparation(self.plan, p, rows, sources[p], self.weights[p])  # in the order in which they were dealt
            for p in (0, 1)
        )
        at = 0
        for layer in self.plan.layers:
            count = len(layer.corrections(self.plan.ring_bits))
            raw = b"".join(np.ascontiguousarray(array).tobytes() for array in dealt[at : at + count])
            at += count
            alice.add(layer, b"")
            bob.add(layer, raw)
        return alice.ready, bob.ready
