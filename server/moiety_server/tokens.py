"""Clients' tokens, as their owner issues them: a record of who got which, never the token itself."""

import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_shared import tokens
from moiety_shared.tokens import MAX_REVOKED, Grant, OutputKind, Quota

_DAY = 86400


def new_grant(
    subject: str, *, models: Sequence[str], outputs: Sequence[OutputKind], days: float, rows_per_day: int | None
) -> Grant:
    """What a new token will allow. Raises pydantic's ValidationError."""
    return Grant(
        token_id=secrets.token_hex(16),
        subject=subject,
        models=tuple(models),
        outputs=tuple(outputs),
        expires=int(time.time() + days * _DAY),
        quota=Quota(rows=rows_per_day, seconds=_DAY) if rows_per_day else None,
    )


class Issued:
    """The owner's record, two files of lines that are only added to."""

    def __init__(self, folder: Path) -> None:
        self._grants, self._revoked = folder / "tokens.jsonl", folder / "revoked"

    def issue(self, grant: Grant, key: Ed25519PrivateKey) -> str:
        """The signed token, once; it is on record before it is returned."""
        _append(self._grants, [grant.model_dump_json()])
        return tokens.issue(grant, key)

    def grants(self) -> list[Grant]:
        """In the order in which they were issued."""
        return [Grant.model_validate(json.loads(line)) for line in _lines(self._grants)]

    def revoke(self, token_ids: Iterable[str]) -> None:
        known = set(self.revoked())
        _append(self._revoked, [i for i in token_ids if i not in known])

    def revoked(self) -> list[str]:
        return _lines(self._revoked)

    def to_refuse(self, now: float) -> Iterator[list[str]]:
        """What parties must be told to refuse, in lists that each fit one message. What is long expired they refuse
        anyway: their clocks may be a day behind."""
        over = {grant.token_id for grant in self.grants() if grant.expires + _DAY < now}
        left = [token_id for token_id in self.revoked() if token_id not in over]
        for start in range(0, len(left), MAX_REVOKED):
            yield left[start : start + MAX_REVOKED]


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _append(path: Path, lines: Iterable[str]) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
