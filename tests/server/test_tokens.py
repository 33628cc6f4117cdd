"""The owner's record of tokens."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from sqlalchemy import URL

from moiety_server import tokens
from moiety_server.owner import Owner
from moiety_server.records import SCHEMA
from moiety_server.settings import ServerSettings
from moiety_server.tokens import Issued, new_grant
from moiety_service.database import Database
from moiety_service.security.identity import Identity

DAY = 86400


@pytest.fixture
def db(database: URL) -> Iterator[Database]:
    with closing(Database(database, SCHEMA)) as made:
        yield made


def issue(issued: Issued, days: float) -> str:
    grant = new_grant("clinic", models=("*",), outputs=("labels",), days=days, rows_per_day=None)
    issued.issue(grant, Ed25519PrivateKey.generate())
    return grant.token_id


@pytest.mark.parametrize(
    "wrong", [{"days": 1e300}, {"days": float("inf")}, {"days": float("nan")}, {"rows_per_day": 10**12 + 1}]
)
def test_what_a_token_says_is_a_number_that_everything_can_hold(wrong: dict[str, float]) -> None:
    good: dict[str, float | None] = {"days": 36_500, "rows_per_day": 10**12}
    new_grant("clinic", models=("*",), outputs=("labels",), **good)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        new_grant("clinic", models=("*",), outputs=("labels",), **(good | wrong))  # type: ignore[arg-type]


def test_parties_are_not_told_of_tokens_that_are_long_expired(db: Database) -> None:
    issued = Issued(db)
    short, long = issue(issued, 1), issue(issued, 30)
    unknown = "ab" * 16  # issued before this record began: when it expires nobody knows
    issued.revoke([short, long, unknown])
    issued.revoke([long])
    assert issued.revoked() == [short, long, unknown]
    now = time.time()
    assert list(issued.to_refuse(now)) == [[short, long, unknown]]
    assert list(issued.to_refuse(now + 1.5 * DAY)) == [[short, long, unknown]], "their clocks may be behind"
    assert list(issued.to_refuse(now + 2.5 * DAY)) == [[long, unknown]]
    assert list(Issued(db).to_refuse(now + 40 * DAY)) == [[unknown]]


def test_both_parties_are_told(
    tmp_path: Path, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(Owner, "call", lambda _owner, party, *what, json: told.append((party, *what, json)))
    with closing(Owner(ServerSettings(data_dir=tmp_path), identities["server"])) as owner:
        owner.revoke(["ab" * 16])
    message = ("PUT", "/v1/revocations", {"token_ids": ["ab" * 16]})
    assert told == [(0, *message), (1, *message)]


def test_no_message_is_larger_than_parties_take(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_REVOKED", 2)
    issued = Issued(db)
    ids = [f"{number:032x}" for number in range(5)]
    issued.revoke(ids)
    assert list(issued.to_refuse(0)) == [ids[:2], ids[2:4], ids[4:]]
