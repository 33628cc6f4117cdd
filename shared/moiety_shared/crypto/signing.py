"""The model owner's signature (Ed25519) under public statements. It signs canonical JSON, with a label for each kind of
statement."""

import base64
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel

from moiety_shared.plan.layers import canonical_json


class BadSignature(ValueError):
    """A statement that the owner did not sign."""


def sign(label: str, statement: BaseModel, key: Ed25519PrivateKey) -> str:
    """Return the signature, in base64url."""
    return _base64(key.sign(_signed(label, statement)))


def verify(label: str, statement: BaseModel, signature: str, owner_key: str) -> None:
    """Raises BadSignature unless `owner_key` signed it under this label."""
    try:
        key_from_text(owner_key).verify(_unbase64(signature), _signed(label, statement))
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(f"the {label} is not signed by the owner's key") from error


def key_text(key: Ed25519PublicKey) -> str:
    return _base64(key.public_bytes_raw())


def key_from_text(text: str) -> Ed25519PublicKey:
    """Raises ValueError when it is not a key."""
    return Ed25519PublicKey.from_public_bytes(_unbase64(text))


def _signed(label: str, statement: BaseModel) -> bytes:
    members: dict[str, Any] = statement.model_dump(mode="json")
    return f"moiety/v1 {label}\0".encode() + canonical_json(members)


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def _unbase64(text: str) -> bytes:
    raw = base64.b64decode(text, altchars=b"-_", validate=True)
    if _base64(raw) != text:
        raise ValueError("not the canonical encoding of these bytes")
    return raw
