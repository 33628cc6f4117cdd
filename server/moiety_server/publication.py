"""Publishing: masks the weights, uploads them to both parties, waits until these can serve, and signs the entry."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moiety_server import canaries
from moiety_server.compiler.compilation import Compiled
from moiety_server.compiler.ir import Inaccurate
from moiety_server.owner import NAMES, Owner
from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.crypto.signing import key_text
from moiety_shared.messages.catalogue import Access, Entry, Manifest, Preprocessing, SignedEntry, sign_manifest
from moiety_shared.messages.statements import MOST_WORDS
from moiety_shared.messages.table import Tabular
from moiety_shared.messages.tokens import SecretTokens, Tokens
from moiety_shared.messages.upload import Draws, MaskedModel
from moiety_shared.messages.verified import record_key
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols.words import row_bytes

VALID_DAYS = 90
"""The owner signs an entry anew after half of this time. So the signing key or the catalogue may be away for half of
it."""
Progress = Callable[[str, int, int], object]
"""Called with what is done now, and how many of how many bytes of it are; of 0 where it has no bytes."""
Chunk = bytes | memoryview
_DAY = 86400
_POLL_SECONDS = 0.1
_LEAST_SECONDS, _SLOWEST = 120.0, 4e6
"""How long to wait for the first row: so many seconds, and longer if it comes at fewer bytes a second than that."""


def publish(
    owner: Owner,
    name: str,
    compiled: Compiled,
    *,
    preprocessing: Preprocessing | Tabular | Tokens | SecretTokens | None,
    classes: tuple[str, ...],
    description: str,
    attached: Sequence[bytes] = (),
    access: Access = "token",
    activate: bool = True,
    offer_canaries: bool = True,
    auditable: bool = False,
    accept_error: bool = False,
    valid_days: int = VALID_DAYS,
    progress: Progress = lambda *_: None,
) -> SignedEntry:
    """Upload, wait for the first prepared randomness, and put the signed entry into the catalogue.

    It becomes active unless a newer version was published meanwhile. A publish that fails removes what it has uploaded.
    `attached` are the files that `preprocessing` names. `progress` hears of each step as it begins, and of the bytes
    that were sent.
    With `auditable` the parties sign what they send in each run, and the owner keeps a file for `moiety audit`.
    Raises Inaccurate, before anything is shared, where the plan's error is above what is tolerated and `accept_error`
    is not set.
    """
    if not (compiled.is_accurate or accept_error):
        raise Inaccurate(compiled.inaccuracy)
    plan = _addressed(compiled.plan, owner)
    if auditable:
        check_auditable(plan)
    parties = owner.parties()
    dealer = owner.provider_key()
    upload = owner.uploads.begin(name)
    upload_id, version = upload.upload_id, upload.version
    draws = Draws.fresh()
    masked = MaskedModel(upload_id, plan, compiled.weights, draws)
    keys = owner.statement_keys() if auditable else None
    what = {"name": name, "version": version, "access": access, "statement_keys": keys}
    with owner.audit.event("publish", subject="owner", model=name, upload=upload_id), _or_removed(owner, upload_id):
        owner.push_revocations()
        if keys is not None:
            owner.auditable.keep(masked, keys)
        for party in (1, 0):  # bob first: alice has randomness prepared for what he has too
            key = PublicKey.from_text(parties[party].sealing_key)
            length, body = upload_body(masked, what, party, owner.identity.signing_key, key, dealer)
            content = _counted(body, length, f"uploading to {NAMES[party]}", progress)
            headers = {"content-length": str(length)}
            owner.call(party, "PUT", f"/v1/models/{upload_id}", content=content, headers=headers)
        progress("choosing canaries", 0, 0)
        table = preprocessing if isinstance(preprocessing, Tabular) else None
        known = canaries.choose(compiled, table) if offer_canaries else ()
        progress("waiting for alice and bob to prepare randomness", 0, 0)
        states = _wait(owner, upload_id, plan.bundle_row_bytes)
        now = int(time.time())
        entry = Entry(
            name=name,
            version=version,
            upload_id=upload_id,
            plan=plan,
            parties=owner.parties(),  # ask again: their keys may have been replaced meanwhile
            max_rows=min(int(state["max_rows"]) for state in states),
            preprocessing=preprocessing,
            classes=classes,
            description=description,
            access=access,
            record_key=key_text(record_key(draws.seeds).public_key()) if plan.verified else None,
            canaries=known,
            revision=1,  # the catalogue gives it the next one
            active=activate,
            issued=now,
            expires=now + valid_days * _DAY,
        )
        return owner.catalogue.add(entry, owner.identity.signing_key, attached)


@contextmanager
def _or_removed(owner: Owner, upload_id: str) -> Iterator[None]:
    """However a publish ends, its upload is in the catalogue, or is wiped again, or stays on record as left over
    (`moiety uploads`). It is left over when a party cannot be reached for the wiping, or when this process is killed.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(Problem):
            owner.remove(upload_id)
        raise


def _counted(body: Iterable[Chunk], length: int, what: str, progress: Progress) -> Iterator[Chunk]:
    sent = 0
    progress(what, sent, length)
    for chunk in body:
        yield chunk
        sent += len(chunk)
        progress(what, sent, length)


def upload_body(
    masked: MaskedModel,
    what: Mapping[str, object],
    party: int,
    signing_key: Ed25519PrivateKey,
    own: PublicKey,
    dealer: PublicKey,
) -> tuple[int, Iterator[bytes | memoryview]]:
    """Return the length and the content of what one party is sent. `own` is the party's key, `dealer` the crypto
    provider's.

    `what` holds the manifest's name, version and access, and the keys of statements if runs are signed.
    """
    members = {"upload_id": masked.upload_id, "party": party, "owner_key": key_text(signing_key.public_key())}
    manifest = Manifest.model_validate({**what, **members, **masked.digests(party)})
    return masked.body(sign_manifest(manifest, signing_key), own, dealer)


def _addressed(plan: Plan, owner: Owner) -> Plan:
    """Put the owner's sealing key into a plan that counts right labels."""
    if plan.output.kind != "count" or not plan.input.classes:
        return plan
    members = plan.model_dump()
    key = owner.identity.keyring.public.text()
    return Plan.model_validate(members | {"output": members["output"] | {"owner_key": key}})


def check_auditable(plan: Plan) -> None:
    """Raises Problem INVALID_INPUT for a plan whose runs cannot be audited."""
    if not plan.rounds or plan.bundle_row_bytes > MOST_WORDS or row_bytes(plan) > MOST_WORDS:
        why = f"it opens nothing, or one input takes more than {MOST_WORDS >> 20} MiB of randomness"
        raise Problem(ProblemType.INVALID_INPUT, f"the model cannot be audited: {why}")


def _wait(owner: Owner, upload_id: str, row_bytes: int) -> list[dict[str, Any]]:
    """Wait until both parties have rows, of so many bytes each. Returns what they say of the upload."""
    seconds = _LEAST_SECONDS + row_bytes / _SLOWEST
    deadline = time.monotonic() + seconds
    while True:
        states = [owner.call(p, "GET", f"/v1/models/{upload_id}").json() for p in (0, 1)]
        if all(state["state"] == "ready" for state in states):
            return states
        if time.monotonic() > deadline:
            raise Problem(
                ProblemType.RANDOMNESS_EXHAUSTED, f"the parties could not prepare any in {seconds / 60:.0f} minutes"
            )
        time.sleep(_POLL_SECONDS)
