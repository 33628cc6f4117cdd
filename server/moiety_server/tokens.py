"""Clients' tokens, as their owner issues them. The owner records who got which token, never the token itself."""

import math
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import insert, select

from moiety_server.records import grants, revoked
from moiety_service.database import Database, insert_new
from moiety_shared.crypto import tokens
from moiety_shared.crypto.possession import thumbprint
from moiety_shared.crypto.tokens import MAX_EXPIRES, MAX_REVOKED, Grant, OutputKind, Quota

_DAY = 86400


def new_grant(
    subject: str,
    *,
    models: Sequence[str],
    outputs: Sequence[OutputKind],
    days: float,
    rows_per_day: int | None,
    key: Ed25519PublicKey | None = None,
) -> Grant:
    """Make the grant of a new token, bound to the holder of a key. Without a key, anybody who has the token can use it.

    Raises pydantic's ValidationError.
    """
    return Grant(
        token_id=secrets.token_hex(16),
        subject=subject,
        models=tuple(models),
        outputs=tuple(outputs),
        expires=int(time.time() + days * _DAY) if math.isfinite(days * _DAY) else MAX_EXPIRES + 1,
        quota=Quota(rows=rows_per_day, seconds=_DAY) if rows_per_day else None,
        key=thumbprint(key.public_bytes_raw()) if key is not None else None,
    )


class Issued:
    """The owner's record of tokens. Nothing is ever deleted from it."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def issue(self, grant: Grant, key: Ed25519PrivateKey) -> str:
        """Put the grant on record, then return the signed token. The token is returned only once."""
        with self._db.write() as db:
            db.execute(insert(grants).values(granted=grant.model_dump_json()))
        return tokens.issue(grant, key)

    def grants(self) -> list[Grant]:
        """Return all grants, in the order in which they were issued."""
        with self._db.read() as db:
            found = db.execute(select(grants.c.granted).order_by(grants.c.number)).scalars().all()
        return [Grant.model_validate_json(granted) for granted in found]

    def revoke(self, token_ids: Iterable[str]) -> None:
        with self._db.write() as db:
            for token_id in token_ids:
                insert_new(db, revoked, {"token_id": token_id})

    def revoked(self) -> list[str]:
        """Return the ids of revoked tokens, in the order in which they were revoked."""
        with self._db.read() as db:
            return list(db.execute(select(revoked.c.token_id).order_by(revoked.c.number)).scalars())

    def to_refuse(self, now: float) -> Iterator[list[str]]:
        """Yield the tokens that parties must be told to refuse, in lists that each fit one message. It leaves out
        tokens that expired more than a day ago: parties refuse those anyway, even if their clocks are a day behind."""
        over = {grant.token_id for grant in self.grants() if grant.expires + _DAY < now}
        left = [token_id for token_id in self.revoked() if token_id not in over]
        for start in range(0, len(left), MAX_REVOKED):
            yield left[start : start + MAX_REVOKED]
