"""Finds out whether alice or bob lied in a run whose client was the owner.

After the run, each party shows what the other one signed, and has the crypto provider seal its own words of the
request's rows. The owner computes again what two honest parties send on them, and compares. Whoever sent the first
thing that differs lied: until then, both had computed with what an honest peer sends.
"""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal, NamedTuple

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from moiety_server.kept import AuditableUploads
from moiety_shared.crypto.channel import open_words
from moiety_shared.crypto.integrity import check_key
from moiety_shared.crypto.prg import Stream
from moiety_shared.crypto.sealing import open_result
from moiety_shared.crypto.signing import BadSignature
from moiety_shared.messages.statements import (
    MOST_WORDS,
    NO_OUTCOME,
    RunTranscript,
    Statement,
    TranscriptRequest,
    audit_key,
    proof,
)
from moiety_shared.messages.upload import Tensors, sealed_sizes
from moiety_shared.messages.wire import Binding, unpack_result
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem
from moiety_shared.protocols import graph
from moiety_shared.protocols.recomputing import AuditedModel
from moiety_shared.protocols.sent import SentPiece
from moiety_shared.ring import Array

Calls = Callable[..., httpx.Response]
"""`Owner.call`: sends one request to party 0 or 1."""
Name = Literal["alice", "bob"]
_NAMES: tuple[Name, Name] = ("alice", "bob")
_MOST_SHOWN = 2 * MOST_WORDS
"""The most bytes of what a party shows of a run: words as text take a third more, and what is signed takes less."""


@dataclass(frozen=True, repr=False)
class AuditableUpload:
    """One upload, with all that both parties have of it."""

    upload_id: str
    model: AuditedModel
    keys: tuple[Ed25519PublicKey, Ed25519PublicKey]
    """With which alice and bob sign what they send."""
    words_key: bytes
    """With which the crypto provider seals the words of rows."""

    @classmethod
    def read(cls, kept: AuditableUploads, upload_id: str, plan: Plan) -> "AuditableUpload":
        """Read an upload from its owner's files. Raises Problem INVALID_INPUT where there is none, or it was
        changed."""
        with kept.opened(upload_id, plan) as found:
            tensors = Tensors(plan)
            for size in sealed_sizes(plan):
                tensors.add(found.chunks.open(found.file.read(size)))
            masked = tensors.done()
        streams = [Stream(seed, "upload") for seed in found.seeds]
        weights = [graph.weights_at(plan, party, masked, own) for party, own in enumerate(streams)]
        alice, bob = (Stream(seed, "upload") for seed in found.seeds)
        model = AuditedModel(plan, (weights[0], weights[1]), graph.weight_masks(plan, alice, bob))
        return cls(upload_id, model, found.keys, check_key(found.seeds, "words"))


@dataclass(frozen=True, repr=False)
class AuditedRequest:
    """A request that the owner sent as a client, and alice's answer to it."""

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


class AuditFinding(NamedTuple):
    """What is wrong with a run: a party lied, or does not show what it has to show; or the run cannot be audited any
    more, because its lease is over, and nobody knows by whose doing."""

    party: Name | None
    kind: Literal["lied", "silent", "over"]
    what: str


class AuditVerdict(NamedTuple):
    """What an audit found of one request. Nobody is named if both parties were honest."""

    request_id: str
    findings: tuple[AuditFinding, ...]
    statements: tuple[str, str] = ("", "")
    """alice's and bob's signed statements as JSON, where they were shown: they convince others, too."""


class _Shown(NamedTuple):
    """What a party shows of a run, and the challenge that it was asked with."""

    run: RunTranscript
    challenge: bytes


class _Silent(Exception):
    """A party does not show what it has to show."""

    def __init__(self, party: int, what: str) -> None:
        super().__init__(what)
        self.finding = AuditFinding(_NAMES[party], "silent", what)


def judge(call: Calls, upload: AuditableUpload, asked: AuditedRequest) -> AuditVerdict:
    """Audit one request. Needs nothing of the parties but what they have to show, and names nobody who is honest."""
    name, statements = asked.binding.request_id.hex(), ("", "")
    try:
        sealed = asked.sealed()
        by_alice, by_bob = (_transcript(call, upload, asked, party) for party in (0, 1))
        statements = by_bob.run.peer.model_dump_json(), by_alice.run.peer.model_dump_json()
        bobs = _statement(upload, asked, by_alice, 1, sha256(sealed[1]).digest())
        alices = _statement(upload, asked, by_bob, 0, NO_OUTCOME)
        if (alices.lease_id, alices.first_row) != (bobs.lease_id, bobs.first_row):
            raise _Silent(1, "it shows no statement of alice's on the run that was answered")
        if by_bob.run.is_over and not by_alice.run.is_over:  # alice may have ended the lease meanwhile
            by_alice = _transcript(call, upload, asked, 0)
        if by_alice.run.is_over and by_bob.run.is_over:
            over = AuditFinding(None, "over", "its lease is over: alice or bob ended it, or restarted")
            return AuditVerdict(name, (over,), statements)
        shown = by_alice, by_bob
        # Who shows words comes first: only if they are new, the lease lived when the other said that it was over.
        words = {p: _words(upload, bobs, shown[p], p) for p in sorted((0, 1), key=lambda p: shown[p].run.is_over)}
    except _Silent as silent:
        return AuditVerdict(name, (silent.finding,), statements)
    except Problem:
        return AuditVerdict(name, (_lie(0, "its answer to the client has another length than the plan says"),))
    return AuditVerdict(name, tuple(_lies(upload, asked, (alices, bobs), (words[0], words[1]), sealed)), statements)


def _transcript(call: Calls, upload: AuditableUpload, asked: AuditedRequest, party: int) -> _Shown:
    """What a party shows of the run, asked now. Raises _Silent."""
    request_id = asked.binding.request_id
    shown = proof(audit_key(asked.result_keys[party], request_id), upload.upload_id)
    challenge = secrets.token_bytes(16)
    asking = TranscriptRequest(request_id=request_id.hex(), proof=shown.hex(), challenge=challenge.hex())
    body = asking.model_dump(mode="json")
    try:
        answer = call(party, "POST", f"/v1/models/{upload.upload_id}/transcripts", most=_MOST_SHOWN, json=body)
        return _Shown(RunTranscript.model_validate_json(answer.content), challenge)
    except Problem as problem:
        raise _Silent(party, f"it shows no transcript ({problem})") from None
    except ValidationError:
        raise _Silent(party, "what it shows is no transcript") from None


def _statement(upload: AuditableUpload, asked: AuditedRequest, shown: _Shown, of: int, outcome: bytes) -> Statement:
    """Party `of`'s signed statement, as the other party shows it. An honest one has checked it before it gave out
    anything. Raises _Silent."""
    try:
        statement = shown.run.peer.verify(of, upload.keys[of])
    except (BadSignature, Problem, ValueError):
        raise _Silent(1 - of, f"it shows nothing that {_NAMES[of]} signed") from None
    if (statement.binding, statement.rows, statement.outcome) != (asked.binding, asked.rows, outcome):
        raise _Silent(1 - of, f"it shows no statement of {_NAMES[of]}'s on the run that was answered")
    return statement


def _words(upload: AuditableUpload, run: Statement, shown: _Shown, party: int) -> bytes:
    """Party p's words of the rows of a run. Raises _Silent unless the crypto provider sealed them since p was asked."""
    try:
        place = run.lease_id, run.first_row, run.rows
        return open_words(upload.words_key, party, *place, shown.challenge, shown.run.sealed_words)
    except (Problem, ValueError):
        raise _Silent(party, "it shows no words of the run's rows that the crypto provider sealed") from None


def _lies(
    upload: AuditableUpload,
    asked: AuditedRequest,
    said: tuple[Statement, Statement],
    words: tuple[bytes, bytes],
    sealed: tuple[bytes, bytes],
) -> Iterator[AuditFinding]:
    sizes = [[piece.rows for piece in one.pieces] for one in said]
    if sizes[0] != sizes[1]:  # each has checked the other's: one honest party would not have gone on
        yield from (_lie(party, "the two statements are of different pieces") for party in (0, 1))
        return
    honest = upload.model.recompute(words, asked.inputs, sizes[0])
    sent = set[AuditFinding]()
    for number, pieces in enumerate(zip(said[0].pieces, said[1].pieces, strict=True)):
        sent.update(_first_lies(pieces, (honest.sent[0][number], honest.sent[1][number])))
    yield from sorted(sent)
    if sent:  # an honest party's share of the result follows from what the other one sent
        return
    for party in (0, 1):
        if _opened(asked, sealed, party) != honest.shares[party]:
            yield _lie(party, "its share of the result is wrong")


def _first_lies(said: tuple[SentPiece, SentPiece], honest: tuple[SentPiece, SentPiece]) -> Iterator[AuditFinding]:
    """Whoever sent something else than an honest party in the first round of a piece in which anybody did."""
    for round_ in range(max(len(piece.digests) for piece in (*said, *honest))):
        wrong = [p for p in (0, 1) if _digest(said[p], round_) != _digest(honest[p], round_)]
        if wrong:
            yield from (_lie(party, f"what it sent in round {round_ + 1} is wrong") for party in wrong)
            return


def _digest(piece: SentPiece, round_: int) -> bytes | None:
    return piece.digests[round_] if round_ < len(piece.digests) else None


def _opened(asked: AuditedRequest, sealed: tuple[bytes, bytes], party: int) -> bytes | None:
    """A party's share of the result, as it sealed it to the client; None if it does not open."""
    try:
        return open_result(asked.result_keys[party], sealed[party], asked.binding.context("result", party))
    except Problem:
        return None


def _lie(party: int, what: str) -> AuditFinding:
    return AuditFinding(_NAMES[party], "lied", what)
