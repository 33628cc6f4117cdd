"""What a party must not forget, and what all its replicas must agree on. It holds no secret.

That is: the revoked tokens, how much of its quota each client has used, which models were uploaded and deleted, which
requests are running or done, and which were answered; and of verified models how their checks went (`standings.py`).
"""

import time
from collections.abc import Callable, Iterable, Mapping

from sqlalchemy import URL, delete, func, select, update

from moiety_party.standings import Standings
from moiety_party.tables import ANSWERED, MODELS, PARTY, REQUESTS, REVOKED, SCHEMA, USAGE
from moiety_service.database import Database, insert_new
from moiety_service.startup import StartRefused
from moiety_shared.problems import Problem, ProblemType

WINDOW_KEPT_SECONDS = 3600.0
"""How long a quota's window is kept after its end, so that a clock that is behind does not begin it once more."""
FRESH_SECONDS = 15.0
"""How long a replica uses what it read. After that it lets nobody in until it has read the database again."""
CLAIM_SECONDS = 15.0
"""How long a request still belongs to the replica that runs it after the replica last said that it is alive."""


class State:
    """The party's database. Every write that must be there after a crash is on the disk before the call returns.

    Every method may raise Problem STATE_UNAVAILABLE.
    """

    def __init__(self, url: URL, role: str, clock: Callable[[], float] = time.time) -> None:
        """Raises StartRefused when the database cannot be opened, or belongs to the other party."""
        self._db = Database(url, SCHEMA)
        self._clock = clock
        self.standings = Standings(self._db, clock)
        with self._db.write() as db:
            insert_new(db, PARTY, {"role": role})
            alone = len(db.execute(select(PARTY)).all()) == 1
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
            models = {row.upload_id: bool(row.deleted) for row in db.execute(select(MODELS))}
            if db.execute(select(func.count()).select_from(REVOKED)).scalar_one() != len(self._revoked):
                self._revoked |= set(db.execute(select(REVOKED.c.token_id)).scalars())
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
                    insert_new(db, REVOKED, {"token_id": token_id})
        self._revoked.update(fresh)

    def reserve(self, owner_key: str, subject: str, window_end: int, rows: int, limit: int, now: float) -> bool:
        """Count `rows` more in this window. Returns False, and counts nothing, if that exceeds `limit`.

        Forgets windows that ended `WINDOW_KEPT_SECONDS` ago.
        """
        mine = (USAGE.c.owner_key == owner_key) & (USAGE.c.subject == subject)
        with self._db.write() as db:
            db.execute(delete(USAGE).where(mine, USAGE.c.window_end <= now - WINDOW_KEPT_SECONDS))
            key = {"owner_key": owner_key, "subject": subject, "window_end": window_end}
            insert_new(db, USAGE, {**key, "rows": 0})
            counted = (
                update(USAGE)
                .where(mine, USAGE.c.window_end == window_end, USAGE.c.rows + rows <= limit)
                .values(rows=USAGE.c.rows + rows)
            )
            return db.execute(counted).rowcount == 1

    def unreserve(self, owner_key: str, subject: str, window_end: int, rows: int) -> None:
        """Take back `rows` that were counted in this window and not used."""
        window = (USAGE.c.owner_key == owner_key) & (USAGE.c.subject == subject) & (USAGE.c.window_end == window_end)
        with self._db.write() as db:
            db.execute(update(USAGE).where(window, USAGE.c.rows >= rows).values(rows=USAGE.c.rows - rows))

    # Models

    def stored(self, upload_id: str) -> bool:
        """Tell the other replicas that a model is in the store. Returns False if it is deleted already."""
        with self._db.write() as db:
            if insert_new(db, MODELS, {"upload_id": upload_id, "deleted": False}):
                return True
            return not db.execute(select(MODELS.c.deleted).where(MODELS.c.upload_id == upload_id)).scalar_one()

    def forget(self, upload_id: str) -> None:
        """Delete a model for all replicas and for good, even if an old store is restored."""
        with self._db.write() as db:
            if not insert_new(db, MODELS, {"upload_id": upload_id, "deleted": True}):
                db.execute(update(MODELS).where(MODELS.c.upload_id == upload_id).values(deleted=True))

    # Requests: when a crash of the database forgets one, it may run again, under other masks

    def claim(self, request_id: bytes, subject: str, digest: bytes, replica: str) -> bytes | bool:
        """Claim a request for this replica.

        Returns True if it is to run the request now, the sealed result if a replica ran it, and False if another one is
        running it: ask again.

        Raises REQUEST_CONFLICT when the id was used by another client or with other content.
        """
        now = self._clock()
        same = REQUESTS.c.request_id == request_id
        with self._db.read() as db:
            row = db.execute(select(REQUESTS).where(same)).one_or_none()
        if row is not None and row.until >= now:
            if (row.subject, bytes(row.digest)) != (subject, digest):
                raise Problem(ProblemType.REQUEST_CONFLICT)
            return bytes(row.result) if row.result is not None else False
        key = {"request_id": request_id, "subject": subject, "digest": digest}
        mine = {**key, "replica": replica, "until": now + CLAIM_SECONDS, "result": None}
        with self._db.write(durable=False) as db:
            if row is None:
                return insert_new(db, REQUESTS, mine)
            return db.execute(update(REQUESTS).where(same, REQUESTS.c.until == row.until).values(mine)).rowcount == 1

    def keep(self, request_id: bytes, replica: str, result: bytes, seconds: float) -> None:
        """Keep the result of a request that this replica ran, for `seconds`."""
        mine = (REQUESTS.c.request_id == request_id) & (REQUESTS.c.replica == replica)
        with self._db.write(durable=False) as db:
            db.execute(update(REQUESTS).where(mine).values(result=result, until=self._clock() + seconds))

    def release(self, request_id: bytes, replica: str) -> None:
        """Give up the claim on a request that failed: any replica may try it again."""
        with self._db.write(durable=False) as db:
            db.execute(delete(REQUESTS).where(REQUESTS.c.request_id == request_id, REQUESTS.c.replica == replica))

    def alive(self, replica: str) -> None:
        """Renew this replica's claims, and forget claims and results that are over."""
        now = self._clock()
        mine = (REQUESTS.c.replica == replica) & REQUESTS.c.result.is_(None)
        with self._db.write(durable=False) as db:
            db.execute(update(REQUESTS).where(mine).values(until=now + CLAIM_SECONDS))
            db.execute(delete(REQUESTS).where(REQUESTS.c.until < now))

    # Answers: when a crash of the database forgets one, alice may run that request once more

    def answered(self) -> dict[bytes, float]:
        """Until when each answered request's id is remembered, in seconds since 1970, the earliest first."""
        with self._db.read() as db:
            rows = db.execute(select(ANSWERED).where(ANSWERED.c.until >= self._clock()).order_by(ANSWERED.c.until))
            return {bytes(row.request_id): row.until for row in rows}

    def note_answered(self, until: Mapping[bytes, float]) -> set[bytes]:
        """Remember these ids, each until its time. Returns those that were new. Forgets ids whose time is over."""
        # Sorted: replicas that note the same ids in different orders would wait for one another.
        with self._db.write(durable=not self.shared) as db:
            db.execute(delete(ANSWERED).where(ANSWERED.c.until < self._clock()))
            return {i for i, end in sorted(until.items()) if insert_new(db, ANSWERED, {"request_id": i, "until": end})}
