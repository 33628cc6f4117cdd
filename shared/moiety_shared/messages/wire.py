"""The binary messages: a prediction's POST, what is sealed inside it, its answer, and the frames of the peer link.

All integers are little-endian. A reader checks every length against what the plan allows before it copies anything, and
refuses whatever is not exactly well formed with Problem MALFORMED.
"""

import hashlib
import json
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import NamedTuple

from moiety_shared.crypto.handshake import ENVELOPE_OVERHEAD
from moiety_shared.crypto.prg import SEED_BYTES
from moiety_shared.crypto.sealing import RESULT_OVERHEAD, SEAL_OVERHEAD
from moiety_shared.formats import COUNT, REQUEST, RESULT, SECRET, check_magic
from moiety_shared.messages.verified import answer_lengths, count_bytes
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType

MEDIA_TYPE = "application/vnd.moiety.v1"
ID_BYTES = 16
_MAGIC_BYTES, _TIME_BYTES = 4, 8
_REQUEST = struct.Struct("<4s16s32s16s32sQIII")  # magic, upload, plan, request, digest, time, rows, two lengths
_RESULT = struct.Struct("<4s16sII")  # magic, request, two lengths
_SECRET = struct.Struct("<4s16s32sIB")  # magic, request, result key, rows, recipients
_COUNT = struct.Struct("<4s16s32s16s32sQI")  # magic, upload, plan, request, digest, time, length of the first
_START = struct.Struct("<16sQH")  # lease, first row, how many requests
_ASKED = struct.Struct("<HI25s")  # lengths of the client's token and of the request, trace context
_OUTCOME = struct.Struct("<BI")  # 1 for a problem and 0 for a content, length
_FRAME = struct.Struct("<BBHI")  # kind, zero, opening number, payload length


def malformed(what: str) -> Problem:
    return Problem(ProblemType.MALFORMED, what)


def new_id() -> bytes:
    return secrets.token_bytes(ID_BYTES)


@dataclass(frozen=True)
class Binding:
    """What an envelope is bound to: it opens for no other plan, upload, request, time or role."""

    plan_digest: bytes
    upload_id: bytes
    request_id: bytes
    request_digest: bytes
    time: int
    """When the client made the request, by its own clock, in seconds since 1970."""

    def context(self, direction: str, party: int) -> bytes:
        """The associated data of an envelope or a result, or HPKE's `info` of a count. `direction` is "input", "result"
        or "count"."""
        role = f"moiety/v1 {direction} {party}\0".encode()
        time = self.time.to_bytes(_TIME_BYTES, "little")
        return role + self.plan_digest + self.upload_id + self.request_id + self.request_digest + time


class Recipients(IntFlag):
    """Who may read a result. The owner gets nothing but a count, and only where the plan names a key of the owner."""

    CLIENT = 1
    OWNER = 2

    @classmethod
    def named(cls, text: str) -> "Recipients":
        """Read "client", "owner" or "both". Raises KeyError for anything else."""
        return {"client": cls.CLIENT, "owner": cls.OWNER, "both": cls.CLIENT | cls.OWNER}[text]


@dataclass(frozen=True)
class Secret:
    """The content of an envelope: the key for the way back, who may read the result, and a share of the input.

    alice's share is the ring elements themselves. bob's is the seed of the stream that the client subtracted.
    """

    request_id: bytes
    result_key: bytes
    rows: int
    share: bytes | memoryview
    recipients: Recipients = Recipients.CLIENT

    def pack(self) -> bytes:
        return b"".join((self.header(), self.share))

    def header(self) -> bytes:
        """The bytes before the share."""
        return _SECRET.pack(SECRET, self.request_id, self.result_key, self.rows, self.recipients)

    def __repr__(self) -> str:
        return f"Secret(rows={self.rows})"

    @classmethod
    def unpack(cls, raw: bytes, binding: Binding, rows: int, share_bytes: int) -> "Secret":
        check_magic(bytes(raw[:_MAGIC_BYTES]), SECRET, "an envelope's content")
        if len(raw) != _SECRET.size + share_bytes:
            raise malformed("an envelope's content has another length than its plan says")
        _, request_id, key, own_rows, recipients = _SECRET.unpack_from(raw)
        if not 1 <= recipients <= 3 or request_id != binding.request_id or own_rows != rows:
            raise malformed("an envelope's content does not belong to this request")
        return cls(request_id, key, own_rows, memoryview(raw)[_SECRET.size :], Recipients(recipients))


def share_bytes(plan: Plan, party: int, rows: int) -> int:
    """The length of party p's input share."""
    return SEED_BYTES if party == 1 else rows * plan.input_row_bytes


def envelope_bytes(plan: Plan, party: int, rows: int) -> int:
    return ENVELOPE_OVERHEAD + _SECRET.size + share_bytes(plan, party, rows)


def request_bytes(plan: Plan, rows: int) -> int:
    """The length of the whole POST body."""
    return _REQUEST.size + sum(envelope_bytes(plan, party, rows) for party in (0, 1))


def result_bytes(plan: Plan, rows: int, recipients: Recipients = Recipients.CLIENT) -> int:
    """The length of alice's sealed result share: the client's, then the owner's. In verified runs bob's is longer."""
    return _result_lengths(plan, rows, recipients, 0).start


def _result_lengths(plan: Plan, rows: int, recipients: Recipients, party: int) -> range:
    """The lengths that party p's sealed result share may have."""
    share, client = plan.output_bytes(rows), Recipients.CLIENT in recipients
    beside = owner_bytes(plan, party, rows) if Recipients.OWNER in recipients else 0
    if not (client or plan.verified):
        return range(beside, beside + 1)
    own = answer_lengths(plan, party, rows, client) if plan.verified else range(share, share + 1)
    beside += RESULT_OVERHEAD
    return range(own.start + beside, own.stop + beside, own.step)


def owner_bytes(plan: Plan, party: int, rows: int) -> int:
    """The length of party p's share of a count that only the owner can open."""
    return SEAL_OVERHEAD + (count_bytes(plan, party) if plan.verified else plan.output_bytes(rows))


def answer_bytes(plan: Plan, rows: int, recipients: Recipients) -> int:
    """The most bytes that the whole answer to a request may have."""
    return _RESULT.size + sum(_result_lengths(plan, rows, recipients, party)[-1] for party in (0, 1))


def request_digest(request_id: bytes, time: int, rows: int, result_keys: tuple[bytes, bytes], seed: bytes) -> bytes:
    """SHA-256 over the request's id, its time, and all that the client drew afresh for this content.

    It names the content and ties its envelopes together. It leaves out the share that the seed masks: another content
    has another seed and other keys, and to hash 400 KB would take a quarter of the time that sealing a batch takes.
    """
    counts = time.to_bytes(_TIME_BYTES, "little") + rows.to_bytes(4, "little")
    return hashlib.sha256(b"moiety/v1 request" + request_id + counts + b"".join(result_keys) + seed).digest()


@dataclass(frozen=True)
class Request:
    """A prediction's POST: which model it asks, which request it is, and one envelope for each party."""

    binding: Binding
    rows: int
    envelopes: tuple[bytes | memoryview, bytes | memoryview]

    def pack(self) -> bytes:
        b = self.binding
        lengths = [len(e) for e in self.envelopes]
        names = b.upload_id, b.plan_digest, b.request_id, b.request_digest, b.time
        return b"".join((_REQUEST.pack(REQUEST, *names, self.rows, *lengths), *self.envelopes))

    @classmethod
    def unpack(cls, body: bytes) -> "Request":
        """Return views into `body`. This checks the lengths against the body, and `check` checks them against the
        plan."""
        check_magic(body[:_MAGIC_BYTES], REQUEST, "a prediction request")
        if len(body) < _REQUEST.size:
            raise malformed("the request is shorter than its header")
        _, upload, plan, request, digest, time, rows, first, second = _REQUEST.unpack_from(body)
        if len(body) != _REQUEST.size + first + second:
            raise malformed("the request's length does not match its header")
        view = memoryview(body)[_REQUEST.size :]
        return cls(Binding(plan, upload, request, digest, time), rows, (view[:first], view[first:]))

    def check(self, plan: Plan, max_rows: int) -> None:
        """Raises unless this is a request for this plan, with 1 to max_rows rows and the lengths that belong to that
        many."""
        if self.binding.plan_digest != plan.digest:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the request was made for another plan of this model")
        if self.rows < 1:
            raise Problem(ProblemType.INVALID_INPUT, "a request must have at least one input")
        if self.rows > max_rows:
            raise Problem(ProblemType.TOO_LARGE, f"a request for this model may have at most {max_rows} inputs")
        for party, envelope in enumerate(self.envelopes):
            if len(envelope) != envelope_bytes(plan, party, self.rows):
                raise malformed("an envelope has another length than its plan says")


def pack_result(request_id: bytes, sealed: tuple[bytes, bytes | memoryview]) -> bytes:
    """Pack what alice returns to the client: both parties' sealed shares."""
    return b"".join((_RESULT.pack(RESULT, request_id, len(sealed[0]), len(sealed[1])), *sealed))


def unpack_result(
    body: bytes, request_id: bytes, plan: Plan, rows: int, recipients: Recipients = Recipients.CLIENT
) -> tuple[memoryview, memoryview]:
    """Return both sealed shares, after checking their lengths."""
    check_magic(bytes(body[:_MAGIC_BYTES]), RESULT, "a result")
    if len(body) < _RESULT.size:
        raise malformed("the result is shorter than its header")
    _, own_id, *lengths = _RESULT.unpack_from(body)
    if len(body) != _RESULT.size + sum(lengths):
        raise malformed("the result's length does not match its header")
    fit = all(length in _result_lengths(plan, rows, recipients, p) for p, length in enumerate(lengths))
    if own_id != request_id or not fit:
        raise malformed("the result does not belong to this request")
    view = memoryview(body)[_RESULT.size :]
    return view[: lengths[0]], view[lengths[0] :]


@dataclass(frozen=True)
class OwnerCount:
    """A count that only the owner can open, in the form in which the client hands it on: what it is bound to, and both
    parties' envelopes."""

    binding: Binding
    envelopes: tuple[bytes | memoryview, bytes | memoryview]

    def pack(self) -> bytes:
        b = self.binding
        names = b.upload_id, b.plan_digest, b.request_id, b.request_digest, b.time
        return b"".join((_COUNT.pack(COUNT, *names, len(self.envelopes[0])), *self.envelopes))

    @classmethod
    def unpack(cls, raw: bytes) -> "OwnerCount":
        check_magic(raw[:_MAGIC_BYTES], COUNT, "a count for the owner")
        if len(raw) < _COUNT.size:
            raise malformed("the count was cut short")
        _, upload, plan, request, digest, time, first = _COUNT.unpack_from(raw)
        view = memoryview(raw)[_COUNT.size :]
        if first > len(view):
            raise malformed("the count was cut short")
        return cls(Binding(plan, upload, request, digest, time), (view[:first], view[first:]))


class Asked(NamedTuple):
    """What the leader passes on of one client's request: its trace context (25 bytes, see `observability/tracing.py`),
    the client's token ("" for none), and the request. START leaves out the leader's own envelope."""

    trace: bytes
    token: str
    request: Request


class Start(NamedTuple):
    """The content of a START frame: a run of one or more requests, which take the lease's rows from `first_row` on, in
    this order."""

    lease_id: str
    first_row: int
    asked: tuple[Asked, ...]

    @property
    def rows(self) -> int:
        return sum(one.request.rows for one in self.asked)


def pack_start(start: Start) -> bytes:
    parts = [_START.pack(bytes.fromhex(start.lease_id), start.first_row, len(start.asked))]
    for trace, token, request in start.asked:
        text = token.encode()
        helpers = Request(request.binding, request.rows, (b"", request.envelopes[1])).pack()
        parts += (_ASKED.pack(len(text), len(helpers), trace), text, helpers)
    return b"".join(parts)


def unpack_start(payload: bytes) -> Start:
    """Reads a START frame. Raises Problem MALFORMED for anything else."""
    if len(payload) < _START.size:
        raise malformed("a START frame is shorter than its header")
    lease, first_row, count = _START.unpack_from(payload)
    asked, at = list[Asked](), _START.size
    for _ in range(count):
        if len(payload) < at + _ASKED.size:
            raise malformed("a START frame was cut short")
        token_bytes, request_bytes, trace = _ASKED.unpack_from(payload, at)
        middle = at + _ASKED.size + token_bytes
        at = middle + request_bytes
        if len(payload) < at:
            raise malformed("a START frame was cut short")
        try:
            token = payload[middle - token_bytes : middle].decode("ascii")
        except UnicodeDecodeError:
            raise malformed("a token is not text") from None
        request = Request.unpack(payload[middle:at])
        if len(request.envelopes[0]):
            raise malformed("a START frame must not hold the leader's own envelope")
        asked.append(Asked(trace, token, request))
    if not asked or at != len(payload):
        raise malformed("a START frame holds no request, or more than it says")
    return Start(lease.hex(), first_row, tuple(asked))


Outcome = bytes | memoryview | Problem
"""What became of one request of a run: its content, or the problem for which it was refused."""


def pack_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """Pack what the helper says of the requests of a run, in their order."""
    parts = list[bytes | memoryview]()
    for outcome in outcomes:
        refused = isinstance(outcome, Problem)
        content = json.dumps(outcome.document()).encode() if isinstance(outcome, Problem) else outcome
        parts += (_OUTCOME.pack(refused, len(content)), content)
    return b"".join(parts)


def unpack_outcomes(raw: bytes | memoryview, count: int) -> list[Outcome]:
    """Read the outcomes of `count` requests. Contents are views into `raw`. Raises Problem MALFORMED for anything
    else."""
    view, at, outcomes = memoryview(raw), 0, list[Outcome]()
    for _ in range(count):
        if len(view) < at + _OUTCOME.size:
            raise malformed("the outcomes of a run were cut short")
        refused, length = _OUTCOME.unpack_from(view, at)
        at += _OUTCOME.size + length
        if len(view) < at or refused > 1:
            raise malformed("the outcomes of a run are not well formed")
        content = view[at - length : at]
        outcomes.append(_problem(bytes(content)) if refused else content)
    if at != len(view):
        raise malformed("a run has more outcomes than requests")
    return outcomes


def _problem(raw: bytes) -> Problem:
    try:
        return Problem.from_document(json.loads(raw))
    except (ValueError, RecursionError):
        raise malformed("a problem is not a JSON document") from None


class FrameKind(IntEnum):
    """The kinds of frames on the peer link. L: the leader (alice) sends it; H: the helper (bob); B: both."""

    HELLO = 1  # B: JSON, in the clear; version, boot id, and a key (L) or what was sealed to it (H)
    LEASE = 2  # L: JSON; a lease to join
    JOINED = 3  # H: JSON; the lease is joined
    PING = 4  # L: JSON; the rows that are wanted of a model, if any
    STOCK = 5  # H: JSON; rows made and in stock per model
    START = 7  # L: a run: its rows, and each request's header and bob's envelope; the first OPENING follows unasked
    OPENING = 8  # B: shares of one round, or the next part of them when they are long
    RESULT = 9  # H: the tag over what was opened, and for each request its sealed result share or a problem; where
    # runs are signed, what the helper signs of the run comes between the two
    FAILED = 11  # B: JSON; a problem document, which ends the session
    CHECK = 12  # L: asks, before any row is taken, which requests of a START the helper could use
    CHECKED = 14  # H: for each request nothing, or the problem for which the helper would refuse it
    SIGNED = 16  # L: what the leader signs of a run, after its last opening, where runs are signed


_KINDS = {int(kind): kind for kind in FrameKind}


class Frame(NamedTuple):
    kind: FrameKind
    payload: bytes | memoryview = b""
    number: int = 0

    def pack(self) -> bytes:
        return frame_header(self.kind, self.number, len(self.payload)) + bytes(self.payload)

    @classmethod
    def unpack(cls, raw: bytes) -> "Frame":
        if len(raw) < _FRAME.size:
            raise malformed("a frame is shorter than its header")
        kind, zero, number, length = _FRAME.unpack_from(raw)
        if zero or length != len(raw) - _FRAME.size:
            raise malformed("a frame's length does not match its header")
        if kind not in _KINDS:
            raise malformed("a frame of an unknown kind")
        return cls(_KINDS[kind], memoryview(raw)[_FRAME.size :], number)


def frame_header(kind: FrameKind, number: int, length: int) -> bytes:
    """The bytes before the payload of a frame, whose length is `length`."""
    return _FRAME.pack(kind, 0, number, length)
