"""What alice and bob show the owner of a run: what the other one signed, and their own words of the request's rows."""

import secrets
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import httpx
from pydantic import ValidationError

from moiety_server.audited import AuditableUpload, AuditedRequest
from moiety_shared.crypto.channel import open_words
from moiety_shared.crypto.signing import BadSignature
from moiety_shared.messages.statements import (
    MOST_WORDS,
    RunTranscript,
    Statement,
    TranscriptRequest,
    audit_key,
    proof,
)
from moiety_shared.problems import Problem

Calls = Callable[..., httpx.Response]
"""`Owner.call`: sends one request to party 0 or 1."""
Name = Literal["alice", "bob"]
NAMES: tuple[Name, Name] = ("alice", "bob")
_MOST_SHOWN = 2 * MOST_WORDS
"""The most bytes of what a party shows of a run: words as text take a third more, and what is signed takes less."""


class ShownRun(NamedTuple):
    """What a party shows of a run, and the challenge that it was asked with."""

    run: RunTranscript
    challenge: bytes


class Silent(Exception):
    """A party does not show what it has to show."""

    def __init__(self, party: int, what: str) -> None:
        super().__init__(what)
        self.party, self.what = party, what


class LeaseOver(Exception):
    """The lease of a run is over, so nobody has its words any more."""


def transcript(call: Calls, upload: AuditableUpload, asked: AuditedRequest, party: int) -> ShownRun:
    """What a party shows of the run, asked now. Raises Silent."""
    request_id = asked.binding.request_id
    shown = proof(audit_key(asked.result_keys[party], request_id), upload.upload_id)
    challenge = secrets.token_bytes(16)
    asking = TranscriptRequest(request_id=request_id.hex(), proof=shown.hex(), challenge=challenge.hex())
    body = asking.model_dump(mode="json")
    try:
        answer = call(party, "POST", f"/v1/models/{upload.upload_id}/transcripts", most=_MOST_SHOWN, json=body)
        return ShownRun(RunTranscript.model_validate_json(answer.content), challenge)
    except Problem as problem:
        raise Silent(party, f"it shows no transcript ({problem})") from None
    except ValidationError:
        raise Silent(party, "what it shows is no transcript") from None


def statement(upload: AuditableUpload, asked: AuditedRequest, shown: ShownRun, of: int, outcome: bytes) -> Statement:
    """Party `of`'s signed statement, as the other party shows it. An honest one has checked it before it gave out
    anything. Raises Silent."""
    try:
        if shown.run.peer is None:
            raise BadSignature("nothing was signed")
        found = shown.run.peer.verify(of, upload.keys[of])
    except (BadSignature, Problem, ValueError):
        raise Silent(1 - of, f"it shows nothing that {NAMES[of]} signed") from None
    if (found.binding, found.rows, found.outcome) != (asked.binding, asked.rows, outcome):
        raise Silent(1 - of, f"it shows no statement of {NAMES[of]}'s on the run that was answered")
    return found


def both_words(
    call: Calls, upload: AuditableUpload, asked: AuditedRequest, run: Statement, shown: Sequence[ShownRun]
) -> tuple[bytes, bytes]:
    """Both parties' words of the rows of a run. Raises LeaseOver, and Silent unless the crypto provider sealed a
    party's since it was asked."""
    by_alice, by_bob = shown
    if by_bob.run.is_over and not by_alice.run.is_over:  # alice may have ended the lease meanwhile
        by_alice = transcript(call, upload, asked, 0)
    if by_alice.run.is_over and by_bob.run.is_over:
        raise LeaseOver
    # Who shows words comes first: only if they are new, the lease lived when the other said that it was over.
    both = by_alice, by_bob
    words = {p: _words(upload, run, both[p], p) for p in sorted((0, 1), key=lambda p: both[p].run.is_over)}
    return words[0], words[1]


def _words(upload: AuditableUpload, run: Statement, shown: ShownRun, party: int) -> bytes:
    """Party p's words of the rows of a run. Raises Silent unless the crypto provider sealed them since p was asked."""
    try:
        place = run.lease_id, run.first_row, run.rows
        return open_words(upload.words_key, party, *place, shown.challenge, shown.run.sealed_words)
    except (Problem, ValueError):
        raise Silent(party, "it shows no words of the run's rows that the crypto provider sealed") from None
