"""The contract between the model owner and a party, except for the upload itself: which models the party holds, and
which tokens it refuses."""

from typing import Annotated

from pydantic import Field

from moiety_shared.crypto.tokens import MAX_REVOKED
from moiety_shared.messages.catalogue import Hex16
from moiety_shared.plan.layers import Public


class PublicKeys(Public):
    """The answer to GET /v1/keys: which party this is, the key that clients and the owner seal to, and the key with
    which it signs what it sends in runs, of models whose owner asks for that."""

    role: str
    sealing_key: str
    statement_key: str = Field("", description="Ed25519 public key, base64url")


class ModelState(Public):
    """The answer to GET /v1/models/{upload_id}: how an upload is doing at this party."""

    upload_id: str
    state: str
    max_rows: int
    rows_ready: int
    pool_full: bool
    bundle_rows: int
    bundle_bytes: int


class HeldModel(Public):
    """An upload that a party has. It has no name and version where another release stored it."""

    upload_id: Hex16
    name: str = ""
    version: int = 0


class HeldModels(Public):
    """The answer to GET /v1/models."""

    models: tuple[HeldModel, ...]


class Revocations(Public):
    """The body of PUT /v1/revocations: tokens that no longer let anybody in."""

    token_ids: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")], ...] = Field(max_length=MAX_REVOKED)
