"""The access file: all that a client needs to reach an owner's models, in one JSON file that the owner hands out."""

from typing import Literal

from pydantic import Field

from moiety_shared.formats import Document


class AccessFile(Document):
    """Where the catalogue is, whom to trust, the token that lets the client in, and the key to which the token is
    bound."""

    FORMAT, WHAT, OLDER = 2, "an access file", (1,)
    format: Literal[1, 2] = 2
    catalogue_url: str
    owner_key: str = Field(description="Ed25519 public key, base64url: what catalogue entries are signed with")
    ca: str = Field("", description="PEM of the deployment's CA; empty for the system's CAs")
    token: str = Field("", repr=False, description="the client's token: a secret; empty for open models")
    key: str = Field(
        "",
        repr=False,
        description="PEM of the Ed25519 private key that the token is bound to: a secret; empty when the client keeps "
        "it elsewhere, or the token is bound to none",
    )
