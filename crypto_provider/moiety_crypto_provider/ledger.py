"""What was issued, durably: so that nothing is ever issued twice. Bundles themselves never touch the disk."""

import secrets
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import (
    URL,
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)

from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.service.database import Database, Schema, insert_new

_NONCE = 12
_metadata = MetaData()
_uploads = Table(
    "uploads",
    _metadata,
    Column("upload_id", Text, primary_key=True),
    Column("plan", LargeBinary, nullable=False),
    Column("seed_0", LargeBinary, nullable=False),
    Column("seed_1", LargeBinary, nullable=False),
    Column("issued", Integer, nullable=False, default=0),  # bit p: party p has its seed
)
_leases = Table(
    "leases",
    _metadata,
    Column("lease_id", Text, primary_key=True),
    Column("upload_id", Text, nullable=False),
    Column("joined", Integer, nullable=False, default=0),
    Column("next_bundle", Integer().with_variant(BigInteger(), "postgresql"), nullable=False, default=0),
)
SCHEMA = Schema(_metadata, Path(__file__).parent / "migrations", "provider_0001")


class Ledger:
    """The provider's database. Every write is on the disk before the call returns; seeds are encrypted there.

    All replicas of the provider share it: what one has issued, none issues again. Every method may raise Problem
    STATE_UNAVAILABLE.
    """

    def __init__(self, url: URL, storage_key: bytes) -> None:
        """Raises StartRefused when the database cannot be opened."""
        self._db = Database(url, SCHEMA)
        self._cipher = AESGCM(storage_key)

    def close(self) -> None:
        self._db.close()

    def issue_upload_seeds(
        self, upload_id: str, plan: Plan, party: int, fresh: tuple[bytes, bytes]
    ) -> tuple[bytes, bytes]:
        """Both seeds for an upload's weight masks, once for party p. `fresh` seeds are taken if the upload is new.

        Raises UPLOAD_CONFLICT for another plan under the same id, ALREADY_ISSUED the second time.
        """
        canonical = plan.canonical()
        with self._db.write() as db:
            row = db.execute(select(_uploads).where(_uploads.c.upload_id == upload_id)).one_or_none()
            if row is None:
                sealed = {f"seed_{p}": self._seal(upload_id, p, seed) for p, seed in enumerate(fresh)}
                # Not if the other party came first, between the statements.
                insert_new(db, _uploads, {"upload_id": upload_id, "plan": canonical, "issued": 0, **sealed})
                row = db.execute(select(_uploads).where(_uploads.c.upload_id == upload_id)).one()
            if bytes(row.plan) != canonical:
                raise Problem(ProblemType.UPLOAD_CONFLICT, "the other party registered another plan")
            done = db.execute(
                update(_uploads)
                .where(_uploads.c.upload_id == upload_id)
                .where(_uploads.c.issued.op("&")(1 << party) == 0)
                .values(issued=_uploads.c.issued.op("|")(1 << party))
            )
            if done.rowcount != 1:
                raise Problem(ProblemType.ALREADY_ISSUED, "this party's seed of this upload")
            return self._open(upload_id, 0, row.seed_0), self._open(upload_id, 1, row.seed_1)

    def upload(self, upload_id: str) -> tuple[Plan, bytes, bytes]:
        """The plan and both seeds. Raises UNKNOWN_MODEL."""
        with self._db.read() as db:
            row = db.execute(select(_uploads).where(_uploads.c.upload_id == upload_id)).one_or_none()
        if row is None or not row.seed_0:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the provider has no such upload, or its owner deleted it")
        seeds = self._open(upload_id, 0, row.seed_0), self._open(upload_id, 1, row.seed_1)
        return Plan.model_validate_json(row.plan), *seeds

    def forget_upload(self, upload_id: str) -> None:
        """Wipe the seeds and the plan. The row stays, so that the id is never taken again."""
        with self._db.write() as db:
            db.execute(
                update(_uploads)
                .where(_uploads.c.upload_id == upload_id)
                .values(plan=b"", seed_0=b"", seed_1=b"", issued=3)
            )

    def _seal(self, upload_id: str, party: int, seed: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, seed, _context(upload_id, party))

    def _open(self, upload_id: str, party: int, sealed: bytes) -> bytes:
        return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _context(upload_id, party))

    def open_lease(self, lease_id: str, upload_id: str) -> None:
        with self._db.write() as db:
            db.execute(insert(_leases).values(lease_id=lease_id, upload_id=upload_id, joined=0, next_bundle=0))

    def join_lease(self, lease_id: str) -> None:
        """Raises ALREADY_ISSUED the second time."""
        with self._db.write() as db:
            done = db.execute(
                update(_leases).where(_leases.c.lease_id == lease_id, _leases.c.joined == 0).values(joined=1)
            )
        if done.rowcount != 1:
            raise Problem(ProblemType.ALREADY_ISSUED, "the lease was joined before")

    def check(self) -> None:
        """Raises PROVIDER_UNAVAILABLE unless the database answers."""
        try:
            with self._db.read() as db:
                db.execute(select(_leases.c.lease_id).limit(1))
        except Problem as error:
            raise Problem(ProblemType.PROVIDER_UNAVAILABLE, "its ledger cannot be read") from error

    def issue_bundle(self, lease_id: str, bundle: int) -> None:
        """Counters only rise: raises ALREADY_ISSUED for this bundle or an earlier one; UNKNOWN_LEASE for a lease that
        is not known, or whose model was deleted, by whichever replica."""
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
            raise Problem(ProblemType.ALREADY_ISSUED, "this bundle, or a later one")


def _context(upload_id: str, party: int) -> bytes:
    return f"moiety/v1 upload seed {party}\0{upload_id}".encode()
