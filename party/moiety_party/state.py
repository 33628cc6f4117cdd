"""What a party must not forget, and all replicas of it must agree on: revoked tokens, how much of its quota each client
has used, which models were uploaded and deleted, which requests are running or done, which were answered. Never a
secret."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Float,
    LargeBinary,
    MetaData,
    Table,
    Text,
    delete,
    func,
    select,
    update,
)

from moiety_service.database import Database, Schema, insert_new
from moiety_service.startup import StartRefused
from moiety_shared.problems import Problem, ProblemType

WINDOW_KEPT_SECONDS = 3600.0
"""So long after its end a quota's window is still counted: no clock that is behind begins it once more."""
FRESH_SECONDS = 15.0
"""What a replica knows of the others is used so long: then it lets nobody in until it has read the database again."""
CLAIM_SECONDS = 15.0
"""A request belongs to the replica that runs it for so long after that was last heard of."""

_metadata = MetaData()
_party = Table("party", _metadata, Column("role", Text, primary_key=True))
_revoked = Table("revoked_tokens", _metadata, Column("token_id", Text, primary_key=True))
_usage = Table(
    "usage",
    _metadata,
    Column("owner_key", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("window_end", BigInteger, primary_key=True),  # seconds since 1970
    Column("rows", BigInteger, nullable=False),
)
_models = Table(
    "models",
    _metadata,
    Column("upload_id", Text, primary_key=True),
    Column("deleted", Boolean, nullable=False),
)
_requests = Table(
    "requests",
    _metadata,
    Column("request_id", LargeBinary, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("replica", Text, nullable=False),
    Column("until", Float, nullable=False, index=True),  # seconds since 1970; the result's end, or the claim's
    Column("result", LargeBinary, nullable=True),  # sealed to the client
)
_answered = Table(
    "answered",
    _metadata,
    Column("request_id", LargeBinary, primary_key=True),
    Column("until", Float, nullable=False, index=True),  # seconds since 1970
)
SCHEMA = Schema(_metadata, Path(__file__).parent / "migrations", "party_0001")


class State:
    """The party's database. Every write is on the disk before the call returns.

    Every method may raise Problem STATE_UNAVAILABLE.
    """

    def __init__(self, url: URL, role: str, clock: Callable[[], float] = time.time) -> None:
        """Raises StartRefused when it cannot be opened, or is the other party's."""
        self._db = Database(url, SCHEMA)
        self._clock = clock
        with self._db.write() as db:
            insert_new(db, _party, {"role": role})
            alone = len(db.execute(select(_party)).all()) == 1
            if not alone:
                db.rollback()
        if not alone:
            self._db.close()
            raise StartRefused(f"this is the other party's database: {role} needs one of its own")
        self._revoked: set[str] = set()
        self.refresh()

    @property
    def shared(self) -> bool:
        """Whether replicas on several machines may use it."""
        return self._db.shared

    def close(self) -> None:
        self._db.close()

    def refresh(self) -> dict[str, bool]:
        """Learn what other replicas did. Returns the models they know of, and whether each was deleted."""
        with self._db.read() as db:
            models = {row.upload_id: bool(row.deleted) for row in db.execute(select(_models))}
            if db.execute(select(func.count()).select_from(_revoked)).scalar_one() != len(self._revoked):
                self._revoked |= set(db.execute(select(_revoked.c.token_id)).scalars())
        self._fresh_until = time.monotonic() + FRESH_SECONDS
        return models

    # Tokens and quotas

    def is_revoked(self, token_id: str) -> bool:
        """Raises STATE_UNAVAILABLE when that has not been looked up for `FRESH_SECONDS`."""
        if time.monotonic() > self._fresh_until:
            raise Problem(ProblemType.STATE_UNAVAILABLE)
        return token_id in self._revoked

    def revoke(self, token_ids: Iterable[str]) -> None:
        """These tokens let nobody in any more."""
        fresh = sorted(set(token_ids) - self._revoked)
        if fresh:
            with self._db.write() as db:
                for token_id in fresh:
                    insert_new(db, _revoked, {"token_id": token_id})
        self._revoked.update(fresh)

    def reserve(self, owner_key: str, subject: str, window_end: int, rows: int, limit: int, now: float) -> bool:
        """Count `rows` more in this window, if that stays within `limit`. Windows long over are forgotten."""
        mine = (_usage.c.owner_key == owner_key) & (_usage.c.subject == subject)
        with self._db.write() as db:
            db.execute(delete(_usage).where(mine, _usage.c.window_end <= now - WINDOW_KEPT_SECONDS))
            key = {"owner_key": owner_key, "subject": subject, "window_end": window_end}
            insert_new(db, _usage, {**key, "rows": 0})
            counted = (
                update(_usage)
                .where(mine, _usage.c.window_end == window_end, _usage.c.rows + rows <= limit)
                .values(rows=_usage.c.rows + rows)
            )
            return db.execute(counted).rowcount == 1

    def unreserve(self, owner_key: str, subject: str, window_end: int, rows: int) -> None:
        """Of what was counted in this window, `rows` were not used after all."""
        window = (_usage.c.owner_key == owner_key) & (_usage.c.subject == subject) & (_usage.c.window_end == window_end)
        with self._db.write() as db:
            db.execute(update(_usage).where(window, _usage.c.rows >= rows).values(rows=_usage.c.rows - rows))

    # Models

    def stored(self, upload_id: str) -> bool:
        """Tell the other replicas of a model that is in the store now. False: it is deleted already."""
        with self._db.write() as db:
            if insert_new(db, _models, {"upload_id": upload_id, "deleted": False}):
                return True
            return not db.execute(select(_models.c.deleted).where(_models.c.upload_id == upload_id)).scalar_one()

    def forget(self, upload_id: str) -> None:
        """The model is deleted, for all replicas and for good: also when an old store is restored."""
        with self._db.write() as db:
            if not insert_new(db, _models, {"upload_id": upload_id, "deleted": True}):
                db.execute(update(_models).where(_models.c.upload_id == upload_id).values(deleted=True))

    # Requests: when a crash of the database forgets one, it may run again, under other masks

    def claim(self, request_id: bytes, subject: str, digest: bytes, replica: str) -> bytes | bool:
        """Whether this replica is to run the request now, or its sealed result if one ran it already. False: ask again.

        Raises REQUEST_CONFLICT when the id was used by another client or with other content.
        """
        now = self._clock()
        same = _requests.c.request_id == request_id
        with self._db.read() as db:
            row = db.execute(select(_requests).where(same)).one_or_none()
        if row is not None and row.until >= now:
            if (row.subject, bytes(row.digest)) != (subject, digest):
                raise Problem(ProblemType.REQUEST_CONFLICT)
            return bytes(row.result) if row.result is not None else False
        key = {"request_id": request_id, "subject": subject, "digest": digest}
        mine = {**key, "replica": replica, "until": now + CLAIM_SECONDS, "result": None}
        with self._db.write(durable=False) as db:
            if row is None:
                return insert_new(db, _requests, mine)
            return db.execute(update(_requests).where(same, _requests.c.until == row.until).values(mine)).rowcount == 1

    def keep(self, request_id: bytes, replica: str, result: bytes, seconds: float) -> None:
        """The request is done; its result is kept for `seconds`."""
        mine = (_requests.c.request_id == request_id) & (_requests.c.replica == replica)
        with self._db.write(durable=False) as db:
            db.execute(update(_requests).where(mine).values(result=result, until=self._clock() + seconds))

    def release(self, request_id: bytes, replica: str) -> None:
        """The request failed: it may be tried again, anywhere."""
        with self._db.write(durable=False) as db:
            db.execute(delete(_requests).where(_requests.c.request_id == request_id, _requests.c.replica == replica))

    def alive(self, replica: str) -> None:
        """What this replica runs stays its own; what is over is forgotten."""
        now = self._clock()
        mine = (_requests.c.replica == replica) & _requests.c.result.is_(None)
        with self._db.write(durable=False) as db:
            db.execute(update(_requests).where(mine).values(until=now + CLAIM_SECONDS))
            db.execute(delete(_requests).where(_requests.c.until < now))

    # Answers: when a crash of the database forgets one, alice may run that request once more

    def answered(self) -> dict[bytes, float]:
        """The ids of requests that were answered, and until when each is remembered; what ends first comes first."""
        with self._db.read() as db:
            rows = db.execute(select(_answered).where(_answered.c.until >= self._clock()).order_by(_answered.c.until))
            return {bytes(row.request_id): row.until for row in rows}

    def note_answered(self, until: Mapping[bytes, float]) -> int:
        """Remember these ids until then. Returns how many were not known; what is over is forgotten."""
        with self._db.write(durable=False) as db:
            db.execute(delete(_answered).where(_answered.c.until < self._clock()))
            return sum(insert_new(db, _answered, {"request_id": i, "until": end}) for i, end in until.items())
