"""What a party must not forget: revoked tokens, and how much of its quota each client has used. Never a secret."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy import BigInteger, Column, MetaData, Table, Text, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from moiety_shared.service.database import connect

_metadata = MetaData()
_revoked = Table(
    "revoked_tokens",
    _metadata,
    Column("token_id", Text, primary_key=True),
)
_usage = Table(
    "usage",
    _metadata,
    Column("owner_key", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("window_end", BigInteger, primary_key=True),  # seconds since 1970
    Column("rows", BigInteger, nullable=False),
)


class State:
    """The party's database. Every write is on the disk before the call returns."""

    def __init__(self, path: Path) -> None:
        self._engine = connect(path)
        _metadata.create_all(self._engine)
        with self._engine.connect() as db:
            self._revoked = set(db.execute(select(_revoked.c.token_id)).scalars())

    def close(self) -> None:
        self._engine.dispose()

    def is_revoked(self, token_id: str) -> bool:
        return token_id in self._revoked

    def revoke(self, token_ids: Iterable[str]) -> None:
        """These tokens let nobody in any more."""
        fresh = sorted(set(token_ids) - self._revoked)
        for token_id in fresh:
            with contextlib.suppress(IntegrityError), self._engine.begin() as db:
                db.execute(insert(_revoked).values(token_id=token_id))
        self._revoked.update(fresh)

    def reserve(self, owner_key: str, subject: str, window_end: int, rows: int, limit: int, now: float) -> bool:
        """Count `rows` more in this window, if that stays within `limit`. Windows that are over are forgotten."""
        mine = (_usage.c.owner_key == owner_key) & (_usage.c.subject == subject)
        key = {"owner_key": owner_key, "subject": subject, "window_end": window_end}
        with self._engine.begin() as db:
            db.execute(delete(_usage).where(mine, _usage.c.window_end <= now))
            with contextlib.suppress(IntegrityError), db.begin_nested():
                db.execute(insert(_usage).values(**key, rows=0))
            counted = (
                update(_usage)
                .where(mine, _usage.c.window_end == window_end, _usage.c.rows + rows <= limit)
                .values(rows=_usage.c.rows + rows)
            )
            return bool(db.execute(counted).rowcount == 1)
