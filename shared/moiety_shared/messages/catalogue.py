"""What the model owner signs (Ed25519): the catalogue entry and the manifest of an upload. The entry is all that a
client must know of a model. The manifest tells each party what it got and whom to serve."""

import math
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, field_validator, model_validator

from moiety_shared.crypto import signing
from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.crypto.signing import key_text
from moiety_shared.formats import Document
from moiety_shared.messages.canary import MOST, Canary, places
from moiety_shared.messages.table import Tabular
from moiety_shared.messages.tokens import Attachment, SecretTokens, TokenIds, Tokens
from moiety_shared.plan.layers import Name, Public
from moiety_shared.plan.plan import InputPart, OutputPart, Plan
from moiety_shared.text import printable

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=1 << 14)]
Time = Annotated[int, Field(ge=0, le=253402300799)]
"""Seconds since 1970, up to the end of the year 9999, the last that a calendar represents."""
Access = Literal["token", "open"]
"""Who may call the model: holders of the owner's tokens, or everybody."""


Polarity = Literal["light-on-dark", "dark-on-light"]
_SHOWN = 12


class Preprocessing(Public):
    """How a picture becomes the model's input, in the steps of torchvision's transforms. The client makes it grey or
    RGB, resizes it, cuts out its middle, scales it to 0..1, subtracts the mean, and divides by std."""

    kind: Literal["picture"] = "picture"
    channels: Literal[1, 3]
    size: tuple[Side, Side] = Field(description="height, width")
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Side | None = Field(
        None, description="the shorter side, before the middle is cut out; without it, the whole picture becomes `size`"
    )
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    polarity: Polarity | None = Field(
        None, description="of grey pictures that the model was trained on; the client inverts those of the other one"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError("there is one mean and one std for each channel")
        if self.resize is not None and self.resize < max(self.size):
            raise ValueError("a picture must not be resized to less than is cut out of it")
        if self.polarity is not None and self.channels != 1:
            raise ValueError("grey pictures alone have a polarity")
        return self


class PartyEndpoint(Public):
    """One computing party, as clients see it."""

    name: str
    url: str
    sealing_key: str = Field(description="ML-KEM-768 and X25519 public keys, base64url")

    @field_validator("sealing_key")
    @classmethod
    def _is_key(cls, value: str) -> str:
        PublicKey.from_text(value)
        return value


class Entry(Document):
    """One version of one model. `upload_id` names this very upload of its weights.

    Whatever the owner signs for a name has a rising `revision`. A client that saw one revision believes no older one.
    No client believes an entry after `expires`: somebody who kept an old entry can show it to new clients until then,
    and no longer.
    """

    FORMAT, WHAT = 3, "a catalogue entry"
    format: Literal[3] = 3
    name: Name
    version: int = Field(ge=1)
    upload_id: Hex16
    plan: Plan
    parties: tuple[PartyEndpoint, PartyEndpoint] = Field(description="alice, the leader, to whom requests go; then bob")
    max_rows: int = Field(ge=1, description="inputs in one request at most")
    preprocessing: Annotated[Preprocessing | Tabular | Tokens | SecretTokens, Field(discriminator="kind")] | None = None
    classes: tuple[str, ...] = ()
    description: str = ""
    access: Access = "token"
    record_key: str | None = Field(
        None, description="of a verified model: what the crypto provider signs rows with, Ed25519, base64url"
    )
    canaries: tuple[Canary, ...] = Field((), max_length=MOST, description="inputs whose answers are known")
    revision: int = Field(ge=1, description="rises with everything that is signed for this name, whatever the version")
    active: bool = Field(description="whether it is for clients who name no version")
    issued: Time = Field(description="seconds since 1970")
    expires: Time = Field(description="seconds since 1970; the owner signs it anew when half of the time is over")

    @model_validator(mode="after")
    def _ends_after_it_began(self) -> Self:
        if self.expires <= self.issued:
            raise ValueError("an entry expires after it was issued")
        return self

    @model_validator(mode="after")
    def _has_the_key_of_its_records(self) -> Self:
        if (self.plan.verified is None) != (self.record_key is None):
            raise ValueError("an entry has a key of records exactly if the plan's runs are verified")
        if self.record_key is not None:
            signing.key_from_text(self.record_key)
        return self

    @model_validator(mode="after")
    def _prepares_what_the_plan_takes(self) -> Self:
        how = self.preprocessing
        size = how.channels * math.prod(how.size) if isinstance(how, Preprocessing) else how.size if how else None
        if size not in (None, self.plan.input.size):
            raise ValueError("the preprocessing does not make the plan's input")
        return self

    @model_validator(mode="after")
    def _has_canaries_that_fit(self) -> Self:
        """Raises ValueError unless each canary tells what an answer of this plan can be compared with."""
        output = self.plan.output
        told = len(places(output.size)) if output.kind == "logits" else 0
        for canary in self.canaries:
            labelled = canary.label is not None and canary.label < (output.classes or 0)
            if len(canary.outputs) != told or labelled == (output.task == "values"):
                raise ValueError("a canary's answer is none that the plan gives")
        return self

    @property
    def table(self) -> Tabular | None:
        """The columns of a model that takes rows of a table, else None."""
        return self.preprocessing if isinstance(self.preprocessing, Tabular) else None

    @property
    def tokens(self) -> Tokens | SecretTokens | None:
        """How ids become the input of a model that takes ids, else None."""
        return self.preprocessing if isinstance(self.preprocessing, TokenIds) else None

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """The files beside this entry."""
        return self.tokens.files if self.tokens else ()

    def is_due(self, now: float) -> bool:
        """Whether half of its time is over. Whoever holds the signing key then signs the entry anew."""
        return now >= (self.issued + self.expires) / 2

    def describe(self) -> str:
        """Say what a client may want to know of the model, one line for each thing."""
        return "\n".join(f"{name:12} {text}" for name, text in self.facts().items())

    def facts(self) -> dict[str, str]:
        """Return what a client may want to know of the model, in words, by subject."""
        plan, how = self.plan, self.preprocessing
        shape = " x ".join(map(str, plan.input.shape))
        takes = f"inputs of shape {shape}, from {plan.input.low:.4g} to {plan.input.high:.4g}"
        if plan.input.parts:
            ranged = [f"{_sized(part)} from {part.low:.4g} to {part.high:.4g}" for part in plan.input.parts]
            takes = f"the inputs {', '.join(ranged[:_SHOWN])}"
        elif isinstance(how, Tabular):
            names = [column.name for column in how.columns]
            more_columns = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
            takes = f"rows of the columns {', '.join(names[:_SHOWN])}{more_columns}"
        elif isinstance(how, TokenIds):
            what = "texts, or ids of tokens" if how.tokenizer else "ids of tokens"
            takes = f"{what} below {how.vocabulary:,}, {how.length}{' at most' if how.pad_id is not None else ''}"
        elif how is not None:
            size = " x ".join(map(str, how.size))
            cut = f", resized to {how.resize} and cut to {size}" if how.resize else f", resized to {size}"
            seen = f" {how.polarity.replace('-', ' ')}" if how.polarity else ""
            takes = f"pictures, {'RGB' if how.channels == 3 else 'grey'}{seen}{cut}; or {takes}"
        more = f", ... ({len(self.classes)} in all)"
        gives = {
            "logits": {
                "classes": f"{plan.output.size} outputs for each input, one for each class",
                "binary": "one output for each input, which tells two classes apart",
                "values": f"the outputs {', '.join(map(_sized, plan.output.parts))}"
                if plan.output.parts
                else f"{plan.output.size} values for each input",
            }[plan.output.task],
            "labels": f"of each input the {plan.output.top} likeliest labels, in order, and nothing else",
            "decision": "of each input which of two classes it is, and nothing else",
            "count": "one count for all inputs together, and nothing about each",
        }[plan.output.kind]
        return {
            "name": self.name,
            "version": str(self.version),
            "description": self.description or "-",
            "takes": takes,
            "gives": gives,
            "classes": ", ".join(map(printable, self.classes[:_SHOWN])) + (more if len(self.classes) > _SHOWN else "")
            or "-",
            "at a time": f"{self.max_rows} inputs in a request at most",
            "cost": f"{plan.rounds} rounds; each party sends {plan.cost(1).online_bytes:,} bytes for one input",
            "verified": "yes: a party that cheats is caught" if plan.verified else "no: parties are trusted to compute",
            "who may ask": "everybody" if self.access == "open" else "holders of the owner's tokens",
            "canaries": f"{len(self.canaries)} inputs whose answers are known" if self.canaries else "none",
            "parties": ", ".join(f"{party.name} at {party.url}" for party in self.parties),
        }


def _sized(part: InputPart | OutputPart) -> str:
    return f"{part.name} ({' x '.join(map(str, part.shape)) or 'a number'})"


class SignedEntry(Public):
    """An entry with the owner's signature over its canonical JSON."""

    entry: Entry
    owner_key: str = Field(description="Ed25519 public key, base64url")
    signature: str = Field(description="over the entry's canonical JSON, base64url")

    def verify(self, owner_key: str) -> Entry:
        """Return the entry. Raises BadSignature unless it names `owner_key`, and that key signed it."""
        if self.owner_key != owner_key:
            raise signing.BadSignature("the catalogue entry is not signed by the owner's key, but names another")
        signing.verify("catalogue entry", self.entry, self.signature, owner_key)
        return self.entry


def sign(entry: Entry, key: Ed25519PrivateKey) -> SignedEntry:
    return SignedEntry(
        entry=entry, owner_key=key_text(key.public_key()), signature=signing.sign("catalogue entry", entry, key)
    )


class Manifest(Public):
    """What one party's upload is: which version of which model, the digests of what comes with it, and the owner whose
    tokens let clients in. The crypto provider never gets it; `upload.py` says why."""

    upload_id: Hex16
    name: Name
    version: int = Field(ge=1)
    party: Literal[0, 1]
    plan_digest: Hex32
    weights_digest: Hex32 = Field(description="of the masked weights, which both parties get, with a secret nonce")
    seed_digest: Hex32 = Field(description="of the seed of this party's half of the masks")
    access: Access = "token"
    owner_key: str = Field(description="Ed25519 public key, base64url: pinned with this upload")
    statement_keys: tuple[str, str] | None = Field(
        None, description="alice's and bob's keys, Ed25519, base64url: with them each signs what it sends in a run"
    )


class SignedManifest(Public):
    """A manifest with its signature, by the owner that it names."""

    manifest: Manifest
    signature: str

    def verify(self) -> Manifest:
        """Return the manifest. Raises BadSignature unless the owner named in it signed it."""
        signing.verify("upload", self.manifest, self.signature, self.manifest.owner_key)
        return self.manifest


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> SignedManifest:
    return SignedManifest(manifest=manifest, signature=signing.sign("upload", manifest, key))
