"""What an audit knows: one upload with all that both parties have of it, and an own request with its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from moiety_server.kept import AuditableUploads
from moiety_shared.crypto.integrity import check_key
from moiety_shared.crypto.prg import Stream
from moiety_shared.messages.statements import Statement
from moiety_shared.messages.upload import Tensors, sealed_sizes
from moiety_shared.messages.verified import VerifiedAnswer, record_key
from moiety_shared.messages.wire import Binding, unpack_result
from moiety_shared.plan.plan import Plan
from moiety_shared.protocols import graph
from moiety_shared.protocols.recomputing import AuditedModel
from moiety_shared.protocols.sent import SentPiece
from moiety_shared.protocols.verified.recomputing import AuditedVerifiedModel
from moiety_shared.ring import Array


@dataclass(frozen=True, repr=False)
class AuditedRequest:
    """A request that the owner sent as a client, and alice's answer to it: empty when the run's check failed."""

    plan: Plan
    binding: Binding
    inputs: tuple[Array, Array]
    """Both shares of the inputs, (rows, ring elements of each)."""
    result_keys: tuple[bytes, bytes]
    answer: bytes

    @property
    def rows(self) -> int:
        return len(self.inputs[0])

    def sealed(self) -> tuple[bytes, bytes]:
        """Both sealed shares of the result. Raises Problem MALFORMED when the answer is none."""
        one, other = unpack_result(self.answer, self.binding.request_id, self.plan, self.rows)
        return bytes(one), bytes(other)


class HonestRun(NamedTuple):
    """What two honest parties send for a request, piece by piece, and what each tells the client: of a verified run
    without the dealer's vouchers."""

    sent: tuple[tuple[SentPiece, ...], tuple[SentPiece, ...]]
    told: tuple[bytes, bytes]


@dataclass(frozen=True, repr=False)
class AuditableUpload:
    """One upload, with all that both parties have of it."""

    upload_id: str
    model: AuditedModel | AuditedVerifiedModel
    keys: tuple[Ed25519PublicKey, Ed25519PublicKey]
    """With which alice and bob sign what they send."""
    words_key: bytes
    """With which the crypto provider seals the words of rows."""
    records: Ed25519PublicKey
    """With which it signs the records of a verified run's rows."""

    @classmethod
    def read(cls, kept: AuditableUploads, upload_id: str, plan: Plan) -> "AuditableUpload":
        """Read an upload from its owner's files. Raises Problem INVALID_INPUT where there is none, or it was
        changed."""
        with kept.opened(upload_id, plan) as found:
            tensors = Tensors(plan)
            for size in sealed_sizes(plan):
                tensors.add(found.chunks.open(found.file.read(size)))
            masked = tensors.done()
        alice, bob = (Stream(seed, "upload") for seed in found.seeds)
        model: AuditedModel | AuditedVerifiedModel
        if plan.verified:
            model = AuditedVerifiedModel.of(plan, masked, (alice, bob))
        else:
            weights = [graph.weights_at(plan, party, masked, own) for party, own in enumerate((alice, bob))]
            model = AuditedModel(plan, (weights[0], weights[1]), graph.weight_masks(plan, alice, bob))
        records = record_key(found.seeds).public_key()
        return cls(upload_id, model, found.keys, check_key(found.seeds, "words"), records)

    def recompute(
        self, run: Statement, words: tuple[bytes, bytes], inputs: tuple[Array, Array], pieces: Sequence[int]
    ) -> HonestRun:
        """What honest parties send in the run that the statement names, on these shares of the input, cut into pieces
        of so many rows. `words` are both parties' words of its rows.

        Raises ValueError when there are too many words or too few.
        """
        if isinstance(self.model, AuditedModel):
            return HonestRun(*self.model.recompute(words, inputs, pieces))
        sent, answers = self.model.recompute(words, inputs)
        one, other = (
            b"".join(
                VerifiedAnswer(run.lease_id, run.first_row, each).pack()
                for each in (answer, answer.counted)
                if each is not None
            )
            for answer in answers
        )
        return HonestRun(sent, (one, other))
