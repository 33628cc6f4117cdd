"""The contract between a party and the crypto provider: JSON over HTTP, in both directions.

Bytes travel as base64. Secret bytes are sealed: the seeds of an upload to the provider, and a lease's seeds to a key
that the party made for that one request.
"""

import base64
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field

from moiety_shared.crypto.prg import SEED_BYTES
from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.messages.catalogue import Hex16
from moiety_shared.plan.layers import Public
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType

TICKET_BYTES = 12 + 16 + 4 + 2 * SEED_BYTES + 16 + 16
"""A nonce, the upload's id, the lease's rows, its two seeds, the id of its key if runs are verified, and the tag of
AES-GCM."""


def _a_key(text: str) -> str:
    PublicKey.from_text(text)
    return text


FreshKey = Annotated[
    str,
    AfterValidator(_a_key),
    Field(
        max_length=1 << 11,
        description="A public key that was made for this request, base64url: the party's seed is sealed to it",
    ),
]


class UploadRequest(Public):
    """The body of POST /v1/uploads, from both parties."""

    upload_id: Hex16
    plan: Plan
    seeds: str = Field(
        max_length=1 << 12,
        description="The seeds of the weights' masks, sealed to the provider by the owner, base64",
    )

    def envelope(self) -> bytes:
        """Return the sealed seeds. Raises Problem MALFORMED for text that is not base64."""
        try:
            return base64.b64decode(self.seeds, validate=True)
        except ValueError:
            raise Problem(ProblemType.MALFORMED, "the seeds are no base64") from None


class LeaseRequest(Public):
    """The body of POST /v1/leases, by which alice opens a lease."""

    upload_id: Hex16
    rows: Annotated[int, Field(ge=1, le=1 << 20)]
    key: FreshKey


class Ticketed(Public):
    """Base of the messages that carry a lease's ticket, which only the provider can open."""

    ticket: str = Field(
        max_length=-(-TICKET_BYTES // 3) * 4,
        description="The lease, sealed to the provider, base64: alice hands it to bob, who shows it with each request",
    )

    def sealed(self) -> bytes:
        """Return the ticket's bytes. Raises Problem UNKNOWN_LEASE for text that is not base64."""
        try:
            return base64.b64decode(self.ticket, validate=True)
        except ValueError:
            raise Problem(ProblemType.UNKNOWN_LEASE) from None


class JoinRequest(Ticketed):
    """The body of POST /v1/leases/{lease_id}/join, by which bob joins the lease that alice opened."""

    key: FreshKey


class RekeyRequest(Public):
    """The body of POST .../uploads/{upload_id}/rekey at the provider, and of .../models/{upload_id}/rekey at a party:
    the owner names the key that takes the place of the one before. May be repeated."""

    key_id: Hex16


class BundleRequest(Ticketed):
    """The body of POST /v1/leases/{lease_id}/bundles/{number}, by which bob asks for a bundle."""


class WordsRequest(Ticketed):
    """The body of POST /v1/leases/{lease_id}/words, by which a party has the provider seal its own words of some rows
    to the upload's owner."""

    first_row: int = Field(ge=0, lt=1 << 62)
    rows: int = Field(ge=1, le=1 << 20)
    challenge: Hex16 = Field(description="the owner's: what is sealed opens for no other")


class LeaseResponse(Ticketed):
    """One side of a lease: the answer to alice's LeaseRequest and to bob's JoinRequest.

    A party ignores members that it does not know, because a newer provider may send more.
    """

    model_config = ConfigDict(extra="ignore")

    lease_id: Hex16
    upload_id: Hex16
    rows: int
    seeds: str = Field(
        description="Sealed to the request's key, base64: 32 bytes of seed, which are this party's alone, and 32 that "
        "both have, for the tags of their transcripts; where runs are verified, 32 of this party's part of the key"
    )
    key_id: Hex16 | None = Field(None, description="of the upload's key, where runs are verified")
