"""The catalogue entry: all that a client must know of a model, signed by its owner (Ed25519)."""

import base64
from typing import Annotated, Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, field_validator

from moiety_shared.layers import Name, Public
from moiety_shared.plan import Plan, canonical_json
from moiety_shared.sealing import PublicKey

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


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


class BadSignature(ValueError):
    """An entry that the owner did not sign."""


class SignedEntry(Public):
    """An entry with the owner's signature over its canonical JSON."""

    entry: Entry
    owner_key: str = Field(description="Ed25519 public key, base64url")
    signature: str = Field(description="over the entry's canonical JSON, base64url")

    def verify(self, owner_key: str) -> Entry:
        """The entry, if `owner_key` signed it. Raises BadSignature otherwise."""
        try:
            key = Ed25519PublicKey.from_public_bytes(_unbase64(owner_key))
            key.verify(_unbase64(self.signature), _signed(self.entry))
        except (InvalidSignature, ValueError) as error:
            raise BadSignature("the catalogue entry is not signed by the owner's key") from error
        return self.entry


def sign(entry: Entry, key: Ed25519PrivateKey) -> SignedEntry:
    return SignedEntry(
        entry=entry,
        owner_key=public_text(key),
        signature=_base64(key.sign(_signed(entry))),
    )


def public_text(key: Ed25519PrivateKey) -> str:
    """The public half, as clients pin it: base64url."""
    return _base64(key.public_key().public_bytes_raw())


def _signed(entry: Entry) -> bytes:
    members: dict[str, Any] = entry.model_dump(mode="json")
    return b"moiety/v1 catalogue entry\0" + canonical_json(members)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text, altchars=b"-_", validate=True)
