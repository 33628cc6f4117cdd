"""The owner's connection to both parties, and what the owner does with models that are published already."""

import contextlib
import secrets
import time
from dataclasses import dataclass

import httpx

from moiety_server.catalogue import Catalogue
from moiety_server.kept import AuditableUploads
from moiety_server.records import records
from moiety_server.settings import ServerSettings
from moiety_server.tokens import Issued
from moiety_server.uploads import Uploads
from moiety_service.http import clients
from moiety_service.observability.audit import Audit
from moiety_service.security.identity import Identity
from moiety_service.startup import StartRefused
from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.messages.catalogue import Entry, PartyEndpoint
from moiety_shared.messages.leases import RekeyRequest
from moiety_shared.messages.parties import HeldModel, HeldModels, PublicKeys
from moiety_shared.problems import Problem, ProblemType

NAMES = ("alice", "bob")
_MOST_HELD = 1 << 24
"""The most bytes of what a party says of all models that it holds: each takes some hundred."""


@dataclass(frozen=True)
class LeftOver:
    """An upload that no catalogue entry names. `started` is in seconds since 1970, where it is on record. `at` says
    whether alice and bob have it; None stands for a party that does not answer."""

    upload_id: str
    name: str
    version: int
    started: int | None
    at: tuple[bool | None, ...]


class Owner:
    """Calls both parties with the owner's credentials. Every failure is a Problem."""

    def __init__(self, settings: ServerSettings, identity: Identity) -> None:
        self.settings = settings
        self.identity = identity
        self._db = records(settings)
        self.catalogue = Catalogue(self._db)
        self.uploads = Uploads(self._db)
        self.issued = Issued(self._db)
        self.auditable = AuditableUploads(settings.private_dir() / "auditable", identity.storage_key)
        self.audit = Audit(settings.private_dir() / "audit.jsonl")
        urls = settings.alice_url, settings.bob_url
        self._clients = [
            clients.client(url, credential=identity.credential(name), timeout=120, ca=identity.ca_file)
            for name, url in zip(NAMES, urls, strict=True)
        ]

    def close(self) -> None:
        """Close the connections, the database and the audit log."""
        for client in self._clients:
            client.close()
        self._db.close()
        self.audit.close()

    def call(self, party: int, method: str, path: str, *, most: int = 0, **content: object) -> httpx.Response:
        """Send one request to party 0 or 1, and read `most` bytes of its answer at most, or those of a problem. Raises
        the Problem that the party answers, or PEER_UNAVAILABLE."""
        try:
            answer = self._clients[party].request(method, path, extensions=clients.at_most(most), **content)  # type: ignore[arg-type]
            return clients.check(answer)
        except Problem as problem:
            if problem.kind is ProblemType.DISK_FULL:
                raise Problem(problem.kind, f"that of {NAMES[party]}, at {self._clients[party].base_url}") from None
            raise
        except httpx.HTTPError as error:
            where = f"{NAMES[party]} does not answer at {self._clients[party].base_url}"
            raise Problem(ProblemType.PEER_UNAVAILABLE, f"{where} ({type(error).__name__})") from error

    def statement_keys(self) -> tuple[str, str]:
        """Return the keys with which alice and bob sign what they send in runs. Raises INVALID_INPUT for parties of an
        older release."""
        alice, bob = (keys.statement_key for keys in self._public_keys())
        if not (alice and bob):
            raise Problem(ProblemType.INVALID_INPUT, "alice and bob are of a release that signs no runs: upgrade them")
        return alice, bob

    def parties(self) -> tuple[PartyEndpoint, PartyEndpoint]:
        """Return both parties, with their current sealing keys. Raises INVALID_INPUT when the addresses are swapped."""
        found = self._public_keys()
        if [keys.role for keys in found] != list(NAMES):
            raise Problem(
                ProblemType.INVALID_INPUT,
                "alice and bob are swapped: exchange MOIETY_SERVER_ALICE_URL and MOIETY_SERVER_BOB_URL",
            )
        urls = self.settings.alice_url, self.settings.bob_url
        alice, bob = (
            PartyEndpoint(name=k.role, url=u, sealing_key=k.sealing_key) for k, u in zip(found, urls, strict=True)
        )
        return alice, bob

    def _public_keys(self) -> list[PublicKeys]:
        return [PublicKeys.model_validate_json(self.call(p, "GET", "/v1/keys").content) for p in (0, 1)]

    def provider_key(self) -> PublicKey:
        """Return the crypto provider's key, pinned in the owner's folder. Raises INVALID_INPUT where there is none."""
        try:
            return self.identity.provider_key
        except StartRefused as refused:
            raise Problem(ProblemType.INVALID_INPUT, str(refused)) from None

    def refresh(self) -> list[str]:
        """Sign the parties' current keys and addresses into every entry, and renew each that has had half of its time.

        Returns the entries that changed.
        """
        renewed = self.catalogue.renew(self.identity.signing_key, self.parties())
        return [f"{name} {version}" for name, version in renewed]

    def activate(self, name: str, version: int) -> None:
        """Make this the version that clients get from now on, be it newer or older. Raises UNKNOWN_MODEL."""
        with self.audit.event("activate", subject="owner", model=name):
            self.catalogue.activate(name, version, self.identity.signing_key)

    def rekey(self, name: str, version: int | None = None) -> None:
        """Give a verified model another key, after a check of it failed: its weights and its entry stay. `version` is
        the active one unless it is named. Raises UNKNOWN_MODEL for a model whose runs are not verified."""
        entry = self.catalogue.get(name, version).entry
        if entry.plan.verified is None:
            raise Problem(ProblemType.UNKNOWN_MODEL, "its runs are not verified, so it has no key")
        body = RekeyRequest(key_id=secrets.token_hex(16)).model_dump(mode="json")
        with self.audit.event("rekey", subject="owner", model=name, upload=entry.upload_id):
            for party in (1, 0):  # bob first: alice opens leases
                self.call(party, "POST", f"/v1/models/{entry.upload_id}/rekey", json=body)

    def withdraw(self, name: str, version: int) -> None:
        """Take a version out of the catalogue and have its shares wiped. Repeat it when a party was away."""
        upload_id = self.catalogue.upload_id(name, version)
        with self.audit.event("withdraw", subject="owner", model=name, upload=upload_id):
            self._wipe(upload_id)
            self.catalogue.delete(name, version, self.identity.signing_key)

    def remove(self, upload_id: str) -> None:
        """Have the parties wipe an upload that no catalogue entry names, because its publish did not finish. May be
        repeated.

        Raises INVALID_INPUT for an upload that clients have.
        """
        for entry in self._entries():
            if entry.upload_id == upload_id:
                instead = f"it is published: use `moiety withdraw {entry.name} {entry.version}`"
                raise Problem(ProblemType.INVALID_INPUT, instead)
        with self.audit.event("withdraw", subject="owner", upload=upload_id):
            self._wipe(upload_id)
            self.uploads.wiped(upload_id)

    def left_over(self) -> list[LeftOver]:
        """Return the uploads that are on record or at a party and in no catalogue entry: their publish is under way, or
        ended half-way."""
        known = {upload.upload_id: upload for upload in self.uploads.unfinished()}
        there = [self._held(party) for party in (0, 1)]
        at_parties = {upload_id: held for one in there if one is not None for upload_id, held in one.items()}
        published = {entry.upload_id for entry in self._entries()}  # read last: a publish may have ended meanwhile
        found = []
        for upload_id in [*known, *(at for at in at_parties if at not in known)]:
            if upload_id in published:
                continue
            upload, held = known.get(upload_id), at_parties.get(upload_id)
            name, version = (upload.name, upload.version) if upload else (held.name, held.version) if held else ("", 0)
            at = tuple(None if one is None else upload_id in one for one in there)
            found.append(LeftOver(upload_id, name, version, upload.started if upload else None, at))
        return found

    def _held(self, party: int) -> dict[str, HeldModel] | None:
        """Return what a party has, by upload, or None when it does not answer."""
        try:
            answer = self.call(party, "GET", "/v1/models", most=_MOST_HELD)
        except Problem as problem:
            if problem.kind is not ProblemType.PEER_UNAVAILABLE:
                raise
            return None
        return {held.upload_id: held for held in HeldModels.model_validate_json(answer.content).models}

    def _entries(self) -> list[Entry]:
        """Return all versions of all models."""
        found = []
        for name in self.catalogue.names():
            for version in self.catalogue.versions(name):
                with contextlib.suppress(Problem):  # withdrawn meanwhile
                    found.append(self.catalogue.get(name, version).entry)
        return found

    def _wipe(self, upload_id: str) -> None:
        for party in (0, 1):  # the leader first: it asks the helper for nothing that is gone
            self.call(party, "DELETE", f"/v1/models/{upload_id}")
        self.auditable.forget(upload_id)

    def revoke(self, token_ids: list[str]) -> None:
        """Have both parties refuse these tokens, and all that were revoked before."""
        with self.audit.event("revoke", subject="owner", rows=len(token_ids)):
            self.issued.revoke(token_ids)
            self.push_revocations()

    def push_revocations(self) -> None:
        """Tell both parties which tokens are revoked. A party that is new has not heard of them."""
        for token_ids in self.issued.to_refuse(time.time()):
            for party in (0, 1):
                self.call(party, "PUT", "/v1/revocations", json={"token_ids": token_ids})
