"""Makes the keys of a deployment: a private CA, TLS certificates, credentials and sealing keys.

Each role gets a folder, and so does the CA. The operator takes them to five machines. `identity.py` says what a
role's folder holds.
"""

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from moiety_service.security.identity import (
    CREDENTIAL_BYTES,
    LINKS,
    PROVIDER_KEY,
    SEALING,
    SEALING_KEY,
    STORAGE_KEY_BYTES,
    BadIdentity,
)
from moiety_service.security.keyring import Keyring
from moiety_shared.crypto.possession import private_pem, public_pem
from moiety_shared.crypto.sealing import PublicKey

_CA_DAYS, _CERTIFICATE_DAYS = 3650, 397
_LOCAL = ("localhost", "127.0.0.1", "::1")


def init(root: Path, hosts: Mapping[str, Sequence[str]]) -> None:
    """Make all folders under `root`. Raises BadIdentity when it holds keys already.

    `hosts` are the names and addresses by which others call a role, besides the role's own name and this machine.
    """
    if any(path.is_file() for path in root.rglob("*")):
        raise BadIdentity(
            f"{root} is not empty: name a new folder, or replace keys with `moiety keys renew` and `rotate`"
        )
    _folder(root)
    _make_ca(root / "ca")
    credentials = {
        (role, of): secrets.token_urlsafe(CREDENTIAL_BYTES) for role, links in LINKS.items() for of in links.presents
    }
    for role in LINKS:
        folder = _folder(root / role)
        _write(folder / "role", role.encode())
        _write(folder / "storage.key", secrets.token_bytes(STORAGE_KEY_BYTES))
        for name in ("present", "expect"):
            _folder(folder / name)
        certify(root, role, hosts.get(role, ()))
        if role in SEALING:
            rotate(folder, timedelta(0))
    for (role, of), credential in credentials.items():
        _write(root / role / "present" / of, credential.encode())
        _write(root / of / "expect" / role, hashlib.sha256(credential.encode()).hexdigest().encode())
    _write(root / "server" / "signing.pem", private_pem(ed25519.Ed25519PrivateKey.generate()).encode())
    pin(root / "crypto_provider", root / "server")


def complete(root: Path) -> None:
    """Add what folders of release 0.1.0 lack: the provider's sealing key, and the owner's copy of it."""
    provider, owner = root / "crypto_provider", root / "server"
    if (provider / "role").exists() and not (provider / SEALING_KEY).exists():
        rotate(provider, timedelta(0))
    if (provider / SEALING_KEY).exists() and (owner / "role").exists() and not (owner / PROVIDER_KEY).exists():
        pin(provider, owner)


def rotate(folder: Path, keep: timedelta) -> PublicKey:
    """Make a new sealing key for the role of this folder. Earlier keys still open envelopes for `keep`."""
    made = Keyring(_folder(folder / "sealing")).rotate(keep)
    _write(folder / SEALING_KEY, made.text().encode())
    return made


def pin(provider: Path, owner: Path) -> None:
    """Copy the provider's sealing key into the owner's folder. Raises BadIdentity when the provider has none."""
    try:
        _write(owner / PROVIDER_KEY, (provider / SEALING_KEY).read_bytes())
    except FileNotFoundError as error:
        raise BadIdentity(f"{error.filename} is missing: `moiety keys rotate {provider}` writes it") from None


def certify(root: Path, role: str, hosts: Sequence[str]) -> None:
    """Make a new TLS key and certificate for a role, signed by the CA under `root`."""
    try:
        authority = x509.load_pem_x509_certificate((root / "ca" / "ca.pem").read_bytes())
        signer = serialization.load_pem_private_key((root / "ca" / "ca.key").read_bytes(), None)
    except FileNotFoundError as error:
        raise BadIdentity(f"{error.filename} is missing: it is needed to make certificates") from None
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise BadIdentity(f"{root / 'ca' / 'ca.key'} is not an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    names = dict.fromkeys((role, role.replace("_", "-"), *_LOCAL, *hosts))
    builder = (
        _builder(f"moiety {role}", authority.subject, _CERTIFICATE_DAYS)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )
    folder = _folder(root / role / "tls")
    _write(folder / "key.pem", _pem(key))
    _write(folder / "cert.pem", builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    _write(folder / "ca.pem", authority.public_bytes(serialization.Encoding.PEM))


def client(file: Path, public: Path) -> None:
    """Make a client's key pair, of which only `file`, the private half, is a secret. Raises OSError."""
    made = ed25519.Ed25519PrivateKey.generate()
    _write(file, private_pem(made).encode())
    _write(public, public_pem(made.public_key()).encode())
    public.chmod(0o644)


def _make_ca(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"moiety deployment {secrets.token_hex(4)}")])
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        _builder(None, name, _CA_DAYS)
        .subject_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(_folder(folder) / "ca.key", _pem(key))
    _write(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))


def _builder(subject: str | None, issuer: x509.Name, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )
    if subject is None:
        return builder
    return builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _folder(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _write(path: Path, content: bytes) -> None:
    """Replace a file as a whole. It has mode 0600 from the start."""
    partial = path.with_name(path.name + ".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    partial.replace(path)
