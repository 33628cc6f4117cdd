"""Each thing that may be wrong, made wrong, found, and said how to fix."""

import json
import shutil
import socket
from collections import namedtuple
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_service.cli import diagnosis, doctor
from moiety_service.cli.diagnosis import Finding, Service, machine, reach
from moiety_service.cli.terminal import Exit
from moiety_service.http import clients
from moiety_service.http.app import create_app
from moiety_service.security import keys
from moiety_service.settings import RoleSettings, ServiceSettings
from moiety_shared.crypto import tokens
from moiety_shared.crypto.possession import private_pem, thumbprint
from moiety_shared.crypto.signing import key_text
from moiety_shared.crypto.tokens import Grant
from moiety_shared.messages.access import AccessFile
from moiety_shared.problems import Problem, ProblemType
from tests.asgi import listening
from tests.cli.conftest import Run

Found = dict[tuple[str, str], dict[str, str]]


@pytest.fixture
def found(run: Run) -> Callable[..., Found]:
    """What the doctor says, by role and check; and that it ends as it should."""

    def asking(*roles: str) -> Found:
        done = run("doctor", *roles, "--json")
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        wrong = any(row["status"] == "wrong" for row in rows)
        assert done.exit_code == (Exit.FAILED if wrong else Exit.OK)
        assert bool(done.stderr) == wrong
        assert all(row["fix"] or row["status"] == "ok" for row in rows), "how to fix it"
        return {(row["role"], row["check"]): row for row in rows}

    return asking


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The secrets folder of an owner on a machine of its own, whose settings name addresses where nobody is."""
    keys.init(tmp_path / "all", {})
    folder = tmp_path / "keys" / "server"
    shutil.copytree(tmp_path / "all" / "server", folder)
    for name in ("ALICE_URL", "BOB_URL", "URL"):
        monkeypatch.setenv(f"MOIETY_SERVER_{name}", "https://127.0.0.1:9")
    monkeypatch.setenv("MOIETY_SERVER_KEYS_DIR", str(tmp_path / "keys"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MOIETY_SERVER_PORT", str(free.getsockname()[1]))
    return folder


# The machine


def test_python_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.status for finding in machine({"client", "party"})] == ["ok", "ok"]
    needs = ["httpx>=0.28", "numpy>=99", "nothing-like-it>=1", 'nobody-wants-it>=1; extra == "syft"']
    monkeypatch.setattr(metadata, "requires", lambda _: needs)
    monkeypatch.setattr(diagnosis.sys, "version_info", (3, 9, 1))
    python, packages = machine({"client"})
    assert python.status == "wrong" and "3.9.1" in python.found and python.fix
    assert packages.status == "wrong" and "nothing-like-it is missing" in packages.found and ">=99" in packages.found
    assert "httpx" not in packages.found and "nobody" not in packages.found and "moiety[client]" in packages.fix


def test_where_nobody_is_it_says_how_to_begin(found: Callable[..., Found]) -> None:
    assert "MOIETY_CLIENT_ACCESS_FILE" in found()["", "roles"]["fix"]


# A role


def test_a_role_that_is_well_but_alone(owner: Path, found: Callable[..., Found]) -> None:
    checks = found()
    assert {key[0] for key in checks} == {"", "server"}
    well = {check for (role, check), row in checks.items() if row["status"] == "ok"}
    assert {"keys", "certificate", "disk", "port", "python", "packages"} <= well
    for name, start in (("alice", "moiety party alice"), ("bob", "moiety party bob"), ("catalogue", "moiety server")):
        row = checks["server", f"reach {name}"]
        assert row["status"] == "wrong" and f"`{start}`" in row["fix"] and "MOIETY_SERVER_" in row["fix"]


def test_settings(owner: Path, found: Callable[..., Found], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOIETY_SERVER_ALICE_URL", "http://alice")
    row = found()["server", "settings"]
    assert row["status"] == "wrong" and "https://" in row["found"]


def test_keys(owner: Path, found: Callable[..., Found]) -> None:
    (owner / "storage.key").chmod(0o644)
    row = found()["server", "keys"]
    assert row["status"] == "wrong" and "chmod -R go-rwx" in row["fix"]
    (owner / "storage.key").unlink()
    row = found()["server", "keys"]
    assert row["status"] == "wrong" and "moiety keys init" in row["fix"]
    shutil.rmtree(owner)
    assert found("server")["server", "keys"]["status"] == "wrong"


def test_the_providers_key(owner: Path, found: Callable[..., Found]) -> None:
    assert found()["server", "provider.pub"]["status"] == "ok"
    (owner / "provider.pub").write_text("no key")
    row = found()["server", "provider.pub"]
    assert row["status"] == "wrong" and "is not a sealing key" in row["found"]
    (owner / "provider.pub").unlink()
    row = found()["server", "provider.pub"]
    assert row["status"] == "wrong" and "copy sealing.pub from the crypto provider's secrets folder" in row["fix"]


def certificates(days: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(keys, "_CERTIFICATE_DAYS", days)
    root = folder / f"made-{days}"
    keys.init(root, {})
    return (root / "server" / "tls" / "cert.pem").read_bytes()


def test_certificates(owner: Path, found: Callable[..., Found], tmp_path: Path, monkeypatch: Any) -> None:
    for days, status in ((-0.01, "wrong"), (10, "warning"), (90, "ok")):
        pem = certificates(days, tmp_path, monkeypatch)
        finding = diagnosis.certificate("server", "cert.pem", pem, "renew")
        assert finding.status == status and bool(finding.fix) == (status != "ok")
    assert diagnosis.certificate("server", "cert.pem", b"nothing", "renew").status == "wrong"
    (owner / "tls" / "ca.pem").unlink()
    (owner / "tls" / "cert.pem").write_bytes(certificates(-0.02, tmp_path, monkeypatch))
    row = found()["server", "certificate"]
    assert row["status"] == "wrong" and "moiety keys renew server" in row["fix"]


def test_disk(owner: Path, found: Callable[..., Found], monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    for free, status in ((1 << 40, "ok"), (1 << 30, "warning"), (1 << 20, "wrong")):
        monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _, free=free: usage(1 << 41, 0, free))
        assert found()["server", "disk"]["status"] == status


def test_port(owner: Path, found: Callable[..., Found], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is free" in found()["server", "port"]["found"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0)
        monkeypatch.setattr(diagnosis, "_SECONDS", 0.3)
        monkeypatch.setenv("MOIETY_SERVER_PORT", str(other.getsockname()[1]))
        row = found()["server", "port"]
        assert row["status"] == "wrong" and "set another PORT" in row["fix"]
    (server,) = [patient for patient in doctor._patients() if patient.role == "server"]
    for title, status in (("model owner", "ok"), ("party bob", "wrong")):
        settings = RoleSettings(keys_dir=owner.parent)
        tls = diagnosis.Identity.load(owner, "server").server_context()
        with listening(create_app(title), settings, tls) as port:
            monkeypatch.setenv("MOIETY_SERVER_PORT", str(port))
            finding = next(one for one in diagnosis.examine(server) if one.check == "port")
            assert finding.status == status and "runs" in finding.found


def test_a_port_of_another_address(owner: Path, found: Callable[..., Found], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOIETY_SERVER_HOST", "203.0.113.1")  # of no machine (RFC 5737)
    row = found()["server", "port"]
    assert row["status"] == "wrong" and "203.0.113.1" in row["found"] and "set HOST" in row["fix"]


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("10.1.2.3", "10.1.2.3"),
        ("fd00::1", "[fd00::1]"),
    ],
)
def test_a_role_is_asked_where_it_listens(host: str, asked: str) -> None:
    assert diagnosis._own_url(ServiceSettings(host=host, port=7701)) == f"http://{asked}:7701"


def test_of_all_roles_the_owner_is_looked_at(found: Callable[..., Found], monkeypatch: Any, tmp_path: Path) -> None:
    keys.init(tmp_path / ".moiety" / "keys", {})
    assert {role for role, _ in found()} == {"", "server"}
    for role, called in (
        ("alice", {"bob", "crypto_provider"}),
        ("bob", {"crypto_provider"}),
        ("crypto_provider", set()),
    ):
        checks = found(role)
        assert {check.removeprefix("reach ") for _, check in checks if check.startswith("reach")} == called
        assert checks[role, "keys"]["status"] == "ok"


# Services, as a role sees them


def looking(
    monkeypatch: pytest.MonkeyPatch,
    *,
    title: str = "moiety party bob",
    version: str = "1",
    ready: httpx.Response | None = None,
    date: str | None = "",
    content: str | None = None,
) -> dict[str, Finding]:
    """What is found of bob, who answers like this."""
    headers = {} if date is None else {"date": date or format_datetime(datetime.now(UTC), usegmt=True)}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/health/ready":
            return ready or httpx.Response(200, json={})
        if content is not None:
            return httpx.Response(200, text=content, headers=headers)
        return httpx.Response(200, json={"info": {"title": title, "version": version}}, headers=headers)

    def client(base_url: str, **_: Any) -> httpx.Client:
        return httpx.Client(base_url=base_url, transport=httpx.MockTransport(answer))

    monkeypatch.setattr(clients, "client", client)
    bob = Service("bob", "moiety party bob", "https://b", None, "MOIETY_PARTY_PEER_URL", "moiety party bob")
    return {finding.check: finding for finding in reach("alice", bob)}


def test_a_service_that_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [finding.status for finding in looking(monkeypatch).values()] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("how", "status", "said", "fix"),
    [
        ({"title": "moiety party alice"}, "wrong", "moiety party alice answers", "MOIETY_PARTY_PEER_URL"),
        ({"version": "2"}, "wrong", "speaks version 2", "same version of moiety"),
        ({"content": "<html>"}, "wrong", "is not moiety", "MOIETY_PARTY_PEER_URL"),
        ({"content": '{"info": [1]}'}, "wrong", "is not moiety", "MOIETY_PARTY_PEER_URL"),
        ({"content": "[" * 100_000}, "wrong", "is not moiety", "MOIETY_PARTY_PEER_URL"),
        ({"ready": httpx.Response(503, text="no")}, "warning", "not ready: 503", "log"),
        ({"ready": httpx.Response(503, json=["no"])}, "warning", "not ready: 503", "log"),
        ({"ready": httpx.Response(503, json={"title": 7, "hint": [8]})}, "warning", "not ready: 7", "8"),
    ],
)
def test_a_service_that_is_not(monkeypatch: Any, how: dict, status: str, said: str, fix: str) -> None:
    finding = looking(monkeypatch, **how)["reach bob"]
    assert finding.status == status and said in finding.found and fix in finding.fix


def test_what_a_service_says_of_itself_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(ProblemType.PROVIDER_UNAVAILABLE)
    finding = looking(monkeypatch, ready=httpx.Response(503, json=problem.document()))["reach bob"]
    assert finding.status == "warning" and "crypto provider cannot be reached" in finding.found
    assert finding.fix == problem.kind.hint


@pytest.mark.parametrize(("seconds", "said"), [(0, "same"), (90, "behind"), (-90, "ahead of"), (5, "same")])
def test_clocks(monkeypatch: pytest.MonkeyPatch, seconds: int, said: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    finding = looking(monkeypatch, date=date)["clock of bob"]
    assert said in finding.found and finding.status == ("ok" if said == "same" else "wrong")
    assert ("NTP" in finding.fix) == (said != "same")
    for none in (None, "yesterday"):
        assert looking(monkeypatch, date=none)["clock of bob"].status == "warning"


def test_a_certificate_of_another_ca(owner: Path, tmp_path: Path) -> None:
    keys.init(tmp_path / "other", {})
    tls = diagnosis.Identity.load(owner, "server").server_context()
    with listening(create_app("party bob"), RoleSettings(keys_dir=owner.parent), tls) as port:
        ca = tmp_path / "other" / "ca" / "ca.pem"
        bob = Service("bob", "moiety party bob", f"https://127.0.0.1:{port}", ca, "X", "moiety party bob")
        (finding,) = reach("alice", bob)
        assert finding.status == "wrong" and "certificate" in finding.found and "keys renew bob" in finding.fix


# A client


def test_a_clients_access_file(found: Callable[..., Found], monkeypatch: Any, tmp_path: Path) -> None:
    path, key = tmp_path / "access.json", Ed25519PrivateKey.generate()
    monkeypatch.setenv("MOIETY_CLIENT_ACCESS_FILE", str(path))
    path.write_text("{}")
    assert "ask the model's owner" in found()["client", "access file"]["fix"]

    def access(days: float, signer: Ed25519PrivateKey = key, bound: str | None = None, **more: str) -> Found:
        expires = int(datetime.now().timestamp() + days * 86400)
        grant = Grant(token_id="0" * 32, subject="x", expires=expires, key=bound)
        members = {"catalogue_url": "https://127.0.0.1:9", "owner_key": key_text(key.public_key())}
        token = tokens.issue(grant, signer)
        path.write_text(AccessFile.model_validate(members | {"token": token} | more).model_dump_json())
        path.chmod(0o600)
        return found()

    for days, status in ((100, "ok"), (3, "warning"), (-1, "wrong")):
        assert access(days)["client", "token"]["status"] == status
    assert access(9, Ed25519PrivateKey.generate())["client", "token"]["status"] == "wrong"
    assert access(9, token="")["client", "token"]["status"] == "warning"
    assert access(9)["client", "key"]["status"] == "warning", "the token is bound to none"
    mine = Ed25519PrivateKey.generate()
    bound = {"bound": thumbprint(mine.public_key().public_bytes_raw())}
    assert access(9, **bound, key=private_pem(mine))["client", "key"]["status"] == "ok"
    for other in ({}, {"key": private_pem(Ed25519PrivateKey.generate())}, {"key": "x"}):
        assert access(9, **bound, **other)["client", "key"]["status"] == "wrong"
    assert access(9)["client", "access file"]["status"] == "ok"
    path.chmod(0o644)
    assert found()["client", "access file"]["fix"] == f"chmod go-rwx {path}"
    row = access(9, ca=certificates(-0.03, tmp_path, monkeypatch).decode())["client", "certificate"]
    assert row["status"] == "wrong"
    assert access(9)["client", "reach catalogue"]["status"] == "wrong"


def test_the_table_for_people(run: Run, owner: Path) -> None:
    done = run("doctor")
    assert done.exit_code == Exit.FAILED and "✗" in done.stdout and "✓" in done.stdout
    assert "reach alice" in done.stdout and "checks failed" in done.stderr
