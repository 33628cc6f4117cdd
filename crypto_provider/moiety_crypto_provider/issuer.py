"""Leases and bundles. A lease pairs one boot of alice with one boot of bob, for one upload of one model.

A lease's seeds are on no disk: the parties hold them for the provider, sealed in a *ticket* that only the provider can
open. So every replica of the provider serves every lease, and a restart ends none. The ticket's key is in the ledger
for as long as the lease lasts: after that, nobody can open it again.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import AEADEncryptionContext
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from prometheus_client import CollectorRegistry

from moiety_crypto_provider.ledger import Ledger
from moiety_crypto_provider.metrics import ProviderMetrics
from moiety_shared.crypto.channel import TAG_BYTES, bundle_cipher
from moiety_shared.crypto.integrity import check_key
from moiety_shared.crypto.prg import Stream, new_seed
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.ring import Array

_NONCE, _SEED, _KEY = 12, 32, 32
_JOINED_BYTES = 1 << 20  # arrays that are shorter go together: every chunk is a turn of the thread pool
_CHUNK_BYTES = 1 << 23


@dataclass(frozen=True, repr=False)
class Lease:
    """What a ticket holds."""

    lease_id: str
    upload_id: str
    rows: int
    alice: bytes
    bob: bytes
    own: bytes

    @property
    def check(self) -> bytes:
        """The key of the transcripts of the lease's runs, for both parties."""
        return check_key((self.alice, self.bob), "lease")


class Issuer:
    """Issues seeds, leases and bundles, each exactly once."""

    def __init__(
        self, ledger: Ledger, max_bundle_bytes: int, lease_seconds: float, metrics: ProviderMetrics | None = None
    ) -> None:
        """Leases serve for `lease_seconds` at most."""
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._metrics = metrics or ProviderMetrics(CollectorRegistry())
        self._max_bundle_bytes = max_bundle_bytes
        # An upload's weight masks, expanded: what every bundle of it is dealt against.
        self._masks = lru_cache(maxsize=2)(self._expand_masks)

    def register_upload(self, upload_id: str, plan: Plan, seeds: tuple[bytes, bytes]) -> None:
        """Keep the seeds of an upload's weight masks, which its owner drew: [s]_0's, and [s]_1's. May be repeated."""
        self._ledger.register_upload(upload_id, plan, seeds)

    def forget_upload(self, upload_id: str) -> None:
        """Wipe an upload's seeds. Its leases end, at all replicas; its id is never taken again."""
        self._ledger.forget_upload(upload_id)
        self._masks.cache_clear()

    def open_lease(self, upload_id: str, rows: int) -> tuple[Lease, bytes]:
        """A lease of bundles of `rows` rows, and its ticket. alice's."""
        plan, _ = self._masks(upload_id)
        if rows < 1 or rows * plan.bundle_row_bytes > self._max_bundle_bytes:
            raise Problem(ProblemType.TOO_LARGE, f"a bundle has at most {self._max_bundle_bytes} bytes")
        lease = Lease(secrets.token_hex(16), upload_id, rows, new_seed(), new_seed(), new_seed())
        key = secrets.token_bytes(_KEY)
        self._ledger.open_lease(lease.lease_id, upload_id, key)
        self._metrics.opened_leases.inc()
        return lease, _ticket(lease, key)

    def join_lease(self, lease_id: str, ticket: bytes) -> Lease:
        """bob's side of a lease, once."""
        lease = self._lease(lease_id, ticket)
        self._ledger.join_lease(lease_id)
        return lease

    def end_lease(self, lease_id: str) -> None:
        """Nothing more is dealt under it, and its ticket opens no more. May be repeated."""
        self._ledger.end_lease(lease_id)

    def end_old_leases(self) -> None:
        self._ledger.end_leases(self._lease_seconds)

    def bundle(self, lease_id: str, ticket: bytes, number: int) -> tuple[int, Iterator[bytes]]:
        """Length and content of bundle `number`, its tag last; now issued: it never will be again, whatever becomes of
        it."""
        lease = self._lease(lease_id, ticket)
        plan, masks = self._masks(lease.upload_id)
        self._ledger.issue_bundle(lease_id, number)
        streams = (Stream(seed, "bundle", number) for seed in (lease.alice, lease.bob, lease.own))
        dealt = graph.deal(plan, lease.rows, masks, *streams)
        encryptor = bundle_cipher(lease.bob, lease_id, number).encryptor()
        length = lease.rows * plan.bundle_row_bytes + TAG_BYTES
        return length, self._counted(lease.rows, length, sealed(chunks(map(itemgetter(1), dealt)), encryptor))

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
        """Raises UNKNOWN_LEASE unless it is that lease's ticket, and the lease is not over."""
        key = self._ledger.lease_key(lease_id, self._lease_seconds)
        try:
            content = AESGCM(key).decrypt(ticket[:_NONCE], ticket[_NONCE:], lease_id.encode())
        except (InvalidTag, ValueError):
            raise Problem(ProblemType.UNKNOWN_LEASE) from None
        upload_id, rows, seeds = content[:16].hex(), int.from_bytes(content[16:20], "little"), content[20:]
        return Lease(lease_id, upload_id, rows, *(seeds[at : at + _SEED] for at in range(0, 3 * _SEED, _SEED)))

    def _expand_masks(self, upload_id: str) -> tuple[Plan, dict[str, Array]]:
        plan, *seeds = self._ledger.upload(upload_id)
        alice, bob = (Stream(seed, "upload") for seed in seeds)
        return plan, graph.weight_masks(plan, alice, bob)


def _ticket(lease: Lease, key: bytes) -> bytes:
    """The lease, sealed to the provider. `leases.TICKET_BYTES` long."""
    content = bytes.fromhex(lease.upload_id) + lease.rows.to_bytes(4, "little")
    content += lease.alice + lease.bob + lease.own
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, content, lease.lease_id.encode())


def sealed(content: Iterator[bytes | memoryview], encryptor: AEADEncryptionContext) -> Iterator[bytes]:
    """The content, sealed chunk by chunk, and at its end the tag over all of it."""
    for chunk in content:
        yield encryptor.update(chunk)
    yield encryptor.finalize() + encryptor.tag


def chunks(arrays: Iterator[Array]) -> Iterator[bytes | memoryview]:
    """The arrays' bytes after one another, in pieces of a size that is good to send. None is kept once it is sent."""
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
