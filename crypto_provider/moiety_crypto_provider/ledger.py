"""What was issued, durably: so that nothing is ever issued twice. Bundles themselves never touch the disk."""

import contextlib
from pathlib import Path

from sqlalchemy import (
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry

from moiety_shared.plan import Plan
from moiety_shared.problems import Problem, ProblemType

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
    Column("next_bundle", Integer, nullable=False, default=0),
)


class Ledger:
    """The provider's SQLite file. Every write is on the disk before the call returns."""

    def __init__(self, path: Path) -> None:
        path.touch(mode=0o600)
        self._engine = create_engine(f"sqlite:///{path}")

        @event.listens_for(self._engine, "connect")
        def _durable(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.close()

        _metadata.create_all(self._engine)

    def issue_upload_seeds(
        self, upload_id: str, plan: Plan, party: int, fresh: tuple[bytes, bytes]
    ) -> tuple[bytes, bytes]:
        """Both seeds for an upload's weight masks, once for party p. `fresh` seeds are taken if the upload is new.

        Raises UPLOAD_CONFLICT for another plan under the same id, ALREADY_ISSUED the second time.
        """
        canonical = plan.canonical()
        with self._engine.begin() as db:
            row = db.execute(select(_uploads).where(_uploads.c.upload_id == upload_id)).one_or_none()
            if row is None:
                new = insert(_uploads).values(
                    upload_id=upload_id, plan=canonical, seed_0=fresh[0], seed_1=fresh[1], issued=0
                )
                with contextlib.suppress(IntegrityError):  # the other party came first, between the statements
                    db.execute(new)
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
            return bytes(row.seed_0), bytes(row.seed_1)

    def upload(self, upload_id: str) -> tuple[Plan, bytes, bytes]:
        """The plan and both seeds. Raises UNKNOWN_MODEL."""
        with self._engine.connect() as db:
            row = db.execute(select(_uploads).where(_uploads.c.upload_id == upload_id)).one_or_none()
        if row is None:
            raise Problem(ProblemType.UNKNOWN_MODEL, "the provider has no such upload")
        return Plan.model_validate_json(row.plan), bytes(row.seed_0), bytes(row.seed_1)

    def open_lease(self, lease_id: str, upload_id: str) -> None:
        with self._engine.begin() as db:
            db.execute(insert(_leases).values(lease_id=lease_id, upload_id=upload_id, joined=0, next_bundle=0))

    def join_lease(self, lease_id: str) -> None:
        """Raises ALREADY_ISSUED the second time."""
        with self._engine.begin() as db:
            done = db.execute(
                update(_leases).where(_leases.c.lease_id == lease_id, _leases.c.joined == 0).values(joined=1)
            )
        if done.rowcount != 1:
            raise Problem(ProblemType.ALREADY_ISSUED, "the lease was joined before")

    def issue_bundle(self, lease_id: str, bundle: int) -> None:
        """Counters only rise: raises ALREADY_ISSUED for this bundle or an earlier one."""
        with self._engine.begin() as db:
            done = db.execute(
                update(_leases)
                .where(_leases.c.lease_id == lease_id, _leases.c.next_bundle <= bundle)
                .values(next_bundle=bundle + 1)
            )
        if done.rowcount != 1:
            raise Problem(ProblemType.ALREADY_ISSUED, "this bundle, or a later one")
