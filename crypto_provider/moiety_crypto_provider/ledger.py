"""The durable record of what the provider issued, so that it issues nothing twice. Bundles never touch the disk."""

import hmac
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    LargeBinary,
    MetaData,
    Row,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from moiety_crypto_provider.verified import DealerKey
from moiety_service.database import Database, Schema, insert_new
from moiety_shared.crypto.prg import new_seed
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType

_NONCE = 12
_metadata = MetaData()
_uploads = Table(
    "uploads",
    _metadata,
    Column("upload_id", Text, primary_key=True),
    Column("plan", LargeBinary, nullable=False),
    Column("seed_0", LargeBinary, nullable=False),
    Column("seed_1", LargeBinary, nullable=False),
)
_leases = Table(
    "leases",
    _metadata,
    Column("lease_id", Text, primary_key=True),
    Column("upload_id", Text, nullable=False),
    Column("joined", Integer, nullable=False, default=0),
    Column("next_bundle", Integer().with_variant(BigInteger(), "postgresql"), nullable=False, default=0),
    Column("key", LargeBinary, nullable=True),  # of the lease's ticket, encrypted; NULL when the lease is over
    Column("opened", BigInteger, nullable=True),  # seconds since 1970
)
_keys = Table(  # of uploads whose runs are verified
    "upload_keys",
    _metadata,
    Column("upload_id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("seed_0", LargeBinary, nullable=False),
    Column("seed_1", LargeBinary, nullable=False),
)
SCHEMA = Schema(_metadata, Path(__file__).parent / "migrations", "provider_0001")


class Ledger:
    """The provider's database. Every write is on the disk before the call returns; seeds are encrypted there.

    All replicas of the provider share it, so that no replica issues what another has issued. Every method may raise
    Problem STATE_UNAVAILABLE.
    """

    def __init__(self, url: URL, storage_key: bytes, clock: Callable[[], float] = time.time) -> None:
        """Open the database. Raises StartRefused when that fails."""
        self._db = Database(url, SCHEMA)
        self._cipher = AESGCM(storage_key)
        self._clock = clock

    def close(self) -> None:
        self._db.close()

    def register_upload(self, upload_id: str, plan: Plan, seeds: tuple[bytes, bytes]) -> None:
        """Keep both seeds of an upload's weight masks. Either party may repeat the call.

        Raises UPLOAD_CONFLICT for another plan or other seeds under the same id, and for an upload that was deleted.
        """
        canonical = plan.canonical()
        sealed = {f"seed_{p}": self._seal(seed, _context(upload_id, p)) for p, seed in enumerate(seeds)}
        with self._db.write() as db:
            if insert_new(db, _uploads, {"upload_id": upload_id, "plan": canonical, **sealed}):
                if plan.verified:
                    insert_new(db, _keys, {"upload_id": upload_id, **self._fresh_key(upload_id, upload_id)})
                return
            row = db.execute(select(_uploads).where(_uploads.c.upload_id == upload_id)).one()
        if not row.seed_0:
            raise Problem(ProblemType.UPLOAD_CONFLICT, "its owner deleted it")
        known = b"".join(self._seeds(row))
        if bytes(row.plan) != canonical or not hmac.compare_digest(known, b"".join(seeds)):
            raise Problem(ProblemType.UPLOAD_CONFLICT, "the other party registered a different plan or different seeds")

    def upload(self, upload_id: str) -> tuple[Plan, bytes, bytes]:
        """The plan and both seeds. Raises UNKNOWN_MODEL."""
        with self._db.read() as db:
            row = db.execute(select(_uploads).where(_uploads.c.upload_id == upload_id)).one_or_none()
        if row is None or not row.seed_0:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the provider has no such upload, or its owner deleted it")
        return Plan.model_validate_json(row.plan), *self._seeds(row)

    def key(self, upload_id: str) -> DealerKey:
        """The key of an upload whose runs are verified. Raises UNKNOWN_MODEL."""
        with self._db.read() as db:
            row = db.execute(select(_keys).where(_keys.c.upload_id == upload_id)).one_or_none()
        if row is None:
            raise Problem(ProblemType.UNKNOWN_MODEL, "its runs are not verified, or its owner deleted it")
        sealed = row.seed_0, row.seed_1
        one, other = (self._open(seed, _of_key(upload_id, row.key_id, p)) for p, seed in enumerate(sealed))
        return DealerKey(row.key_id, (one, other))

    def rekey(self, upload_id: str, key_id: str) -> None:
        """Draw an upload's key anew, under this name, and end the leases under the key before. Does nothing if the key
        has that name already. Raises UNKNOWN_MODEL."""
        mine = _keys.c.upload_id == upload_id
        with self._db.wipe() as db:
            fresh = update(_keys).where(mine, _keys.c.key_id != key_id).values(**self._fresh_key(upload_id, key_id))
            if db.execute(fresh).rowcount == 1:
                db.execute(update(_leases).where(_leases.c.upload_id == upload_id).values(key=None))
            elif db.execute(select(_keys.c.key_id).where(mine)).first() is None:
                raise Problem(ProblemType.UNKNOWN_MODEL, "its runs are not verified, or its owner deleted it")

    def _fresh_key(self, upload_id: str, key_id: str) -> dict[str, object]:
        seeds = {f"seed_{p}": self._seal(new_seed(), _of_key(upload_id, key_id, p)) for p in (0, 1)}
        return {"key_id": key_id, **seeds}

    def forget_upload(self, upload_id: str) -> None:
        """Wipe an upload's seeds, its plan and its leases' keys. A row stays, so that nobody can use the id again."""
        nothing = {"plan": b"", "seed_0": b"", "seed_1": b""}
        with self._db.wipe() as db:
            db.execute(update(_leases).where(_leases.c.upload_id == upload_id).values(key=None))
            db.execute(delete(_keys).where(_keys.c.upload_id == upload_id))
            if not insert_new(db, _uploads, {"upload_id": upload_id, **nothing}):
                db.execute(update(_uploads).where(_uploads.c.upload_id == upload_id).values(**nothing))

    def _seeds(self, row: Row[Any]) -> tuple[bytes, bytes]:
        sealed = row.seed_0, row.seed_1
        one, other = (self._open(seed, _context(row.upload_id, p)) for p, seed in enumerate(sealed))
        return one, other

    def _seal(self, secret: bytes, context: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret, context)

    def _open(self, sealed: bytes, context: bytes) -> bytes:
        return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], context)

    def open_lease(self, lease_id: str, upload_id: str, key: bytes) -> None:
        """Record a lease. `key` seals its ticket, and is wiped when the lease ends."""
        row = {"lease_id": lease_id, "upload_id": upload_id, "joined": 0, "next_bundle": 0}
        with self._db.write() as db:
            db.execute(
                insert(_leases).values(**row, key=self._seal(key, _of_lease(lease_id)), opened=int(self._clock()))
            )

    def lease_key(self, lease_id: str, seconds: float) -> bytes:
        """The key of a lease's ticket. Raises UNKNOWN_LEASE for a lease that ended, or is older than `seconds`."""
        with self._db.read() as db:
            row = db.execute(select(_leases).where(_leases.c.lease_id == lease_id)).one_or_none()
        if row is None or row.key is None or row.opened < self._clock() - seconds:
            raise Problem(ProblemType.UNKNOWN_LEASE)
        return self._open(row.key, _of_lease(lease_id))

    def end_lease(self, lease_id: str) -> None:
        """End a lease: wipe the key of its ticket. May be repeated."""
        self._end(_leases.c.lease_id == lease_id)

    def end_leases(self, seconds: float) -> None:
        """End all leases that are older than `seconds`: wipe the keys of their tickets."""
        self._end(_leases.c.opened < self._clock() - seconds)

    def _end(self, which: ColumnElement[bool]) -> None:
        alive = which & _leases.c.key.is_not(None)
        with self._db.read() as db:
            if db.execute(select(_leases.c.lease_id).where(alive).limit(1)).first() is None:
                return
        with self._db.wipe() as db:
            db.execute(update(_leases).where(alive).values(key=None))

    def join_lease(self, lease_id: str) -> None:
        """Record that bob joined a lease. Raises ALREADY_ISSUED the second time."""
        with self._db.write() as db:
            done = db.execute(
                update(_leases).where(_leases.c.lease_id == lease_id, _leases.c.joined == 0).values(joined=1)
            )
        if done.rowcount != 1:
            raise Problem(ProblemType.ALREADY_ISSUED, "bob joined the lease before")

    def check(self) -> None:
        """Raises PROVIDER_UNAVAILABLE unless the database answers."""
        try:
            with self._db.read() as db:
                db.execute(select(_leases.c.lease_id).limit(1))
        except Problem as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE, "it cannot read its ledger") from error

    def issue_bundle(self, lease_id: str, bundle: int) -> None:
        """Record that a bundle is issued. Raises ALREADY_ISSUED when this bundle, or a later one, was issued before.

        Raises UNKNOWN_LEASE for a lease that the ledger does not have, or whose model any replica has deleted.
        """
        kept = select(_uploads.c.upload_id).where(func.length(_uploads.c.seed_0) > 0)
        served = (_leases.c.lease_id == lease_id) & _leases.c.upload_id.in_(kept)
        with self._db.write() as db:
            done = db.execute(
                update(_leases).where(served, _leases.c.next_bundle <= bundle).values(next_bundle=bundle + 1)
            )
            if done.rowcount == 1:
                return
            if db.execute(select(_leases.c.lease_id).where(served)).first() is None:
                raise Problem(ProblemType.UNKNOWN_LEASE)
            raise Problem(ProblemType.ALREADY_ISSUED, "the provider issued this bundle or a later one")


def _of_lease(lease_id: str) -> bytes:
    return f"moiety/v1 lease ticket key\0{lease_id}".encode()


def _of_key(upload_id: str, key_id: str, party: int) -> bytes:
    return f"moiety/v1 upload key {party}\0{upload_id}\0{key_id}".encode()


def _context(upload_id: str, party: int) -> bytes:
    return f"moiety/v1 upload seed {party}\0{upload_id}".encode()
