"""How the checks of verified runs went, by upload, and which replica's turn it is to run one: what a party's database
says, to all replicas alike."""

import threading
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from sqlalchemy import Connection, Row, Select, bindparam, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from moiety_party.tables import STANDINGS
from moiety_service.database import Database, insert_new

Check = Literal["good", "open", "ended"]
"""Of an upload: all checks passed; one has no verdict yet; one failed, or will have none."""
TURN_SECONDS = 15.0
"""How long a turn belongs to the replica that has it after that last said so."""
WANTED_SECONDS = 1.0
"""How long a replica that asked for a turn goes before the one that had the last."""


class Standings:
    """Every method may raise Problem STATE_UNAVAILABLE."""

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db, self._clock = db, clock
        self._writing, self._kept = threading.Lock(), dict[str, Row[Any]]()

    def of(self, upload_id: str, replica: str) -> tuple[str, Check]:
        """The id of an upload's key, as its owner named it, and how its checks went.

        A check that is open counts as failed, for good, once its time is over: whoever ran it has ended, or has given
        it up. Where `replica` is the party's only process, all but its own are over.
        """
        row = self._row(upload_id)
        if row is None:
            return upload_id, "good"
        late = row.until < self._clock() if self._db.shared else row.holder != replica
        if row.state != "open" or not late:
            return row.key_id, row.state
        same = (STANDINGS.c.upload_id == upload_id) & (STANDINGS.c.state == "open") & (STANDINGS.c.until == row.until)
        over = update(STANDINGS).where(same).values(state="ended", until=0.0).returning(STANDINGS)
        ended = self._changed(lambda db: db.execute(over).one_or_none())
        if not ended:  # somebody else was quicker
            self._kept.pop(upload_id, None)
            return self.of(upload_id, replica)
        return row.key_id, "ended"

    def _row(self, upload_id: str) -> Row[Any] | None:
        """What the database says of an upload. If no other process writes to it, it is read once: a run asks four or
        five times, and what is written is kept."""
        row = self._kept.get(upload_id)
        if row is None:
            with self._db.read() as db:
                row = db.execute(_read(), {"upload": upload_id}).one_or_none()
            if row is not None and not self._db.shared:
                row = self._kept.setdefault(upload_id, row)  # it may have been written meanwhile
        return row

    def _changed(self, change: Callable[[Connection], Row[Any] | None], *, durable: bool = True) -> bool:
        """Change an upload's row, and keep what `change` returns: the row, or None where it changed nothing."""
        if self._db.shared:
            with self._db.write(durable=durable) as db:
                return change(db) is not None
        with self._writing:  # so that the last one to write is the last one to keep
            with self._db.write(durable=durable) as db:
                row = change(db)
            if row is not None:
                self._kept[row.upload_id] = row
        return row is not None

    def toss(self, upload_id: str, key_id: str, replica: str, seconds: float) -> bool:
        """Say that a run under this key shows its coins, and will have its verdict in so many seconds. Returns False
        unless all checks before it passed."""
        return self._move(upload_id, key_id, "good", "open", holder=replica, until=self._clock() + seconds)

    def resolve(self, upload_id: str, key_id: str) -> bool:
        """Say that the open check passed. Returns False if it counts as failed already.

        A crash may lose that: then the check is open, and counts as failed. So nobody waits here for the disk.
        """
        until = self._clock() + TURN_SECONDS
        return self._move(upload_id, key_id, "open", "good", durable=False, until=until)

    def end(self, upload_id: str, key_id: str) -> None:
        """Say that a check failed."""
        for state in ("good", "open"):
            self._move(upload_id, key_id, state, "ended", until=0.0)

    def _move(
        self, upload_id: str, key_id: str, before: str, after: Check, *, durable: bool = True, **more: object
    ) -> bool:
        moved, new = _moved("state", *more), {f"new {name}": value for name, value in more.items()}
        values = {"upload": upload_id, "key": key_id, "before": before, "new state": after} | new

        def move(db: Connection) -> Row[Any] | None:
            row = db.execute(moved, values).one_or_none()
            if row is None and insert_new(db, STANDINGS, _fresh(upload_id)):
                row = db.execute(moved, values).one_or_none()
            return row

        return self._changed(move, durable=durable)

    def rekey(self, upload_id: str, key_id: str) -> None:
        """The owner gave an upload another key, under which no check failed. Changes nothing when it has that key."""
        other = (STANDINGS.c.upload_id == upload_id) & (STANDINGS.c.key_id != key_id)
        new = update(STANDINGS).where(other).values(key_id=key_id, state="good", until=0.0).returning(STANDINGS)

        def rekey(db: Connection) -> Row[Any] | None:
            insert_new(db, STANDINGS, _fresh(upload_id))
            return db.execute(new).one_or_none()

        self._changed(rekey)

    # Turns. A crash of the database may forget them: coins are shown only after a `toss`

    def take(self, upload_id: str, replica: str) -> bool:
        """Take a turn. Returns False while another replica has it, or if this one had the last and another waits; and
        while a check is open, which would have more time else."""
        now, same = self._clock(), STANDINGS.c.upload_id == upload_id
        mine = STANDINGS.c.holder == replica
        free = (STANDINGS.c.state != "open") & (STANDINGS.c.until < now) & (~mine | (STANDINGS.c.wanted < now))
        taken = update(STANDINGS).where(same, free).values(holder=replica, until=now + TURN_SECONDS, wanted=0.0)
        with self._db.write(durable=False) as db:
            insert_new(db, STANDINGS, _fresh(upload_id))
            if db.execute(taken).rowcount == 1:
                return True
            db.execute(update(STANDINGS).where(same, ~mine).values(wanted=now + WANTED_SECONDS))
            return False

    def renew(self, upload_id: str, replica: str) -> None:
        """Say that this replica's run goes on. A check that is open keeps its time."""
        self._turn(upload_id, replica, self._clock() + TURN_SECONDS)

    def release(self, upload_id: str, replica: str) -> None:
        """End this replica's turn."""
        self._turn(upload_id, replica, 0.0)

    def _turn(self, upload_id: str, replica: str, until: float) -> None:
        mine = (STANDINGS.c.upload_id == upload_id) & (STANDINGS.c.holder == replica) & (STANDINGS.c.state != "open")
        with self._db.write(durable=False) as db:
            db.execute(update(STANDINGS).where(mine).values(until=until))


# These are made once: to make one takes as long as to execute it, and a run does so again and again.


@cache
def _read() -> Select[Any]:
    """The row of an `upload`."""
    return select(STANDINGS).where(STANDINGS.c.upload_id == bindparam("upload"))


@cache
def _moved(*columns: str) -> ReturningUpdate[Any]:
    """What gives columns of an `upload` their `new NAME`, if it is under a `key` and in the state `before`. It returns
    the row."""
    given = {"upload_id": "upload", "key_id": "key", "state": "before"}
    same = (STANDINGS.c[column] == bindparam(name) for column, name in given.items())
    return (
        update(STANDINGS).where(*same).values({name: bindparam(f"new {name}") for name in columns}).returning(STANDINGS)
    )


def _fresh(upload_id: str) -> dict[str, object]:
    key = {"upload_id": upload_id, "key_id": upload_id}
    return {**key, "state": "good", "holder": "", "until": 0.0, "wanted": 0.0}
