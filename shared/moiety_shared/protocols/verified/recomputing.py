"""Computes again what two honest parties open in a verified run, for who knows everything of some rows: the owner, who
was the client as well and was handed the rows' words.

No opening depends on the upload's key. So everything is computed under a key that everybody knows, and the check is
left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from moiety_shared.arrays import Array
from moiety_shared.crypto.prg import SEED_BYTES, Stream
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.opening import lockstep
from moiety_shared.protocols.sent import SentPiece, noted
from moiety_shared.protocols.verified import graph
from moiety_shared.protocols.verified.answers import PartyAnswer
from moiety_shared.protocols.verified.graph import PartyKey
from moiety_shared.protocols.verified.layer import LayerMasks, VerifiedWeights
from moiety_shared.protocols.words import GivenSource


class RecomputedAnswers(NamedTuple):
    """What both honest parties open for a request's rows, by party: its piece, and what it tells the client."""

    sent: tuple[tuple[SentPiece, ...], tuple[SentPiece, ...]]
    answers: tuple[PartyAnswer, PartyAnswer]


@dataclass(frozen=True, repr=False)
class AuditedVerifiedModel:
    """All of one upload but its key: both parties' parts of the weights, and the masks s of them."""

    plan: Plan
    keys: tuple[PartyKey, PartyKey]
    weights: tuple[dict[str, VerifiedWeights], dict[str, VerifiedWeights]]
    masks: dict[str, LayerMasks] = field(hash=False)

    @classmethod
    def of(cls, plan: Plan, masked: Mapping[str, Array], owner: tuple[Stream, Stream]) -> "AuditedVerifiedModel":
        """From w^ by "layer.weight" and the streams of s that the owner drew."""
        own = [Stream(bytes(SEED_BYTES), "audit", party) for party in (0, 1)]
        keys = graph.draw_key(plan, 0, own[0]), graph.draw_key(plan, 1, own[1])
        masks, sent = graph.deal_upload(plan, keys, owner, (own[0], own[1]))
        alice, bob = (graph.weights_at(plan, keys[p], masked, owner[p], own[p], sent if p else {}) for p in (0, 1))
        return cls(plan, keys, (alice, bob), masks)

    def recompute(self, words: tuple[bytes, bytes], inputs: tuple[Array, Array]) -> RecomputedAnswers:
        """Run both parties on their shares of the input, (rows, ring elements of each). `words` are both parties' words
        of these rows.

        Raises ValueError when there are too many words or too few.
        """
        plan, rows = self.plan, len(inputs[0])
        sources = GivenSource(words[0]), GivenSource(words[1])
        sent = dict(graph.deal(plan, rows, self.keys, self.masks, sources))
        if not all(source.is_used_up for source in sources):
            raise ValueError("these are words of more rows")
        digests: tuple[list[bytes], list[bytes]] = [], []
        alice, bob = (
            noted(
                graph.evaluate(
                    plan,
                    self.keys[p],
                    inputs[p],
                    graph.prepare(plan, self.keys[p], rows, self.weights[p], sources[p], sent if p else {}),
                    self.weights[p],
                    [rows],
                ),
                digests[p],
            )
            for p in (0, 1)
        )
        (one,), (other,) = lockstep(alice, bob)
        return RecomputedAnswers(
            ((SentPiece(rows, tuple(digests[0])),), (SentPiece(rows, tuple(digests[1])),)), (one, other)
        )
