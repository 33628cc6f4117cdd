"""The owner's record of tokens."""

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_server import tokens
from moiety_server.owner import Owner
from moiety_server.settings import ServerSettings
from moiety_server.tokens import Issued, new_grant
from moiety_shared.service.identity import Identity

DAY = 86400


def issue(issued: Issued, days: float) -> str:
    grant = new_grant("clinic", models=("*",), outputs=("labels",), days=days, rows_per_day=None)
    issued.issue(grant, Ed25519PrivateKey.generate())
    return grant.token_id


def test_parties_are_not_told_of_tokens_that_are_long_expired(tmp_path: Path) -> None:
    issued = Issued(tmp_path)
    short, long = issue(issued, 1), issue(issued, 30)
    unknown = "ab" * 16  # issued before this record began: when it expires nobody knows
    issued.revoke([short, long, unknown])
    issued.revoke([long])
    assert issued.revoked() == [short, long, unknown]
    now = time.time()
    assert list(issued.to_refuse(now)) == [[short, long, unknown]]
    assert list(issued.to_refuse(now + 1.5 * DAY)) == [[short, long, unknown]], "their clocks may be behind"
    assert list(issued.to_refuse(now + 2.5 * DAY)) == [[long, unknown]]
    assert list(Issued(tmp_path).to_refuse(now + 40 * DAY)) == [[unknown]]


def test_both_parties_are_told(
    tmp_path: Path, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    monkeypatch.setattr(Owner, "call", lambda _owner, party, *what, json: told.append((party, *what, json)))
    Owner(ServerSettings(data_dir=tmp_path), identities["server"]).revoke(["ab" * 16])
    message = ("PUT", "/v1/revocations", {"token_ids": ["ab" * 16]})
    assert told == [(0, *message), (1, *message)]


def test_no_message_is_larger_than_parties_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_REVOKED", 2)
    issued = Issued(tmp_path)
    ids = [f"{number:032x}" for number in range(5)]
    issued.revoke(ids)
    assert list(issued.to_refuse(0)) == [ids[:2], ids[2:4], ids[4:]]
