"""What both parties sign of runs, where the model's owner asked for it, and what a party keeps of that for a while.

alice signs after her last opening, bob with his result. Each checks the other's signature against what it received
before it gives anything out. So after a run each can show what the other sent, and neither can deny it.

In a verified run both sign what they sent and heard after the last opening, and neither shows its coins before it has
the other's signature. So whoever saw the coins is bound by what it sent, even if it breaks off then.
"""

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_party.store import Model
from moiety_service.security.identity import Identity
from moiety_shared.crypto.signing import BadSignature, key_from_text, key_text
from moiety_shared.messages.catalogue import Manifest
from moiety_shared.messages.statements import (
    NO_OUTCOME,
    SECRET_BYTES,
    SIGNED_BYTES,
    SignedStatement,
    Statement,
    leaves,
    proof,
    sign_run,
    verify_run,
)
from moiety_shared.messages.wire import Outcome, Start, malformed
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.opening import Round
from moiety_shared.protocols.sent import SentDigests
from moiety_shared.protocols.verified.claims import CHECK_ROUNDS

KEPT_RUNS = 10_000
"""How many requests a party keeps transcripts of, of the latest ones."""
KEPT_SECONDS = 3600.0
"""How long it keeps them."""
_DIFFER = "the other party's signature is not of what it sent"


def check_manifest(manifest: Manifest, party: int, identity: Identity) -> None:
    """Raises Problem MALFORMED unless the keys that an upload names for its statements are this party's and the
    other's."""
    keys = manifest.statement_keys
    if keys is None:
        return
    try:
        key_from_text(keys[1 - party])
    except ValueError:
        raise malformed("the manifest names no key of the other party") from None
    if keys[party] != key_text(identity.statement_key.public_key()):
        raise malformed("the manifest names another key of this party")


@dataclass(frozen=True, repr=False)
class PeersWord:
    """What the peer signed of a run."""

    statements: tuple[bytes, ...]
    secret: bytes
    leaves: list[bytes]
    signature: bytes

    def shown(self, place: int) -> SignedStatement:
        return SignedStatement.of(self.statements[place], self.secret, place, self.leaves, self.signature)


class RunWitness:
    """One run at one party."""

    def __init__(
        self,
        party: int,
        model: Model,
        key: Ed25519PrivateKey,
        start: Start,
        keep: "Callable[[RunWitness, Sequence[Outcome]], None]",
    ) -> None:
        """`key` is this party's. The model's manifest names the other's, which must be one. `keep` keeps what this run
        has to show: it is called when there is more of that, with the outcomes if they are known."""
        keys, plan = model.manifest.statement_keys, model.plan
        assert keys is not None  # noqa: S101  its runs are signed
        self._party, self._key, self._start, self._keep = party, key, start, keep
        self._peer_key = key_from_text(keys[1 - party])
        self.is_verified = plan.verified is not None
        self._rounds = plan.rounds if plan.verified is None else plan.verified.rounds - CHECK_ROUNDS
        slices = [(0, start.rows)] if self.is_verified else plan.slices(start.rows)
        self._digests = SentDigests(slices, [one.request.rows for one in start.asked])
        self._heard: list[tuple[Round, memoryview]] = []
        self._has_signed = False
        self._signed: PeersWord | None = None

    @property
    def _has_ended(self) -> bool:
        """Whether all rounds were sent that are signed: all but those of a check."""
        return self._digests.rounds == self._rounds

    @property
    def binds(self) -> bool:
        """Whether both parties have to sign before this one goes on: behind the last opening of a verified run."""
        return self.is_verified and self._has_ended and not self._has_signed

    def sent(self, rounds: Sequence[Round]) -> bytes:
        """Note what this party has sent, and what it heard in the round before. alice signs after her last round, if
        the run is not verified."""
        if self._has_ended:
            return b""
        self._digests.sent(rounds)
        said = self.sign() if self._party == 0 and self._has_ended and not self.is_verified else b""
        self._note_heard()
        return said

    def heard(self, round_: Round, peer: memoryview) -> None:
        if not self._has_signed or not self.is_verified:
            self._heard.append((round_, peer))

    def sign(self, outcomes: Sequence[Outcome] = ()) -> bytes:
        """Sign what this party sent, and the outcomes that it is about to send, of which alice has none."""
        if self.is_verified:
            self._note_heard()
        secret = secrets.token_bytes(SECRET_BYTES)
        run = leaves(secret, self._statements(self._party, outcomes))
        said = secret + sign_run(self._party, run, self._key)
        self._has_signed = True
        self._keep_all(outcomes)
        return said

    def check(self, said: bytes | memoryview, outcomes: Sequence[Outcome] = ()) -> None:
        """Check what the peer signed against what it sent, at the end of the run. Raises Problem OPENINGS_DIFFER."""
        self._note_heard()
        if len(said) != SIGNED_BYTES:
            raise Problem(ProblemType.OPENINGS_DIFFER, _DIFFER)
        secret, signature = bytes(said[:SECRET_BYTES]), bytes(said[SECRET_BYTES:])
        statements = self._statements(1 - self._party, outcomes)
        run = leaves(secret, statements)
        try:
            verify_run(1 - self._party, run, signature, self._peer_key)
        except BadSignature:
            raise Problem(ProblemType.OPENINGS_DIFFER, _DIFFER) from None
        self._signed = PeersWord(tuple(statements), secret, run, signature)
        self._keep_all(outcomes)

    def shown(self) -> list[SignedStatement]:
        """What the peer signed, request by request; nothing before it did."""
        return [self._signed.shown(place) for place in range(len(self._start.asked))] if self._signed else []

    def kept(self, place: int, ticket: str, key: bytes, now: float) -> "KeptRun":
        """What is kept of the run's request of that place. `key` is its client's, for proofs."""
        start = self._start
        request, before = start.asked[place].request, start.asked[:place]
        first = start.first_row + sum(one.request.rows for one in before)
        upload_id = request.binding.upload_id.hex()
        expires = now + KEPT_SECONDS
        return KeptRun(upload_id, start.lease_id, ticket, first, request.rows, key, self._signed, place, expires)

    def _keep_all(self, outcomes: Sequence[Outcome]) -> None:
        """A verified run is kept as soon as this party signed, any other when both did."""
        if self._has_signed and (self.is_verified or self._signed is not None):
            self._keep(self, outcomes)

    def _note_heard(self) -> None:
        if self._heard:
            rounds, raw = zip(*self._heard, strict=True)
            self._digests.received(rounds, raw)
            self._heard.clear()

    def _statements(self, party: int, outcomes: Sequence[Outcome]) -> list[bytes]:
        row, made = self._start.first_row, list[bytes]()
        for place, asked in enumerate(self._start.asked):
            of_peer = party != self._party
            pieces = self._digests.of(place, peer=of_peer)
            heard = self._digests.of(place, peer=not of_peer) if self.is_verified else ()
            outcome = outcomes[place] if outcomes else Problem(ProblemType.INTERNAL)
            digest = NO_OUTCOME if isinstance(outcome, Problem) else sha256(outcome).digest()
            binding, lease = asked.request.binding, self._start.lease_id
            made.append(Statement(party, binding, lease, row, pieces, digest, heard).pack())
            row += asked.request.rows
        return made


@dataclass(frozen=True, repr=False)
class KeptRun:
    """What a party keeps of one request: its rows, and what the other party signed. Nothing of it is a secret of the
    client, but the key by which the client proves that it is the client."""

    upload_id: str
    lease_id: str
    ticket: str
    first_row: int
    rows: int
    key: bytes
    signed: PeersWord | None
    place: int
    expires: float

    def shown(self) -> SignedStatement | None:
        return self.signed.shown(self.place) if self.signed is not None else None

    def is_of(self, other: "KeptRun") -> bool:
        """Whether both are of the same rows."""
        return (self.lease_id, self.first_row) == (other.lease_id, other.first_row)


class KeptRuns:
    """The latest requests of signed runs, by their ids: `KEPT_RUNS` at most, for `KEPT_SECONDS`, in memory alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._runs: OrderedDict[bytes, KeptRun] = OrderedDict()

    def keep(self, witness: RunWitness, place: int, request_id: bytes, ticket: str, key: bytes) -> None:
        """Keep the run's request of that place. Raises Problem REQUEST_EXPIRED when another verified run of it is kept:
        then this one must not be signed. Each party has one to show."""
        run, before = witness.kept(place, ticket, key, self._clock()), self._runs.get(request_id)
        if before is not None and witness.is_verified and not run.is_of(before):
            raise _signed_before()
        self._runs[request_id] = run
        self._runs.move_to_end(request_id)
        self._forget_old()

    def __contains__(self, request_id: bytes) -> bool:
        self._forget_old()
        return request_id in self._runs

    def check(self, request_id: bytes) -> None:
        """Raises Problem REQUEST_EXPIRED when a run of that request is kept."""
        if request_id in self:
            raise _signed_before()

    def get(self, upload_id: str, request_id: bytes, shown: bytes) -> KeptRun:
        """Return what is kept of a request, to whoever proves to be its client.

        Raises Problem NOT_FOUND when nothing is kept, or `shown` is no proof: nobody learns which.
        """
        self._forget_old()
        kept = self._runs.get(request_id)
        if kept is None or kept.upload_id != upload_id or not hmac.compare_digest(proof(kept.key, upload_id), shown):
            raise Problem(ProblemType.NOT_FOUND, "no such run is kept here, or whoever asks did not send its request")
        return kept

    def _forget_old(self) -> None:
        now = self._clock()
        while self._runs:
            oldest = next(iter(self._runs))
            if len(self._runs) <= KEPT_RUNS and self._runs[oldest].expires >= now:
                return
            del self._runs[oldest]


def _signed_before() -> Problem:
    return Problem(ProblemType.REQUEST_EXPIRED, "a run of it was signed before: send it as another request")
