"""The check at the end of a run: every opening's claim at once, and a verdict that shows nothing else.

`checked` runs a session and keeps its claims. After the last opening it adds four rounds:

    1. the nonces, whose hashes went with the first opening     coins = H(run, nonce of alice, nonce of bob, transcript)
    2. e = X_0 + X_1 + rho, and the proofs of the look-ups      bits.py
    3. H(role, run, transcript, v_p, nonce)                     v_p = [a]_p e + [a rho]_p
    4. v_p and its nonce                                        accepted if v_0 = v_1

X_p is the hash of all sigmas of party p, bob's negated, in GF(2^128); the dealer dealt a and rho. v_0 + v_1 is
a (X_0 + X_1), so it is 0 for equal sigmas, and uniform otherwise. No sigma is ever shown: two unequal ones differ by
Delta times a number that both know.

The coins are final once a party has shown its nonce. So a party shows it only after the last opening has arrived, and a
run that has no verdict after that counts as failed: who could break runs off, could draw coins until it liked them.
"""

import hmac
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from moiety_shared.crypto.integrity import joined
from moiety_shared.protocols.dealing import Source
from moiety_shared.protocols.opening import Claim, Kind, Opening, Result, Round, Session
from moiety_shared.protocols.verified.answers import CheckFailed as CheckFailed
from moiety_shared.protocols.verified.coins import Coins
from moiety_shared.protocols.verified.fields import MODULUS_128, polynomial_product
from moiety_shared.protocols.verified.proofs import LookUpSums
from moiety_shared.protocols.verified.word import Word
from moiety_shared.ring import Array

SECRET_BYTES = 16
CHECK_ROUNDS = 4
_ROLES = (b"alice", b"bob")


class Verdict(NamedTuple):
    """Party p's shares of a, rho and a rho in GF(2^128), for one check: 16 bytes each."""

    a: bytes
    rho: bytes
    product: bytes


def deal_verdicts(streams: tuple[Source, Source], rows: int) -> dict[str, Array]:
    """Deal a, rho and a rho, one of each a row. Returns what is sent to bob."""
    a, rho = (_shared(streams, name, rows) for name in ("a", "rho"))
    products = [polynomial_product(*pair, MODULUS_128) for pair in zip(a, rho, strict=True)]
    whole = np.stack([_array(product.to_bytes(SECRET_BYTES, "little")) for product in products])
    return {"a rho": whole ^ _drawn(streams[0], "a rho", rows)}


def _shared(streams: tuple[Source, Source], name: str, rows: int) -> list[int]:
    whole = _drawn(streams[0], name, rows) ^ _drawn(streams[1], name, rows)
    return [int.from_bytes(row.tobytes(), "little") for row in whole]


def _drawn(source: Source, name: str, rows: int) -> Array:
    return source.words(name, (rows, SECRET_BYTES), np.uint8)


def prepare_verdicts(party: int, stream: Source, rows: int, corrections: dict[str, Array]) -> list[Verdict]:
    """Return party p's shares, row by row."""
    parts = [_drawn(stream, name, rows) for name in ("a", "rho")]
    parts.append(corrections["a rho"] if party else _drawn(stream, "a rho", rows))
    return [Verdict(*(share.tobytes() for share in row)) for row in zip(*parts, strict=True)]


class Nonces(NamedTuple):
    """Fresh random bytes of one party for one run, 16 bytes each."""

    coins: bytes
    verdict: bytes


@dataclass
class ClaimSums:
    """What the claims of a run add up to at one party, and its coins."""

    word: Word
    party: int
    coins: Coins
    look_ups: LookUpSums
    sigmas: list[Array] = field(default_factory=list)

    def add_words(self, sigma: Array) -> None:
        """Add words (2, t) that must be the negative of the other party's."""
        self.sigmas.append(self.word.wrap(-sigma if self.party else sigma))

    def digest(self) -> int:
        """X_p: all words as one element of GF(2^128)."""
        raw = b"".join(self.word.to_bytes(sigma).tobytes() for sigma in self.sigmas)
        return int.from_bytes(sha256(b"moiety/v1 sigma" + raw).digest()[:SECRET_BYTES], "little")


class UploadEnded(Exception):
    """A check of this upload failed, or has no verdict. Nothing of it may be used until the dealer deals a new key."""


@dataclass
class Standing:
    """Whether a party may go on with an upload. One for each upload, at each party.

    Each run that is past its coins and has no verdict yet is a guess at Delta that a liar may still take back. So with
    `limit` of them at a time a lie passes `limit` times as often, and one that was broken off ends the upload.
    """

    limit: int = 1
    ended: bool = False
    unresolved: int = 0

    def go_on(self) -> None:
        """Raises UploadEnded."""
        if self.ended:
            raise UploadEnded

    def toss(self) -> None:
        """Count a run whose coins are about to be shown. Raises UploadEnded if it would be one too many."""
        self.go_on()
        if self.unresolved >= self.limit:
            raise UploadEnded
        self.unresolved += 1

    def resolve(self) -> None:
        """A run was accepted. Raises UploadEnded if another has ended the upload meanwhile."""
        self.go_on()
        self.unresolved -= 1

    def end(self) -> None:
        """A check failed, or will have no verdict."""
        self.ended = True


class VerifiedRun(NamedTuple):
    """What one party brings to one run. `name` is the run's, the same at both parties and never used again."""

    word: Word
    party: int
    name: bytes
    verdict: Verdict
    nonces: Nonces
    look_ups: LookUpSums
    """Fresh sums."""
    standing: Standing


def checked(session: Session[Result], run: VerifiedRun) -> Session[Result]:
    """Run a session of at least one opening, and then the check of all its claims.

    Raises CheckFailed instead of returning when the other party deviated, and UploadEnded when another run has ended
    the upload. A session that is closed after its coins ends the upload too.
    """
    claimed, transcript = list[tuple[Claim, Array, Array]](), _Seen(run.party)
    run.standing.go_on()
    round_ = next(session)
    *values, promise = yield Round((*round_.openings, _promise(run, b"coins", b"", run.nonces.coins)), round_.work)
    while True:
        for opening, value in zip(round_.openings, values, strict=True):
            transcript.add(opening, value)
            if opening.claim is not None:
                claimed.append((opening.claim, opening.share, value))
        try:
            round_ = session.send(values)
        except StopIteration as stop:
            result: Result = stop.value
            break
        values = yield round_
    run.standing.toss()
    try:
        yield from _check(run, claimed, promise, transcript.digest())
    except BaseException:  # a driver that closes the session too
        run.standing.end()
        raise
    run.standing.resolve()
    return result


def _check(
    run: VerifiedRun, claimed: list[tuple[Claim, Array, Array]], promise: Array, transcript: bytes
) -> Session[None]:
    """Draw the coins, settle all claims, and compare the sums of both parties without showing any."""
    (nonce,) = yield Round((_message(run.nonces.coins),))
    if not _kept(run, promise, b"coins", b"", nonce):
        raise CheckFailed
    check = ClaimSums(run.word, run.party, Coins(run.word, _coin_seed(run, nonce, transcript)), run.look_ups)
    for claim, mine, opened in claimed:
        claim.settle(check, mine, opened)
    run.standing.go_on()
    a, rho, product = (int.from_bytes(share, "little") for share in run.verdict)
    masked = Opening(_array((check.digest() ^ rho).to_bytes(SECRET_BYTES, "little")), Kind.WORDS)
    e, proof = yield Round((masked, Opening(check.look_ups.proof, Kind.EACH)))
    convinced = check.look_ups.convinced(proof)
    v = polynomial_product(a, int.from_bytes(e.tobytes(), "little"), MODULUS_128) ^ product
    secret = v.to_bytes(SECRET_BYTES, "little") + run.nonces.verdict
    run.standing.go_on()
    (promise,) = yield Round((_promise(run, b"verdict", transcript, secret),))
    run.standing.go_on()
    (shown,) = yield Round((_message(secret),))
    same = hmac.compare_digest(shown[:SECRET_BYTES].tobytes(), secret[:SECRET_BYTES])
    if not (_kept(run, promise, b"verdict", transcript, shown) and same and convinced):
        raise CheckFailed


class _Seen:
    """The transcript of a run: all that both parties sent, alike for both."""

    def __init__(self, party: int) -> None:
        self._party, self._hash = party, sha256()

    def add(self, opening: Opening, opened: Array) -> None:
        pair = (opening.share, opened) if opening.kind is Kind.EACH else (opened,)
        for array in reversed(pair) if self._party else pair:
            self._hash.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def digest(self) -> bytes:
        return self._hash.copy().digest()


def _commitment(run: VerifiedRun, party: int, what: bytes, transcript: bytes, secret: bytes) -> bytes:
    return sha256(joined((b"moiety/v1 commitment", what, _ROLES[party], run.name, transcript, secret))).digest()


def _promise(run: VerifiedRun, what: bytes, transcript: bytes, secret: bytes) -> Opening:
    return _message(_commitment(run, run.party, what, transcript, secret))


def _kept(run: VerifiedRun, promise: Array, what: bytes, transcript: bytes, shown: Array) -> bool:
    """Whether the other party showed what it had promised."""
    expected = _commitment(run, 1 - run.party, what, transcript, shown.tobytes())
    return hmac.compare_digest(expected, promise.tobytes())


def _coin_seed(run: VerifiedRun, theirs: Array, transcript: bytes) -> bytes:
    nonces = (run.nonces.coins, theirs.tobytes())
    return sha256(joined((b"moiety/v1 coins", run.name, *nonces[:: -1 if run.party else 1], transcript))).digest()


def _message(raw: bytes) -> Opening:
    return Opening(_array(raw), Kind.EACH)


def _array(raw: bytes) -> Array:
    return np.frombuffer(raw, np.uint8)
