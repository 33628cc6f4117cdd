"""Finds out whether alice or bob lied in a run whose client was the owner.

After the run, each party shows what the other one signed, and has the crypto provider seal its own words of the
request's rows. The owner computes again what two honest parties send on them, and compares. Whoever sent the first
thing that differs lied: until then, both had computed with what an honest peer sends.

A verified run may have ended without an answer, by a check that failed. Then each signature is judged by itself: it
says what its party sent, and what it heard until then. Whoever signed nothing that is shown is not named.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Literal, NamedTuple

from moiety_server.audited import AuditableUpload, AuditedRequest, HonestRun
from moiety_server.shown import NAMES, Calls, LeaseOver, Name, ShownRun, Silent, both_words, statement, transcript
from moiety_shared.crypto.sealing import open_result
from moiety_shared.messages import verified
from moiety_shared.messages.statements import NO_OUTCOME, Statement
from moiety_shared.problems import Problem
from moiety_shared.protocols.sent import SentPiece
from moiety_shared.protocols.verified.answers import CheckFailed


class AuditFinding(NamedTuple):
    """What is wrong with a run: a party lied, or does not show what it has to show; or the run cannot be audited any
    more, because its lease is over; or its check failed, and not by anything that was signed."""

    party: Name | None
    kind: Literal["lied", "silent", "over", "unsettled"]
    what: str


class AuditVerdict(NamedTuple):
    """What an audit found of one request. Nobody is named if both parties were honest."""

    request_id: str
    findings: tuple[AuditFinding, ...]
    statements: tuple[str, str] = ("", "")
    """alice's and bob's signed statements as JSON, where they were shown: they convince others, too."""


_OVER = AuditFinding(None, "over", "its lease is over: alice or bob ended it, or restarted")
_NOTHING = AuditFinding(
    None, "unsettled", "no run of it was signed by both: it was refused, or broke off before its check"
)
_CHECK = AuditFinding(
    None,
    "unsettled",
    "its check failed, and all that was signed is right: a party broke it off, or lied in the check, which shows it "
    "nothing and changes no answer",
)


def judge(call: Calls, upload: AuditableUpload, asked: AuditedRequest) -> AuditVerdict:
    """Audit one request. Needs nothing of the parties but what they have to show, and names nobody who is honest."""
    if not asked.answer:
        return _judge_failed(call, upload, asked)
    name, statements = asked.binding.request_id.hex(), ("", "")
    try:
        sealed = asked.sealed()
        by_alice, by_bob = (transcript(call, upload, asked, party) for party in (0, 1))
        statements = _signed(by_bob), _signed(by_alice)
        bobs = statement(upload, asked, by_alice, 1, sha256(sealed[1]).digest())
        alices = statement(upload, asked, by_bob, 0, NO_OUTCOME)
        if (alices.lease_id, alices.first_row) != (bobs.lease_id, bobs.first_row):
            raise Silent(1, "it shows no statement of alice's on the run that was answered")
        words = both_words(call, upload, asked, bobs, (by_alice, by_bob))
    except Silent as silent:
        return AuditVerdict(name, (_silent(silent),), statements)
    except LeaseOver:
        return AuditVerdict(name, (_OVER,), statements)
    except Problem:
        return AuditVerdict(name, (_lie(0, "its answer to the client has another length than the plan says"),))
    return AuditVerdict(name, tuple(_lies(upload, asked, (alices, bobs), words, sealed)), statements)


def _signed(shown: ShownRun | Silent) -> str:
    return "" if isinstance(shown, Silent) or shown.run.peer is None else shown.run.peer.model_dump_json()


def _lies(
    upload: AuditableUpload,
    asked: AuditedRequest,
    said: tuple[Statement, Statement],
    words: tuple[bytes, bytes],
    sealed: tuple[bytes, bytes],
) -> Iterator[AuditFinding]:
    sizes = [[piece.rows for piece in one.pieces] for one in said]
    whole = not asked.plan.verified or sizes[0] == [asked.rows]
    if sizes[0] != sizes[1] or not whole:  # each has checked the other's: one honest party would not have gone on
        yield from (_lie(party, "the two statements are of different pieces") for party in (0, 1))
        return
    honest = upload.recompute(said[1], words, asked.inputs, sizes[0])
    sent = set[AuditFinding]()
    for number, pieces in enumerate(zip(said[0].pieces, said[1].pieces, strict=True)):
        sent.update(_first_lies(pieces, (honest.sent[0][number], honest.sent[1][number])))
    yield from sorted(sent)
    if not sent:  # an honest party's share of the result follows from what the other one sent
        yield from _wrong_results(upload, asked, honest, sealed)


def _first_lies(said: tuple[SentPiece, SentPiece], honest: tuple[SentPiece, SentPiece]) -> Iterator[AuditFinding]:
    """Whoever sent something else than an honest party in the first round of a piece in which anybody did."""
    for round_ in range(max(len(piece.digests) for piece in (*said, *honest))):
        wrong = [p for p in (0, 1) if _digest(said[p], round_) != _digest(honest[p], round_)]
        if wrong:
            yield from (_lie(party, f"what it sent in round {round_ + 1} is wrong") for party in wrong)
            return


def _digest(piece: SentPiece, round_: int) -> bytes | None:
    return piece.digests[round_] if round_ < len(piece.digests) else None


def _wrong_results(
    upload: AuditableUpload, asked: AuditedRequest, honest: HonestRun, sealed: tuple[bytes, bytes]
) -> Iterator[AuditFinding]:
    plan, told = asked.plan, [_opened(asked, sealed, party) for party in (0, 1)]
    wrong = [_without_vouchers(asked, told[party], party) != honest.told[party] for party in (0, 1)]
    if plan.verified and not any(wrong):
        one, other = asked.inputs
        try:
            verified.accept([raw or b"" for raw in told], one + other, plan, upload.upload_id, upload.records)
        except (CheckFailed, Problem):
            wrong[1] = True  # the dealer's vouchers are in bob's
    for party in (0, 1):
        if wrong[party]:
            yield _lie(party, "its share of the result is wrong")


def _opened(asked: AuditedRequest, sealed: tuple[bytes, bytes], party: int) -> bytes | None:
    """A party's share of the result, as it sealed it to the client; None if it does not open."""
    try:
        return open_result(asked.result_keys[party], sealed[party], asked.binding.context("result", party))
    except Problem:
        return None


def _without_vouchers(asked: AuditedRequest, told: bytes | None, party: int) -> bytes | None:
    if told is None or not asked.plan.verified:
        return told
    try:
        return verified.without_vouchers(told, asked.plan, party, asked.rows)
    except Problem:
        return None


def _judge_failed(call: Calls, upload: AuditableUpload, asked: AuditedRequest) -> AuditVerdict:
    """Audit a request whose run's check failed."""
    shown = [_shown(call, upload, asked, party) for party in (0, 1)]
    signed = {of: found for of in (0, 1) if (found := _statement(upload, asked, shown[1 - of], of)) is not None}
    findings = {of: _judged(call, upload, asked, run, shown) for of, run in signed.items()}
    named = [finding for finding in findings.values() if finding is not None and finding.party is not None]
    if not signed:
        named = [_NOTHING]
    elif not named:
        named = [_OVER if _OVER in findings.values() else _CHECK]
    statements = _signed(shown[1]), _signed(shown[0])
    return AuditVerdict(asked.binding.request_id.hex(), tuple(dict.fromkeys(named)), statements)


def _shown(call: Calls, upload: AuditableUpload, asked: AuditedRequest, party: int) -> ShownRun | Silent:
    """What a party shows, or why it shows nothing: whether it has to follows from what the other one shows."""
    try:
        return transcript(call, upload, asked, party)
    except Silent as silent:
        return silent


def _statement(upload: AuditableUpload, asked: AuditedRequest, shown: ShownRun | Silent, of: int) -> Statement | None:
    try:
        return None if isinstance(shown, Silent) else statement(upload, asked, shown, of, NO_OUTCOME)
    except Silent:
        return None


def _judged(
    call: Calls,
    upload: AuditableUpload,
    asked: AuditedRequest,
    run: Statement,
    shown: Sequence[ShownRun | Silent],
) -> AuditFinding | None:
    """Whether who signed this lied. What it says of the other one counts for what it could compute itself, and for
    nothing else.

    Whoever signed a run, or shows what the other one signed of it, has to show its own words of the rows. No honest
    party signs two runs of one request.
    """
    try:
        by_alice, by_bob = map(_present, shown)
        words = both_words(call, upload, asked, run, (by_alice, by_bob))
    except Silent as silent:
        return _silent(silent)
    except LeaseOver:
        return _OVER
    honest = upload.recompute(run, words, asked.inputs, [asked.rows])
    of = run.party
    said = (run.pieces, run.heard) if of == 0 else (run.heard, run.pieces)
    if [len(pieces) for pieces in said] != [1, 1] or said[0][0].rows != said[1][0].rows:
        return _lie(of, "it signed other pieces than such a run has")
    found = _first_lies((said[0][0], said[1][0]), (honest.sent[0][0], honest.sent[1][0]))
    return next((lie for lie in found if lie.party == NAMES[of]), None)


def _present(shown: ShownRun | Silent) -> ShownRun:
    if isinstance(shown, Silent):
        raise shown
    return shown


def _silent(silent: Silent) -> AuditFinding:
    return AuditFinding(NAMES[silent.party], "silent", silent.what)


def _lie(party: int, what: str) -> AuditFinding:
    return AuditFinding(NAMES[party], "lied", what)
