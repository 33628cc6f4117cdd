"""Who this process is: a role's secrets folder, checked before anything starts.

    role                     one word: whose folder this is
    tls/key.pem, cert.pem    the service's TLS key and certificate chain
    tls/ca.pem               the CA that it trusts; without this file, the system's CAs
    present/<role>           the credential that this role presents to another
    expect/<role>            SHA-256 of the credential that another presents to it; the credential itself is not here
    sealing/<key id>.json    HPKE key pairs: others seal to the newest; older ones open envelopes until they expire
    sealing.pub              the public half of the newest pair; the owner needs the crypto provider's
    provider.pub             the owner's copy of that key; the owner seals the masks of a model's weights to it
    storage.key              encrypts what this role keeps on disk
    signing.pem              the model owner's Ed25519 key

`moiety keys init` makes these folders. An operator may replace any of the files.
"""

import base64
import hashlib
import hmac
import ssl
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate

from moiety_service.security.keyring import Keyring
from moiety_service.startup import StartRefused
from moiety_shared.crypto.channel import derive
from moiety_shared.crypto.sealing import PublicKey

CREDENTIAL_BYTES = 32
_CERTIFICATES = ("tls/cert.pem", "tls/ca.pem")  # public: other users may read these two files and no others
SEALING = ("alice", "bob", "crypto_provider", "server")
"""The roles that have sealing keys."""
SEALING_KEY, PROVIDER_KEY = "sealing.pub", "provider.pub"
PIN = f"copy {SEALING_KEY} from the crypto provider's secrets folder, where `moiety keys rotate` writes it"
STORAGE_KEY_BYTES = 32


class BadIdentity(StartRefused):
    """The role cannot start with this secrets folder. The text says what to do."""


@dataclass(frozen=True)
class Links:
    """The roles to which a role presents a credential, and those from which it expects one."""

    presents: tuple[str, ...] = ()
    expects: tuple[str, ...] = ()


LINKS = {
    "alice": Links(("bob", "crypto_provider"), ("server",)),
    "bob": Links(("crypto_provider",), ("alice", "server")),
    "crypto_provider": Links((), ("alice", "bob")),
    "server": Links(("alice", "bob"), ()),
}


@dataclass(frozen=True, repr=False)
class Identity:
    """One role's secrets. Made by `load`, which checks them."""

    role: str
    folder: Path

    @classmethod
    def load(cls, folder: Path, role: str) -> "Identity":
        """Load and check a folder. Raises BadIdentity when a secret is missing, weak, shared, or readable by others."""
        if not folder.is_dir():
            raise BadIdentity(f"{folder} does not exist: make it with `moiety keys init`, and name it in the settings")
        public = {folder / name for name in _CERTIFICATES}
        for path in {folder, *folder.rglob("*")} - public:
            if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise BadIdentity(f"{path} can be read or changed by other users: chmod -R go-rwx {folder}")
        identity = cls(role, folder)
        identity._check()
        return identity

    def credential(self, of: str) -> str:
        """The credential that this role presents to another."""
        return self._read(f"present/{of}").decode().strip()

    def accepts(self, who: str, presented: str | None) -> bool:
        """Whether this is the credential of that role. The comparison takes constant time."""
        digest = hashlib.sha256((presented or "").encode()).hexdigest()
        return hmac.compare_digest(digest, self._expected[who])

    @cached_property
    def storage_key(self) -> bytes:
        return self._read("storage.key")

    @cached_property
    def keyring(self) -> Keyring:
        return Keyring(self.folder / "sealing")

    @property
    def provider_key(self) -> PublicKey:
        """The crypto provider's sealing key, as the owner's folder pins it now. Raises BadIdentity."""
        text = self._read(PROVIDER_KEY, PIN).decode(errors="replace").strip()
        try:
            return PublicKey.from_text(text)
        except ValueError:
            raise BadIdentity(f"{self.folder / PROVIDER_KEY} is not a sealing key: {PIN}") from None

    @cached_property
    def signing_key(self) -> Ed25519PrivateKey:
        key = load_pem_private_key(self._read("signing.pem"), None)
        if not isinstance(key, Ed25519PrivateKey):
            raise BadIdentity(f"{self.folder / 'signing.pem'} is not an Ed25519 key")
        return key

    @cached_property
    def statement_key(self) -> Ed25519PrivateKey:
        """The key with which a party signs what it sends in runs. It follows from the storage key."""
        return Ed25519PrivateKey.from_private_bytes(derive(self.storage_key, "statements"))

    @property
    def signs(self) -> bool:
        """Whether the owner's signing key is here. The service of the catalogue does not need it."""
        return (self.folder / "signing.pem").exists()

    @property
    def ca_file(self) -> Path | None:
        """The CA that this role trusts when it calls others; None for the system's CAs."""
        path = self.folder / "tls" / "ca.pem"
        return path if path.exists() else None

    def certificate_expiry(self) -> float:
        """When the service's certificate expires, in seconds since 1970."""
        return load_pem_x509_certificate(self._read("tls/cert.pem")).not_valid_after_utc.timestamp()

    def server_context(self) -> ssl.SSLContext:
        """The context to serve with: this role's certificate, TLS 1.3 and nothing older."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.folder / "tls" / "cert.pem", self.folder / "tls" / "key.pem")
        return context

    @cached_property
    def _expected(self) -> dict[str, str]:
        return {who: self._read(f"expect/{who}").decode().strip() for who in LINKS[self.role].expects}

    def _read(self, name: str, instead: str = "`moiety keys init` makes it") -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise BadIdentity(f"{self.folder / name} is missing: {instead}") from None

    def _check(self) -> None:
        found = self._read("role").decode().strip()
        if found != self.role:
            raise BadIdentity(
                f"{self.folder} holds the secrets of {found}, not of {self.role}: name the folder of {self.role}"
            )
        links = LINKS[self.role]
        for kind, known in (("present", links.presents), ("expect", links.expects)):
            for path in (self.folder / kind).glob("*"):
                if path.name not in known:
                    raise BadIdentity(f"{path} is a secret of another role: remove it from here")
        mine = [hashlib.sha256(_strong(self.credential(of), of).encode()).hexdigest() for of in links.presents]
        hashes = [*mine, *self._expected.values()]
        if any(len(h) != hashlib.sha256().digest_size * 2 for h in hashes):
            raise BadIdentity(f"{self.folder / 'expect'} does not hold SHA-256 hashes: run `moiety keys init` again")
        if len(set(hashes)) < len(hashes):
            raise BadIdentity(f"{self.folder} has one credential for two links: each link needs its own")
        if len(self.storage_key) != STORAGE_KEY_BYTES or len(set(self.storage_key)) < STORAGE_KEY_BYTES // 4:
            raise BadIdentity(f"{self.folder / 'storage.key'} is not {STORAGE_KEY_BYTES} random bytes")
        for name in ("tls/key.pem", "tls/cert.pem"):
            self._read(name)
        if self.role in SEALING and not any((self.folder / "sealing").glob("*.json")):
            raise BadIdentity(f"{self.folder / 'sealing'} holds no key: `moiety keys rotate {self.folder}` makes one")


def _strong(credential: str, of: str) -> str:
    """Return the credential. Raises BadIdentity for one that a person chose, such as a default or a password."""
    try:
        raw = base64.b64decode(credential + "=" * (-len(credential) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) < CREDENTIAL_BYTES or len(set(raw)) < CREDENTIAL_BYTES // 4:
        raise BadIdentity(f"the credential for {of} is not {CREDENTIAL_BYTES} random bytes: run `moiety keys init`")
    return credential
