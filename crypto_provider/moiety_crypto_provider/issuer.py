"""Issues leases and bundles. A lease pairs one boot of alice with one boot of bob, for one upload of one model.

No disk holds a lease's seeds. The parties keep them for the provider, sealed in a *ticket* that only the provider can
open. So every replica of the provider serves every lease, and a restart ends none. The ledger holds the ticket's key as
long as the lease lasts. After that, nobody can open the ticket again.
"""

import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from operator import itemgetter

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from prometheus_client import CollectorRegistry

from moiety_crypto_provider.ledger import Ledger
from moiety_crypto_provider.metrics import ProviderMetrics
from moiety_crypto_provider.verified import DealerKey, VerifiedDealer
from moiety_shared.crypto.channel import TAG_BYTES, bundle_cipher, seal_words, tags_cipher
from moiety_shared.crypto.integrity import check_key
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.messages.statements import MOST_WORDS
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.protocols.dealing import Addressed
from moiety_shared.protocols.verified.layout import RowStream, checked_layout
from moiety_shared.protocols.words import words_of
from moiety_shared.ring import Array

_NONCE, _SEED, _KEY = 12, 32, 32
_JOINED_BYTES = 1 << 20  # shorter arrays are sent together: each chunk costs a turn of the thread pool
_CHUNK_BYTES = 1 << 23


@dataclass(frozen=True, repr=False)
class Lease:
    """The content of a ticket."""

    lease_id: str
    upload_id: str
    rows: int
    alice: bytes
    bob: bytes
    key_id: str = ""
    """Of the upload's key, where runs are verified."""

    @property
    def check(self) -> bytes:
        """The key with which both parties tag the transcripts of the lease's runs."""
        return check_key((self.alice, self.bob), "lease")


class Issuer:
    """Issues seeds, leases and bundles, each exactly once."""

    def __init__(
        self, ledger: Ledger, max_bundle_bytes: int, lease_seconds: float, metrics: ProviderMetrics | None = None
    ) -> None:
        """A lease lasts `lease_seconds` at most."""
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._metrics = metrics or ProviderMetrics(CollectorRegistry())
        self._max_bundle_bytes = max_bundle_bytes
        # An upload's expanded weight masks. Every bundle of the upload is dealt for them.
        self._masks = lru_cache(maxsize=2)(self._expand_masks)
        self._dealer = lru_cache(maxsize=2)(self._verified_dealer)

    def register_upload(self, upload_id: str, plan: Plan, seeds: tuple[bytes, bytes]) -> None:
        """Keep the seeds of an upload's weight masks, [s]_0's and [s]_1's, which its owner drew. May be repeated.

        Raises MALFORMED for a plan that says it is verified, and cannot be.
        """
        if plan.verified:
            try:
                checked_layout(plan)
            except ValueError as error:
                raise Problem(ProblemType.MALFORMED, str(error)) from None
        self._ledger.register_upload(upload_id, plan, seeds)

    def forget_upload(self, upload_id: str) -> None:
        """Wipe an upload's seeds. Its leases end at all replicas. The provider never accepts its id again."""
        self._ledger.forget_upload(upload_id)
        self._masks.cache_clear()
        self._dealer.cache_clear()

    def rekey(self, upload_id: str, key_id: str) -> None:
        """Draw the key of an upload's verified runs anew, under the name that the owner gave it. May be repeated."""
        self._ledger.rekey(upload_id, key_id)
        self._dealer.cache_clear()

    def open_lease(self, upload_id: str, rows: int) -> tuple[Lease, bytes]:
        """Open a lease of bundles of `rows` rows, for alice. Returns it with its ticket."""
        plan, *_ = self._ledger.upload(upload_id)
        if rows < 1 or rows * plan.bundle_row_bytes > self._max_bundle_bytes:
            raise Problem(ProblemType.TOO_LARGE, f"a bundle may have at most {self._max_bundle_bytes} bytes")
        key_id = self._ledger.key(upload_id).key_id if plan.verified else ""
        lease = Lease(secrets.token_hex(16), upload_id, rows, new_seed(), new_seed(), key_id)
        key = secrets.token_bytes(_KEY)
        self._ledger.open_lease(lease.lease_id, upload_id, key)
        self._metrics.opened_leases.inc()
        return lease, _ticket(lease, key)

    def join_lease(self, lease_id: str, ticket: bytes) -> Lease:
        """Have bob join a lease, once. Returns it."""
        lease = self._lease(lease_id, ticket)
        self._ledger.join_lease(lease_id)
        return lease

    def end_lease(self, lease_id: str) -> None:
        """End a lease: the provider deals no more under it, and nobody can open its ticket. May be repeated."""
        self._ledger.end_lease(lease_id)

    def end_old_leases(self) -> None:
        self._ledger.end_leases(self._lease_seconds)

    def bundle(self, lease_id: str, ticket: bytes, number: int) -> tuple[int, Iterator[bytes]]:
        """Issue bundle `number`. Returns its length and its content, of which the tag is last.

        The provider never issues that bundle again, even if its content is lost.
        """
        lease = self._lease(lease_id, ticket)
        plan, dealt = self._bundle(lease, number)
        self._ledger.issue_bundle(lease_id, number)
        encryptor = bundle_cipher(lease.bob, lease_id, number).encryptor()
        length = lease.rows * plan.bundle_row_bytes + TAG_BYTES
        return length, self._counted(lease.rows, length, sealed(chunks(dealt), encryptor))

    def _bundle(self, lease: Lease, number: int) -> tuple[Plan, Iterator[Array]]:
        """The plan, and what is dealt once it is asked for."""
        if lease.key_id:
            dealer = self._dealer(lease.upload_id, self._key(lease))
            seeds = lease.alice, lease.bob
            return dealer.plan, dealer.bundle(lease.upload_id, lease.lease_id, number, lease.rows, seeds)
        plan, masks = self._masks(lease.upload_id)
        streams = (Stream(seed, "bundle", number) for seed in (lease.alice, lease.bob))
        return plan, map(itemgetter(1), graph.deal(plan, lease.rows, masks, *streams))

    def tags(self, lease_id: str, ticket: bytes) -> tuple[int, Iterator[bytes]]:
        """The tags of the weights of a lease's upload, where runs are verified. Returns their length and their content,
        of which the seal's tag is last. May be repeated."""
        lease = self._lease(lease_id, ticket)
        arrays = list(self._dealer(lease.upload_id, self._key(lease)).weights())
        encryptor = tags_cipher(lease.bob, lease_id).encryptor()
        return sum(array.nbytes for array in arrays) + TAG_BYTES, sealed(chunks(iter(arrays)), encryptor)

    def words(self, lease_id: str, ticket: bytes, party: int, first: int, rows: int, challenge: bytes) -> bytes:
        """Party p's own words of the rows from `first` on, sealed to the upload's owner. p could compute them itself,
        but it cannot change what the provider seals, nor have it before the owner drew `challenge`.

        Raises TOO_LARGE for more than `MOST_WORDS` bytes, UNKNOWN_LEASE when the upload has another key by now.
        """
        lease = self._lease(lease_id, ticket)
        plan, *owner = self._ledger.upload(lease.upload_id)
        if rows * plan.bundle_row_bytes > MOST_WORDS:
            raise _too_many_words()
        numbers = range(first, first + rows)
        alice, bob = (RowStream.of(seed, lease.rows, numbers) for seed in (lease.alice, lease.bob))
        words = words_of(partial(self._deal, lease, rows), (alice, bob), party)
        if len(words) > MOST_WORDS:
            raise _too_many_words()
        return seal_words(check_key((owner[0], owner[1]), "words"), party, lease_id, first, rows, challenge, words)

    def _deal(self, lease: Lease, rows: int, alice: Addressed, bob: Addressed) -> Iterable[object]:
        """Deal some rows of a lease's upload."""
        if lease.key_id:
            return self._dealer(lease.upload_id, self._key(lease)).deal(rows, (alice, bob))
        plan, masks = self._masks(lease.upload_id)
        return graph.deal(plan, rows, masks, alice, bob)

    def seeds(self, lease: Lease, party: int) -> bytes:
        """What party p is given of a lease, to be sealed to it."""
        seeds = (lease.alice, lease.bob)[party] + lease.check
        return seeds + self._key(lease).seeds[party] if lease.key_id else seeds

    def _key(self, lease: Lease) -> DealerKey:
        """The key of a lease's upload. Raises UNKNOWN_LEASE when it is not the lease's any more."""
        key = self._ledger.key(lease.upload_id)
        if key.key_id != lease.key_id:
            raise Problem(ProblemType.UNKNOWN_LEASE)
        return key

    def check(self) -> None:
        """Raises PROVIDER_UNAVAILABLE while nothing can be issued."""
        self._ledger.check()

    def _counted(self, rows: int, length: int, content: Iterator[bytes]) -> Iterator[bytes]:
        started, metrics = time.perf_counter(), self._metrics
        yield from content
        metrics.bundles.inc()
        metrics.rows.inc(rows)
        metrics.bytes.inc(length)
        metrics.dealing_seconds.observe(time.perf_counter() - started)

    def _lease(self, lease_id: str, ticket: bytes) -> Lease:
        """Open a lease's ticket. Raises UNKNOWN_LEASE for another lease's ticket, or when the lease is over."""
        key = self._ledger.lease_key(lease_id, self._lease_seconds)
        try:
            content = AESGCM(key).decrypt(ticket[:_NONCE], ticket[_NONCE:], lease_id.encode())
        except (InvalidTag, ValueError):
            raise Problem(ProblemType.UNKNOWN_LEASE) from None
        upload_id, rows, seeds = content[:16].hex(), int.from_bytes(content[16:20], "little"), content[20:]
        alice, bob, key_id = seeds[:_SEED], seeds[_SEED : 2 * _SEED], seeds[2 * _SEED :].hex()
        return Lease(lease_id, upload_id, rows, alice, bob, key_id)

    def _expand_masks(self, upload_id: str) -> tuple[Plan, dict[str, Array]]:
        plan, *seeds = self._ledger.upload(upload_id)
        alice, bob = (Stream(seed, "upload") for seed in seeds)
        return plan, graph.weight_masks(plan, alice, bob)

    def _verified_dealer(self, upload_id: str, key: DealerKey) -> VerifiedDealer:
        plan, *seeds = self._ledger.upload(upload_id)
        return VerifiedDealer(plan, (seeds[0], seeds[1]), key)


def _too_many_words() -> Problem:
    return Problem(ProblemType.TOO_LARGE, f"the words of a request may have at most {MOST_WORDS} bytes")


def _ticket(lease: Lease, key: bytes) -> bytes:
    """Seal a lease for the provider. The ticket has `leases.TICKET_BYTES` bytes at most."""
    content = bytes.fromhex(lease.upload_id) + lease.rows.to_bytes(4, "little")
    content += lease.alice + lease.bob + bytes.fromhex(lease.key_id)
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, lease.lease_id.encode())


def sealed(content: Iterator[bytes | memoryview], encryptor: AEADEncryptionContext) -> Iterator[bytes]:
    """Encrypt the content chunk by chunk, and end it with the tag over all of it."""
    for chunk in content:
        yield encryptor.update(chunk)
    yield encryptor.finalize() + encryptor.tag


def chunks(arrays: Iterator[Array]) -> Iterator[bytes | memoryview]:
    """The arrays' bytes one after another, in chunks of a size that suits sending. Nothing is kept once it is sent."""
    joined = bytearray()
    for array in arrays:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        del array
        for at in range(0, len(content), _CHUNK_BYTES):
            part = content[at : at + _CHUNK_BYTES]
            if len(part) < _JOINED_BYTES:
                joined += part
            if joined and (len(part) >= _JOINED_BYTES or len(joined) >= _JOINED_BYTES):
                yield bytes(joined)
                joined.clear()
            if len(part) >= _JOINED_BYTES:
                yield part
            del part
        del content
    if joined:
        yield bytes(joined)
