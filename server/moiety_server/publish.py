"""Publishing: split the weights, upload one share to each party, wait until they can serve, sign the entry."""

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

from moiety_server import canaries
from moiety_server.compile import Compiled
from moiety_server.owner import NAMES, Owner
from moiety_shared.catalogue import Access, Entry, Manifest, Preprocessing, SignedEntry, sign, sign_manifest
from moiety_shared.layers import ring_dtype
from moiety_shared.plan import Plan
from moiety_shared.prg import Stream, new_seed
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.ring import Array
from moiety_shared.sealing import PublicKey
from moiety_shared.service.keyring import Keyring
from moiety_shared.signing import key_text
from moiety_shared.wire import OwnerCount, pack_upload, upload_context

_POLL_SECONDS = 0.1


def split_weights(weights: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Two additive shares of every tensor; either alone is uniform."""
    stream = Stream(new_seed(), "weights")
    one = {name: stream.words(name, w.shape, w.dtype) for name, w in weights.items()}
    return one, {name: w - one[name] for name, w in weights.items()}


def open_count(keyring: Keyring, token: bytes, ring_bits: int) -> int:
    """The number in what a client handed on. Raises Problem SEALED_FOR_ANOTHER, KEY_RETIRED or MALFORMED."""
    count = OwnerCount.unpack(token)
    dtype = ring_dtype(ring_bits)
    shares = [keyring.open(count.envelopes[p], count.binding.context("count", p)) for p in (0, 1)]
    return int((np.frombuffer(shares[0], dtype=dtype) + np.frombuffer(shares[1], dtype=dtype))[0])


def publish(
    owner: Owner,
    name: str,
    compiled: Compiled,
    *,
    preprocessing: Preprocessing | None,
    classes: tuple[str, ...],
    description: str,
    access: Access = "token",
    activate: bool = True,
    offer_canaries: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> SignedEntry:
    """Upload, wait for the first prepared randomness, and put the signed entry into the catalogue."""
    plan = _addressed(compiled.plan, owner)
    parties = owner.parties()
    upload_id, version = secrets.token_hex(16), owner.catalogue.next_version(name)
    shares = split_weights(compiled.weights)
    what = {"upload_id": upload_id, "name": name, "version": version, "access": access}
    with owner.audit.event("publish", subject="owner", model=name, upload=upload_id):
        owner.push_revocations()
        for party in (1, 0):  # bob first: the masking starts when alice has hers
            progress(f"uploading the share of {NAMES[party]}")
            key = PublicKey.from_text(parties[party].sealing_key)
            body = upload_body(what, plan, party, shares[party], owner.identity.signing_key, key)
            owner.call(party, "PUT", f"/v1/models/{upload_id}", content=body)
        progress("choosing canaries")
        known = canaries.choose(compiled) if offer_canaries else ()
        progress("preparing randomness")
        states = _wait(owner, upload_id)
        entry = Entry(
            name=name,
            version=version,
            upload_id=upload_id,
            plan=plan,
            parties=parties,
            max_rows=min(int(state["max_rows"]) for state in states),
            preprocessing=preprocessing,
            classes=classes,
            description=description,
            access=access,
            canaries=known,
        )
        signed = sign(entry, owner.identity.signing_key)
        owner.catalogue.put(signed)
        if activate:
            owner.catalogue.activate(name, version)
    return signed


def upload_body(
    what: Mapping[str, object],
    plan: Plan,
    party: int,
    shares: Mapping[str, Array],
    signing_key: Ed25519PrivateKey,
    sealing_key: PublicKey,
) -> bytes:
    """What one party is sent: a signed manifest, the plan, and that party's shares, sealed to it.

    `what` are the manifest's upload_id, name, version and access.
    """
    content = save(dict(shares))
    members = {
        "party": party,
        "plan_digest": plan.digest.hex(),
        "share_digest": hashlib.sha256(content).hexdigest(),
        "owner_key": key_text(signing_key.public_key()),
    }
    manifest = Manifest.model_validate({**what, **members})
    envelope = sealing_key.seal(content, upload_context(plan, bytes.fromhex(manifest.upload_id), party))
    return pack_upload(sign_manifest(manifest, signing_key), plan, envelope)


def _addressed(plan: Plan, owner: Owner) -> Plan:
    """A plan that counts names the owner's sealing key."""
    if plan.output.kind != "count":
        return plan
    members = plan.model_dump()
    key = owner.identity.keyring.public.text()
    return Plan.model_validate(members | {"output": members["output"] | {"owner_key": key}})


def _wait(owner: Owner, upload_id: str, seconds: float = 120.0) -> list[dict[str, Any]]:
    """Until both parties have rows. Returns what they say of the upload."""
    deadline = time.monotonic() + seconds
    while True:
        states = [owner.call(p, "GET", f"/v1/models/{upload_id}").json() for p in (0, 1)]
        if all(state["state"] == "ready" for state in states):
            return states
        if time.monotonic() > deadline:
            raise Problem(ProblemType.RANDOMNESS_EXHAUSTED, "the parties could not prepare any in two minutes")
        time.sleep(_POLL_SECONDS)
