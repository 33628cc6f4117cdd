"""Deals for verified runs of one upload, under one key: the tags of its weights, and bundles with the records of rows.

A key is Delta, both parties' secret points, and the streams of the weights' tags. The provider draws it as two seeds,
one for each party, when the upload is registered, and again when the owner has a failed check behind it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_shared.crypto.prg import Stream
from moiety_shared.messages.verified import record_key, vouchers
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols.dealing import Addressed
from moiety_shared.protocols.verified import answers, graph
from moiety_shared.protocols.verified.graph import Corrections, PartyKey
from moiety_shared.protocols.verified.layer import LayerMasks
from moiety_shared.ring import Array


@dataclass(frozen=True, repr=False)
class DealerKey:
    """An upload's key: the name that the owner gave it, and each party's seed."""

    key_id: str
    seeds: tuple[bytes, bytes]


class VerifiedDealer:
    """Deals under one key of an upload."""

    def __init__(self, plan: Plan, owner: tuple[bytes, bytes], key: DealerKey) -> None:
        """`owner` are the seeds of the weights' masks, which the owner drew."""
        one, other = (Stream(seed, "key") for seed in key.seeds)
        self.plan = plan
        self._keys: tuple[PartyKey, PartyKey] = graph.draw_key(plan, 0, one), graph.draw_key(plan, 1, other)
        masked_by = Stream(owner[0], "upload"), Stream(owner[1], "upload")
        self._masks: dict[str, LayerMasks]
        self._masks, self._weights = graph.deal_upload(plan, self._keys, masked_by, (one, other))
        self._signer: Ed25519PrivateKey = record_key(owner)

    def weights(self) -> Iterator[Array]:
        """What bob is sent of the weights' tags. It may be sent again: it is always the same."""
        for sent in self._weights.values():
            yield from sent.values()

    def deal(self, rows: int, streams: tuple[Addressed, Addressed]) -> Iterator[tuple[str, Corrections]]:
        """Deal some rows, whose parties have these words: what bob is sent, by layer."""
        return graph.deal(self.plan, rows, self._keys, self._masks, streams)

    def bundle(
        self, upload_id: str, lease_id: str, number: int, rows: int, seeds: tuple[bytes, bytes]
    ) -> Iterator[Array]:
        """Deal bundle `number` of a lease whose parties have these seeds. At its end are the vouchers for its
        rows, and those for their counts if the plan counts."""
        one, other = (Stream(seed, "bundle", number) for seed in seeds)
        for _, sent in self.deal(rows, (one, other)):
            yield from sent.values()
        keys = graph.client_keys(self.plan, rows, one), graph.client_keys(self.plan, rows, other)
        for pair in zip(*keys, strict=True):
            vouched = vouchers(self._signer, upload_id, lease_id, number * rows, answers.records(pair))
            yield np.frombuffer(b"".join(vouched), np.uint8)
