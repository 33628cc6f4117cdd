"""What the model owner signs (Ed25519): the catalogue entry, all that a client must know of a model; and the manifest
of an upload, which tells each party what it got and whom to serve."""

from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, field_validator

from moiety_shared import signing
from moiety_shared.canary import MOST, Canary
from moiety_shared.layers import Name, Public
from moiety_shared.plan import Plan
from moiety_shared.sealing import PublicKey
from moiety_shared.signing import key_text

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Access = Literal["token", "open"]
"""Who may ask: holders of the owner's tokens, or everybody."""


class Preprocessing(Public):
    """How a raw picture becomes the model's input: resize to `size`, scale to 0..1, subtract mean, divide by std."""

    channels: Literal[1, 3]
    size: tuple[int, int] = Field(description="height, width")
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Party(Public):
    """One computing party, as clients see it."""

    name: str
    url: str
    sealing_key: str = Field(description="ML-KEM-768 and X25519 public keys, base64url")

    @field_validator("sealing_key")
    @classmethod
    def _is_key(cls, value: str) -> str:
        PublicKey.from_text(value)
        return value


class Entry(Public):
    """One version of one model. `upload_id` names this very upload of its weights."""

    name: Name
    version: int = Field(ge=1)
    upload_id: Hex16
    plan: Plan
    parties: tuple[Party, Party] = Field(description="alice, the leader, to whom requests go; then bob")
    max_rows: int = Field(ge=1, description="inputs in one request at most")
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    description: str = ""
    access: Access = "token"
    canaries: tuple[Canary, ...] = Field((), max_length=MOST, description="inputs whose answers are known")


class SignedEntry(Public):
    """An entry with the owner's signature over its canonical JSON."""

    entry: Entry
    owner_key: str = Field(description="Ed25519 public key, base64url")
    signature: str = Field(description="over the entry's canonical JSON, base64url")

    def verify(self, owner_key: str) -> Entry:
        """The entry, if `owner_key` signed it. Raises BadSignature otherwise."""
        signing.verify("catalogue entry", self.entry, self.signature, owner_key)
        return self.entry


def sign(entry: Entry, key: Ed25519PrivateKey) -> SignedEntry:
    return SignedEntry(
        entry=entry, owner_key=key_text(key.public_key()), signature=signing.sign("catalogue entry", entry, key)
    )


class Manifest(Public):
    """What one party's upload is: which version of which model, the digests of what comes with it, and the owner whose
    tokens let clients in."""

    upload_id: Hex16
    name: Name
    version: int = Field(ge=1)
    party: Literal[0, 1]
    plan_digest: Hex32
    share_digest: Hex32 = Field(description="SHA-256 of this party's safetensors")
    access: Access = "token"
    owner_key: str = Field(description="Ed25519 public key, base64url: pinned with this upload")


class SignedManifest(Public):
    """A manifest under its own owner's signature."""

    manifest: Manifest
    signature: str

    def verify(self) -> Manifest:
        """Raises BadSignature unless the owner named in it signed it."""
        signing.verify("upload", self.manifest, self.signature, self.manifest.owner_key)
        return self.manifest


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> SignedManifest:
    return SignedManifest(manifest=manifest, signature=signing.sign("upload", manifest, key))
