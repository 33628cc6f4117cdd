"""Publishing: split the weights, upload one share to each party, wait until they can serve, sign the entry."""

import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save

from moiety_server.catalogue import Catalogue
from moiety_server.compile import Compiled
from moiety_server.settings import ServerSettings
from moiety_shared.catalogue import Entry, Party, Preprocessing, SignedEntry, public_text, sign
from moiety_shared.layers import ring_dtype
from moiety_shared.plan import Plan
from moiety_shared.prg import Stream, new_seed
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.ring import Array
from moiety_shared.sealing import PrivateKey, PublicKey
from moiety_shared.service import http
from moiety_shared.wire import OwnerCount, pack_upload, upload_context

_POLL_SECONDS = 0.1


def split_weights(weights: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Two additive shares of every tensor; either alone is uniform."""
    stream = Stream(new_seed(), "weights")
    one = {name: stream.words(name, w.shape, w.dtype) for name, w in weights.items()}
    return one, {name: w - one[name] for name, w in weights.items()}


def signing_key(folder: Path) -> Ed25519PrivateKey:
    """The owner's key, made at first use."""
    path = folder / "owner.key"
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(Ed25519PrivateKey.generate().private_bytes_raw())
    return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


def sealing_key(folder: Path) -> PrivateKey:
    """The owner's other key, for counts that only the owner may read; made at first use."""
    path = folder / "owner.sealing"
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(PrivateKey.generate().raw)
    return PrivateKey(path.read_bytes())


def open_count(key: PrivateKey, token: bytes, ring_bits: int) -> int:
    """The number in what a client handed on. Raises Problem SEALED_FOR_ANOTHER or MALFORMED."""
    count = OwnerCount.unpack(token)
    dtype = ring_dtype(ring_bits)
    shares = [key.open(count.envelopes[p], count.binding.context("count", p)) for p in (0, 1)]
    return int((np.frombuffer(shares[0], dtype=dtype) + np.frombuffer(shares[1], dtype=dtype))[0])


class Publisher:
    """The owner's connection to both parties."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        links = (
            (settings.alice_url, settings.alice_credential),
            (settings.bob_url, settings.bob_credential),
        )
        self._clients = [
            http.client(url, credential=credential.get_secret_value(), timeout=120) for url, credential in links
        ]

    def close(self) -> None:
        for client in self._clients:
            client.close()

    @property
    def owner_key(self) -> str:
        """The key that clients pin, base64url."""
        return public_text(signing_key(self._settings.private_dir()))

    def publish(
        self,
        name: str,
        compiled: Compiled,
        *,
        preprocessing: Preprocessing | None,
        classes: tuple[str, ...],
        description: str,
        progress: Callable[[str], None] = lambda _: None,
    ) -> SignedEntry:
        """Upload, wait for the first prepared randomness, and put the signed entry into the catalogue."""
        plan = self._addressed(compiled.plan)
        keys = [self._get(party, "/v1/keys").json() for party in (0, 1)]
        if [k["role"] for k in keys] != ["alice", "bob"]:
            raise Problem(ProblemType.INVALID_INPUT, "alice's and bob's addresses are swapped in the settings")
        upload_id = secrets.token_hex(16)
        shares = split_weights(compiled.weights)
        for party in (1, 0):  # bob first: the masking starts when alice has hers
            progress(f"uploading the share of {keys[party]['role']}")
            self._upload(party, PublicKey.from_text(keys[party]["sealing_key"]), plan, upload_id, shares[party])
        progress("preparing randomness")
        self._wait(upload_id)
        catalogue = Catalogue(self._settings.private_dir())
        entry = Entry(
            name=name,
            version=catalogue.next_version(name),
            upload_id=upload_id,
            plan=plan,
            parties=(
                Party(name="alice", url=self._settings.alice_url, sealing_key=keys[0]["sealing_key"]),
                Party(name="bob", url=self._settings.bob_url, sealing_key=keys[1]["sealing_key"]),
            ),
            max_rows=min(int(self._get(p, f"/v1/models/{upload_id}").json()["max_rows"]) for p in (0, 1)),
            preprocessing=preprocessing,
            classes=classes,
            description=description,
        )
        signed = sign(entry, signing_key(self._settings.private_dir()))
        catalogue.put(signed)
        return signed

    def _addressed(self, plan: Plan) -> Plan:
        """A plan that counts names the owner's sealing key."""
        if plan.output.kind != "count":
            return plan
        key = sealing_key(self._settings.private_dir()).public.text()
        members = plan.model_dump()
        return Plan.model_validate(members | {"output": members["output"] | {"owner_key": key}})

    def _upload(self, party: int, key: PublicKey, plan: Plan, upload_id: str, shares: dict[str, Array]) -> None:
        context = upload_context(plan, bytes.fromhex(upload_id), party)
        body = pack_upload(plan, key.seal(save(shares), context))
        try:
            http.check(self._clients[party].put(f"/v1/models/{upload_id}", content=body))
        except httpx.HTTPError as error:
            raise self._unreachable(party) from error

    def _get(self, party: int, path: str) -> httpx.Response:
        try:
            return http.check(self._clients[party].get(path))
        except httpx.HTTPError as error:
            raise self._unreachable(party) from error

    def _unreachable(self, party: int) -> Problem:
        name = ("alice", "bob")[party]
        return Problem(ProblemType.PEER_UNAVAILABLE, f"{name} does not answer at {self._clients[party].base_url}")

    def _wait(self, upload_id: str, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not all(self._get(p, f"/v1/models/{upload_id}").json()["state"] == "ready" for p in (0, 1)):
            if time.monotonic() > deadline:
                raise Problem(ProblemType.RANDOMNESS_EXHAUSTED, "the parties could not prepare any in two minutes")
            time.sleep(_POLL_SECONDS)
