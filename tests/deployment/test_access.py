"""Only the right party: tokens, quotas, other identities, versions and keys, through five real processes."""

import json
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from sqlalchemy import make_url

from moiety_client import inputs
from moiety_client.client import Client
from moiety_client.errors import NotAllowed, QuotaExceeded, UnknownModel
from moiety_local.deployment import Deployment
from moiety_shared.messages.access import AccessFile
from moiety_shared.problems import Problem, ProblemType
from tests import databases, days
from tests.databases import PASSWORD, Postgres

Digits = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Every role on a database of PostgreSQL's, where there is one, and the parties' models away from their folders."""
    root = tmp_path_factory.mktemp("guarded")
    extra: dict[str, dict[str, str]] = {role: {} for role in ("alice", "bob", "crypto_provider", "server")}
    if databases.programs() or os.environ.get("CI"):
        server: Postgres = request.getfixturevalue("postgres")
        extra = {role: {"DATABASE_URL": server.text(server.create())} for role in extra}
    for role in ("alice", "bob"):
        extra[role] |= {"POOL_ROWS": "128", "BUNDLE_BYTES": str(1 << 20), "STORE_URL": f"file://{root}/store/{role}"}
    with Deployment(root, extra=extra) as running:
        running.publish()
        yield running


def issue(deployment: Deployment, path: Path, *options: str) -> str:
    """A new access file at `path`; the token's id."""
    return deployment.run("token", "issue", path.stem, "--out", str(path), *options).strip()


def asking(path: Path) -> Client:
    return Client.from_access(path, timeout=20)


def post(deployment: Deployment, body: bytes, access: Path | None) -> httpx.Response:
    token = AccessFile.model_validate_json(access.read_bytes()).token if access else ""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with deployment.http("alice", timeout=20) as alice:
        return alice.post("/v1/predictions", content=body, headers=headers)


def kind(response: httpx.Response) -> ProblemType:
    return Problem.from_document(response.json()).kind


@pytest.mark.parametrize("path", ["/v1/predictions", "/v1/revocations"])
def test_a_strangers_body_is_not_waited_for(guarded: Deployment, path: str) -> None:
    """The header is enough to refuse it: nothing of the body is sent."""
    parts = urlsplit(guarded.url("alice"))
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\nauthorization: Bearer x\r\n\r\n"
    context = ssl.create_default_context(cafile=str(guarded.ca))
    with (
        socket.create_connection((parts.hostname, parts.port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=parts.hostname) as peer,
    ):
        peer.sendall(head.encode())
        assert peer.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


def test_a_token_lets_in_until_it_is_revoked(guarded: Deployment, digits: Digits, tmp_path: Path) -> None:
    path = tmp_path / "clinic.json"
    token_id = issue(guarded, path)
    assert path.stat().st_mode & 0o077 == 0
    with asking(path) as client:
        assert client.predict("mnist", digits[0][:2]).labels.tolist() == [7, 2]
        listed = [json.loads(row) for row in guarded.run("token", "list", "--json").splitlines()]
        assert [row["subject"] for row in listed if row["token_id"] == token_id] == ["clinic"]
        guarded.run("token", "revoke", token_id)
        with pytest.raises(NotAllowed, match="revoked"):
            client.predict("mnist", digits[0][:1])
    for role in ("alice", "bob"):  # a revocation outlives the process
        guarded.stop_role(role)
        guarded.start_role(role)
        guarded.wait(role)
    with asking(path) as client, pytest.raises(NotAllowed, match="revoked"):
        client.predict("mnist", digits[0][:1])
    with guarded.client() as other:
        assert other.predict("mnist", digits[0][:1]).labels.tolist() == [7]


def test_a_token_is_for_what_it_says(guarded: Deployment, digits: Digits, tmp_path: Path) -> None:
    for options in (("--model", "other"), ("--output", "labels"), ("--days", "0")):
        issue(guarded, tmp_path / "narrow.json", *options)
        with asking(tmp_path / "narrow.json") as client, pytest.raises(NotAllowed):
            client.predict("mnist", digits[0][:1])
    access = json.loads((tmp_path / "narrow.json").read_text())
    (tmp_path / "none.json").write_text(json.dumps(access | {"token": ""}))
    with asking(tmp_path / "none.json") as client, pytest.raises(NotAllowed, match="holders of its owner's tokens"):
        client.predict("mnist", digits[0][:1])


def test_a_token_is_of_use_with_its_key_alone(guarded: Deployment, digits: Digits, tmp_path: Path) -> None:
    """A key that the client made, by `moiety keys client`: the owner certifies it, and the access file has none."""
    guarded.run("keys", "client", str(tmp_path / "own.pem"))
    issue(guarded, tmp_path / "own.json", "--key", str(tmp_path / "own.pub"))
    with Client.from_access(tmp_path / "own.json", key=tmp_path / "own.pem", timeout=20) as client:
        assert client.predict("mnist", digits[0][:2]).labels.tolist() == [7, 2]
    with asking(tmp_path / "own.json") as thief, pytest.raises(NotAllowed, match="bound to a key"):
        thief.predict("mnist", digits[0][:1])


def test_a_quota_is_kept_and_says_when_to_come_back(guarded: Deployment, digits: Digits, tmp_path: Path) -> None:
    days.wait_over_midnight()
    issue(guarded, tmp_path / "small.json", "--rows-per-day", "10")
    with asking(tmp_path / "small.json") as client:
        client.predict("mnist", digits[0][:6])
        with pytest.raises(QuotaExceeded) as caught:
            client.predict("mnist", digits[0][:6])
        assert 0 < caught.value.retry_after <= 86401
        client.predict("mnist", digits[0][:4])
        entry = client.model("mnist")
        call = client.sealer(entry).call(inputs.encode(entry, digits[0][:1]))
    answer = post(guarded, call.body, tmp_path / "small.json")
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0


def test_an_answer_is_for_whoever_asked(guarded: Deployment, digits: Digits, tmp_path: Path) -> None:
    """The same request under every other identity, and its result in everybody's hands."""
    issue(guarded, tmp_path / "asker.json")
    issue(guarded, tmp_path / "thief.json")
    with asking(tmp_path / "asker.json") as client:
        entry = client.model("mnist")
        call, thiefs = (client.sealer(entry).call(inputs.encode(entry, digits[0][:2])) for _ in range(2))
    first = post(guarded, call.body, tmp_path / "asker.json")
    assert call.open(first.content).argmax(axis=1).tolist() == [7, 2]
    assert post(guarded, call.body, tmp_path / "asker.json").content == first.content
    assert kind(post(guarded, call.body, tmp_path / "thief.json")) is ProblemType.REQUEST_CONFLICT
    assert kind(post(guarded, call.body, None)) is ProblemType.UNAUTHORIZED
    for role, other in (("server", "alice"), ("alice", "bob"), ("bob", "crypto_provider")):
        credential = (guarded.root / "keys" / role / "present" / other).read_text()
        with guarded.http("alice") as alice:
            headers = {"authorization": f"Bearer {credential}"}
            assert kind(alice.post("/v1/predictions", content=call.body, headers=headers)) is ProblemType.UNAUTHORIZED
    with pytest.raises(Exception, match="does not belong to this request"):
        thiefs.open(first.content)


@pytest.mark.long
def test_versions_side_by_side_rolled_back_and_wiped(guarded: Deployment, digits: Digits) -> None:
    guarded.publish("--name", "two")
    guarded.publish("--name", "two", "--no-activate")
    assert guarded.run("versions", "two").splitlines() == ["1 active", "2"]
    with guarded.client() as client:
        assert client.model("two").version == 1
        guarded.run("activate", "two", "2")
        second = client.model("two", refresh=True)
        assert second.version == 2 and client.predict("two", digits[0][:2]).labels.tolist() == [7, 2]
        guarded.run("activate", "two", "1")
        assert client.model("two", refresh=True).version == 1
        stored = [guarded.root / "store" / role / "models" / second.upload_id for role in ("alice", "bob")]
        assert all(folder.is_dir() for folder in stored)
        guarded.run("withdraw", "two", "2")
        assert not any(folder.exists() for folder in stored)
        call = client.sealer(second).call(inputs.encode(second, digits[0][:1]))
        assert kind(post(guarded, call.body, guarded.access_file)) is ProblemType.UNKNOWN_MODEL
        assert client.predict("two", digits[0][:2]).labels.tolist() == [7, 2]
        guarded.run("withdraw", "two", "1")
        with pytest.raises(UnknownModel):
            client.model("two", refresh=True)


def test_sealing_keys_are_replaced_while_all_goes_on(guarded: Deployment, digits: Digits) -> None:
    with guarded.client() as client:
        old = client.model("mnist")
        for role in ("alice", "bob"):
            guarded.run("keys", "rotate", str(guarded.root / "keys" / role), "--keep", "1")
        assert client.predict("mnist", digits[0][:1]).labels.tolist() == [7], "the old keys still open"
        assert "mnist 1" in guarded.run("refresh").splitlines()
        new = client.model("mnist", refresh=True)
        assert all(a.sealing_key != b.sealing_key for a, b in zip(old.parties, new.parties, strict=True))
        assert client.predict("mnist", digits[0][:1]).labels.tolist() == [7]
        for role in ("alice", "bob"):  # at once: whoever has the entry from before must read it again
            guarded.run("keys", "rotate", str(guarded.root / "keys" / role), "--keep", "0")
        guarded.run("refresh")
        assert client.predict("mnist", digits[0][:1]).labels.tolist() == [7]


def test_an_open_model_is_for_everybody(guarded: Deployment, digits: Digits, tmp_path: Path) -> None:
    guarded.publish("--name", "public", "--open")
    access = json.loads(guarded.access_file.read_text())
    (tmp_path / "anybody.json").write_text(json.dumps(access | {"token": ""}))
    with asking(tmp_path / "anybody.json") as client:
        assert client.predict("public", digits[0][:1]).labels.tolist() == [7]


@pytest.mark.parametrize("role", ["alice", "bob", "crypto_provider", "server"])
def test_services_speak_tls_1_3_only(guarded: Deployment, role: str) -> None:
    old = ssl.create_default_context(cafile=str(guarded.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with httpx.Client(verify=old) as client, pytest.raises(httpx.ConnectError):
        client.get(f"{guarded.url(role)}/health/live")
    with httpx.Client() as stranger, pytest.raises(httpx.ConnectError, match="certificate"):
        stranger.get(f"{guarded.url(role)}/health/live")
    with pytest.raises(httpx.HTTPError):
        httpx.get(guarded.url(role).replace("https", "http") + "/health/live")


def test_the_audit_log_says_who_and_how_much(guarded: Deployment) -> None:
    lines = [json.loads(line) for line in (guarded.root / "alice" / "audit.jsonl").read_text().splitlines()]
    asked = [line for line in lines if line["event"] == "prediction"]
    assert {"small", "asker", "-"} <= {line["subject"] for line in asked}
    assert {"ok", "QUOTA_EXCEEDED", "REQUEST_CONFLICT"} <= {line["outcome"] for line in asked}
    known = {"time", "event", "subject", "model", "upload", "rows", "outcome", "milliseconds"}
    assert all(set(line) <= known for line in lines)


def test_databases_hold_no_secret_and_their_password_is_nowhere(
    guarded: Deployment, digits: Digits, postgres: Postgres, tmp_path: Path
) -> None:
    """All that is in them, as pg_dump writes it, and every file of every role, after predictions and an upload."""
    with guarded.client() as client:
        client.predict("mnist", digits[0][:1])
        entry = client.model("mnist")
        call = client.sealer(entry).call(inputs.encode(entry, digits[0][:1]))
    assert post(guarded, call.body, guarded.access_file).is_success
    keys = guarded.root / "keys"
    private = [p.read_bytes() for p in keys.rglob("*") if p.is_file() and {"present", "sealing"} & set(p.parts)]
    token = json.loads(guarded.access_file.read_text())["token"].encode()
    raw = [call.bob_seed, *call._keys, digits[0][0, 14].tobytes()]
    markers = [PASSWORD.encode(), token, *private, *(key.read_bytes() for key in keys.rglob("storage.key")), *raw]
    texts = markers + [marker.hex().encode() for marker in markers]
    dumped = []
    for role, settings in guarded.extra.items():
        name = str(make_url(settings["DATABASE_URL"]).database)
        postgres.run("pg_dump", "--file", str(tmp_path / role), name)
        dumped.append((tmp_path / role).read_bytes())
    assert entry.upload_id.encode() in dumped[0] and b"mnist" in dumped[3], "they were really used"
    assert not list(guarded.root.glob("*/*.sqlite")) and not list((guarded.root / "alice").glob("models"))
    assert len(list(guarded.root.glob("store/*/models/*/model.key"))) >= 2
    files = [p for p in guarded.root.rglob("*") if p.is_file() and keys not in p.parents and p != guarded.access_file]
    for content in (*dumped, *(path.read_bytes() for path in files)):
        assert not [text for text in texts if text in content]
    assert not [p for p in (guarded.root / "store").rglob("*") if p.stat().st_mode & 0o077]
