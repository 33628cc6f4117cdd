"""What a party must not forget, and what all its replicas must agree on. It holds no secret.

That is: the revoked tokens, how much of its quota each client has used, which models were uploaded and deleted, which
requests are running or done, and which were answered.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

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
"""How long a quota's window is kept after its end, so that a clock that is behind does not begin it once more."""
FRESH_SECONDS = 15.0
"""How long a replica uses what it read. After that it lets nobody in until it has read the database again."""
CLAIM_SECONDS = 15.0
"""How long a request still belongs to the replica that runs it after the replica last said that it is alive."""

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
    Column("until", Float, nullable=False, index=True),  # seconds since 1970: the end of the result, or of the claim
    Column("result", LargeBinary, nullable=True),  # sealed to the client
)
_answered = Table(
    "answered",
    _metadata,
    Column("request_id", LargeBinary, primary_key=True),
    Column("until", Float, nullable=False, index=True),  # seconds since 1970
)
_standings = Table(  # of uploads whose runs are verified; without a row one is good, and its key has its own id
    "standings",
    _metadata,
    Column("upload_id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("state", Text, nullable=False),
)
SCHEMA = Schema(_metadata, Path(__file__).parent / "migrations", "party_0001")


Check = Literal["good", "open", "ended"]


class State:
    """The party's database. Every write is on the disk before the call returns.

    Every method may raise Problem STATE_UNAVAILABLE.
    """

    def __init__(self, url: URL, role: str, clock: Callable[[], float] = time.time) -> None:
        """Raises StartRefused when the database cannot be opened, or belongs to the other party."""
        self._db = Database(url, SCHEMA)
        self._clock = clock
        with self._db.write() as db:
            insert_new(db, _party, {"role": role})
            alone = len(db.execute(select(_party)).all()) == 1
            if not alone:
                db.rollback()
        if not alone:
            self._db.close()
            raise StartRefused(f"this database belongs to the other party: {role} needs its own")
        self._revoked: set[str] = set()
        self.refresh()

    @property
    def shared(self) -> bool:
        """Whether replicas on several machines may use the database."""
        return self._db.shared

    def close(self) -> None:
        self._db.close()

    def refresh(self) -> dict[str, bool]:
        """Read what other replicas did. Returns all uploads, and whether each was deleted."""
        with self._db.read() as db:
            models = {row.upload_id: bool(row.deleted) for row in db.execute(select(_models))}
            if db.execute(select(func.count()).select_from(_revoked)).scalar_one() != len(self._revoked):
                self._revoked |= set(db.execute(select(_revoked.c.token_id)).scalars())
        self._fresh_until = time.monotonic() + FRESH_SECONDS
        return models

    # Tokens and quotas

    def is_revoked(self, token_id: str) -> bool:
        """Whether a token was revoked. Raises STATE_UNAVAILABLE after `FRESH_SECONDS` without a `refresh`."""
        if time.monotonic() > self._fresh_until:
            raise Problem(ProblemType.STATE_UNAVAILABLE)
        return token_id in self._revoked

    def revoke(self, token_ids: Iterable[str]) -> None:
        """Revoke these tokens, for all replicas and for good."""
        fresh = sorted(set(token_ids) - self._revoked)
        if fresh:
            with self._db.write() as db:
                for token_id in fresh:
                    insert_new(db, _revoked, {"token_id": token_id})
        self._revoked.update(fresh)

    def reserve(self, owner_key: str, subject: str, window_end: int, rows: int, limit: int, now: float) -> bool:
        """Count `rows` more in this window. Returns False, and counts nothing, if that exceeds `limit`.

        Forgets windows that ended `WINDOW_KEPT_SECONDS` ago.
        """
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
        """Take back `rows` that were counted in this window and not used."""
        window = (_usage.c.owner_key == owner_key) & (_usage.c.subject == subject) & (_usage.c.window_end == window_end)
        with self._db.write() as db:
            db.execute(update(_usage).where(window, _usage.c.rows >= rows).values(rows=_usage.c.rows - rows))

    # Models

    def stored(self, upload_id: str) -> bool:
        """Tell the other replicas that a model is in the store. Returns False if it is deleted already."""
        with self._db.write() as db:
            if insert_new(db, _models, {"upload_id": upload_id, "deleted": False}):
                return True
            return not db.execute(select(_models.c.deleted).where(_models.c.upload_id == upload_id)).scalar_one()

    def forget(self, upload_id: str) -> None:
        """Delete a model for all replicas and for good, even if an old store is restored."""
        with self._db.write() as db:
            if not insert_new(db, _models, {"upload_id": upload_id, "deleted": True}):
                db.execute(update(_models).where(_models.c.upload_id == upload_id).values(deleted=True))

    # Checks of verified runs

    def standing(self, upload_id: str) -> tuple[str, Check]:
        """The id of an upload's key, as its owner named it, and how its checks went: "good" if all passed, "open" while
        one has no verdict, "ended" after one that failed."""
        with self._db.read() as db:
            row = db.execute(select(_standings).where(_standings.c.upload_id == upload_id)).one_or_none()
        return (row.key_id, row.state) if row is not None else (upload_id, "good")

    def move(self, upload_id: str, key_id: str, before: Check, after: Check) -> bool:
        """Say how an upload's checks went. Returns False, and changes nothing, unless it was `before`, under this
        key."""
        same = (_standings.c.upload_id == upload_id) & (_standings.c.key_id == key_id) & (_standings.c.state == before)
        moved = update(_standings).where(same).values(state=after)
        with self._db.write() as db:
            if db.execute(moved).rowcount == 1:
                return True
            fresh = {"upload_id": upload_id, "key_id": upload_id, "state": "good"}
            return insert_new(db, _standings, fresh) and db.execute(moved).rowcount == 1

    def rekey(self, upload_id: str, key_id: str) -> None:
        """The owner gave an upload another key, under which no check failed. Changes nothing when it has that key."""
        fresh = {"key_id": key_id, "state": "good"}
        with self._db.write() as db:
            insert_new(db, _standings, {"upload_id": upload_id, "key_id": upload_id, "state": "good"})
            other = (_standings.c.upload_id == upload_id) & (_standings.c.key_id != key_id)
            db.execute(update(_standings).where(other).values(**fresh))

    # Requests: when a crash of the database forgets one, it may run again, under other masks

    def claim(self, request_id: bytes, subject: str, digest: bytes, replica: str) -> bytes | bool:
        """Claim a request for this replica.

        Returns True if it is to run the request now, the sealed result if a replica ran it, and False if another one is
        running it: ask again.

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
        """Keep the result of a request that this replica ran, for `seconds`."""
        mine = (_requests.c.request_id == request_id) & (_requests.c.replica == replica)
        with self._db.write(durable=False) as db:
            db.execute(update(_requests).where(mine).values(result=result, until=self._clock() + seconds))

    def release(self, request_id: bytes, replica: str) -> None:
        """Give up the claim on a request that failed: any replica may try it again."""
        with self._db.write(durable=False) as db:
            db.execute(delete(_requests).where(_requests.c.request_id == request_id, _requests.c.replica == replica))

    def alive(self, replica: str) -> None:
        """Renew this replica's claims, and forget claims and results that are over."""
        now = self._clock()
        mine = (_requests.c.replica == replica) & _requests.c.result.is_(None)
        with self._db.write(durable=False) as db:
            db.execute(update(_requests).where(mine).values(until=now + CLAIM_SECONDS))
            db.execute(delete(_requests).where(_requests.c.until < now))

    # Answers: when a crash of the database forgets one, alice may run that request once more

    def answered(self) -> dict[bytes, float]:
        """Until when each answered request's id is remembered, in seconds since 1970, the earliest first."""
        with self._db.read() as db:
            rows = db.execute(select(_answered).where(_answered.c.until >= self._clock()).order_by(_answered.c.until))
            return {bytes(row.request_id): row.until for row in rows}

    def note_answered(self, until: Mapping[bytes, float]) -> set[bytes]:
        """Remember these ids, each until its time. Returns those that were new. Forgets ids whose time is over."""
        # Sorted: replicas that note the same ids in different orders would wait for one another.
        with self._db.write(durable=False) as db:
            db.execute(delete(_answered).where(_answered.c.until < self._clock()))
            return {i for i, end in sorted(until.items()) if insert_new(db, _answered, {"request_id": i, "until": end})}
