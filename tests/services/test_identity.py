"""A role's secrets: made once, each in its own folder, and refused when they are not fit to start with."""

import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from pydantic import ValidationError

from moiety_party.settings import PartySettings
from moiety_service.http import clients
from moiety_service.security import keys
from moiety_service.security.identity import LINKS, BadIdentity, Identity


@pytest.fixture
def root(tmp_path: Path) -> Path:
    keys.init(tmp_path / "keys", {"alice": ["alice.example"]})
    return tmp_path / "keys"


def test_no_role_holds_what_another_needs(root: Path) -> None:
    """A credential lies with the one who presents it; who expects it has its hash."""
    for role, links in LINKS.items():
        identity = Identity.load(root / role, role)
        for other in links.presents:
            credential = identity.credential(other)
            assert Identity.load(root / other, other).accepts(role, credential)
            elsewhere = [p for p in root.rglob("*") if p.is_file() and credential.encode() in p.read_bytes()]
            assert elsewhere == [root / role / "present" / other]
    with pytest.raises(BadIdentity, match="not empty"):
        keys.init(root, {})


def test_a_credential_opens_one_link(root: Path) -> None:
    bob = Identity.load(root / "bob", "bob")
    alice = Identity.load(root / "alice", "alice")
    for wrong in (None, "", "x", alice.credential("crypto_provider"), alice.credential("bob") + "x"):
        assert not bob.accepts("alice", wrong)
    assert bob.accepts("alice", alice.credential("bob")) and not bob.accepts("server", alice.credential("bob"))


def readable(root: Path) -> None:
    (root / "alice" / "storage.key").chmod(0o644)


def readable_by_a_group(root: Path) -> None:
    (root / "alice" / "storage.key").chmod(0o640)


def certificate_elsewhere(root: Path) -> None:
    (root / "alice" / "present" / "tls").mkdir(mode=0o700)
    (root / "alice" / "present" / "tls" / "secret.pem").touch(0o644)


def key_beside_the_certificate(root: Path) -> None:
    (root / "alice" / "tls" / "key-of-last-year.pem").touch(0o644)


def folder_readable(root: Path) -> None:
    (root / "alice" / "present").chmod(0o755)


def default(root: Path) -> None:
    (root / "alice" / "present" / "bob").write_text("changeme")


def repeated(root: Path) -> None:
    (root / "alice" / "present" / "bob").write_text("A" * 43)


def shared(root: Path) -> None:
    (root / "alice" / "present" / "bob").write_text((root / "alice" / "present" / "crypto_provider").read_text())


def of_another(root: Path) -> None:
    shutil.rmtree(root / "alice")
    shutil.copytree(root / "bob", root / "alice")


def too_many(root: Path) -> None:
    shutil.copy(root / "server" / "present" / "alice", root / "alice" / "present" / "server")


def plain_expected(root: Path) -> None:
    (root / "alice" / "expect" / "server").write_text("a password")


def empty_storage_key(root: Path) -> None:
    (root / "alice" / "storage.key").write_bytes(bytes(32))


def short_storage_key(root: Path) -> None:
    (root / "alice" / "storage.key").write_bytes(bytes(range(16)))


def short_credential(root: Path) -> None:
    (root / "alice" / "present" / "bob").write_text("abcdefghijklmnopqrstuv")


def without_certificate(root: Path) -> None:
    (root / "alice" / "tls" / "cert.pem").unlink()


def gone(root: Path) -> None:
    shutil.rmtree(root / "alice")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (readable, "chmod"),
        (readable_by_a_group, "chmod"),
        (folder_readable, "chmod"),
        (certificate_elsewhere, "chmod"),
        (key_beside_the_certificate, "chmod"),
        (default, "random bytes"),
        (repeated, "random bytes"),
        (shared, "two links"),
        (of_another, "secrets of bob"),
        (too_many, "another role"),
        (plain_expected, "SHA-256"),
        (empty_storage_key, "random bytes"),
        (short_storage_key, "random bytes"),
        (short_credential, "random bytes"),
        (without_certificate, "missing"),
        (gone, "keys init"),
    ],
)
def test_a_role_refuses_to_start_with(root: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    Identity.load(root / "alice", "alice")
    spoil(root)
    with pytest.raises(BadIdentity, match=said):
        Identity.load(root / "alice", "alice")
    command = [sys.executable, "-m", "moiety_service.cli.main", "party", "alice"]
    environment = {"MOIETY_PARTY_KEYS_DIR": str(root), "MOIETY_PARTY_DATA_DIR": str(tmp_path / "data"), "PATH": ""}
    if spoil in (readable, gone):  # the whole way, for two of them
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_where_the_folder_lies_does_not_matter(root: Path) -> None:
    """Certificates are public: those of the role, not all that lies somewhere below a folder of that name."""
    elsewhere = root / "tls" / "keys.pem"
    elsewhere.mkdir(mode=0o700, parents=True)
    shutil.copytree(root / "alice", elsewhere / "alice")
    for name in ("cert.pem", "ca.pem"):
        (elsewhere / "alice" / "tls" / name).chmod(0o644)
    Identity.load(elsewhere / "alice", "alice")
    for name in ("storage.key", "tls/key.pem"):
        (elsewhere / "alice" / name).chmod(0o644)
        with pytest.raises(BadIdentity, match="chmod"):
            Identity.load(elsewhere / "alice", "alice")
        (elsewhere / "alice" / name).chmod(0o600)
    shutil.copytree(root / "server", elsewhere / "server")
    (elsewhere / "server" / "signing.pem").chmod(0o644)
    with pytest.raises(BadIdentity, match="chmod"):
        Identity.load(elsewhere / "server", "server")


@pytest.mark.parametrize(
    "links",
    [
        {"provider_url": "http://provider:7703"},
        {"peer_url": "ws://bob:7702"},
        {"provider_url": "http://provider:7703", "transport": "plain"},
        {"provider_url": "http://127.0.0.1:7703", "peer_url": "ws://127.0.0.1:7702"},
        {"provider_url": "http://127.0.0.1:7703", "transport": "plain", "host": "0.0.0.0"},
    ],
)
def test_a_plain_link_is_refused(links: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="https://"):
        PartySettings(role="alice", **links)  # type: ignore[arg-type]


def test_links_speak_tls_1_3_and_nothing_older(root: Path) -> None:
    context = Identity.load(root / "alice", "alice").server_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def shaken(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """The version that both agree on. Raises SSLError when they do not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(4):
        for end in (ours, theirs):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ours.version()


def test_an_operators_own_ca_works_and_others_do_not(root: Path, tmp_path: Path) -> None:
    ours = clients.tls_context(root / "ca" / "ca.pem")
    assert shaken(Identity.load(root / "alice", "alice").server_context(), ours, "alice.example") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shaken(Identity.load(root / "bob", "bob").server_context(), ours, "alice.example")
    keys.init(tmp_path / "operator", {"alice": ["alice.hospital.example"]})
    shutil.rmtree(root / "alice" / "tls")
    shutil.copytree(tmp_path / "operator" / "alice" / "tls", root / "alice" / "tls")
    alice = Identity.load(root / "alice", "alice")
    theirs = clients.tls_context((tmp_path / "operator" / "ca" / "ca.pem").read_text())
    assert shaken(alice.server_context(), theirs, "alice.hospital.example") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(alice.server_context(), ours, "alice.hospital.example")
    (root / "alice" / "tls" / "ca.pem").unlink()
    assert Identity.load(root / "alice", "alice").ca_file is None, "then the system's CAs are trusted"
    keys.certify(root, "alice", ["alice.example"])
    assert shaken(Identity.load(root / "alice", "alice").server_context(), ours, "alice.example") == "TLSv1.3"
