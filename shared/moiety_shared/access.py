"""The access file: all that a client needs to reach an owner's models, in one JSON file that the owner hands out."""

from typing import Literal

from pydantic import Field

from moiety_shared.formats import Document


class Access(Document):
    """Where the catalogue is, whom to trust, and the token that lets the client in."""

    FORMAT, WHAT = 1, "an access file"
    format: Literal[1] = 1
    catalogue_url: str
    owner_key: str = Field(description="Ed25519 public key, base64url: what catalogue entries are signed with")
    ca: str = Field("", description="PEM of the deployment's CA; empty for the system's CAs")
    token: str = Field("", repr=False, description="the client's token: a secret; empty for open models")
