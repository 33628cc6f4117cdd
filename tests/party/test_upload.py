"""A model upload: what each of the three gets, what of it is checked, and how little of it is in memory at a time."""

import asyncio
import base64
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from moiety_party.arriving import Body, read_head, read_weights
from moiety_party.objects import Folder
from moiety_party.party import Party
from moiety_party.provider import Provider
from moiety_party.settings import PartySettings
from moiety_party.store import ModelStore
from moiety_server.publication import upload_body
from moiety_service.security.identity import Identity
from moiety_shared.crypto.prg import Stream
from moiety_shared.crypto.sealing import PublicKey
from moiety_shared.messages import upload
from moiety_shared.messages.catalogue import SignedManifest
from moiety_shared.messages.upload import Draws, Head, MaskedModel, Upload
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from moiety_shared.protocols import graph
from moiety_shared.ring import Array
from tests import plans

OWNER = Ed25519PrivateKey.generate()
ID = "ab" * 16
NAMES = ("alice", "bob")
PLAN = plans.logits()


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a small tensor takes several."""
    monkeypatch.setattr(upload, "CHUNK_BYTES", 16)


def body(
    identities: dict[str, Identity],
    party: int,
    draws: Draws,
    weights: dict[str, Array] | None = None,
    plan: Plan = PLAN,
    **what: object,
) -> bytes:
    masked = MaskedModel(ID, plan, weights or plans.weights(), draws)
    keys = identities[NAMES[party]].keyring.public, identities["server"].provider_key
    length, content = upload_body(masked, {"name": "m", "version": 1, **what}, party, OWNER, *keys)
    raw = b"".join(content)
    assert len(raw) == length
    return raw


async def pieces(raw: bytes) -> AsyncIterator[bytes]:
    """As a socket brings them."""
    for at in range(0, len(raw), 777):
        yield raw[at : at + 777]


def received(identities: dict[str, Identity], party: int, raw: bytes) -> Upload:
    async def away(function: Any, *arguments: object) -> None:
        function(*arguments)

    async def read() -> Upload:
        incoming = Body(pieces(raw), len(raw))
        head = await read_head(incoming, ID, party)
        return await read_weights(incoming, head, identities[NAMES[party]].keyring, away)

    return asyncio.run(read())


@pytest.mark.usefixtures("small_chunks")
def test_both_get_the_same_and_a_true_share_each(identities: dict[str, Identity]) -> None:
    draws, w = Draws.fresh(), plans.weights()
    uploads = [received(identities, p, body(identities, p, draws)) for p in (0, 1)]
    alice, bob = (u.weights()["l"] for u in uploads)
    assert uploads[0].manifest.weights_digest == uploads[1].manifest.weights_digest
    assert np.array_equal(alice.masked, bob.masked)
    assert np.array_equal(alice.local + bob.local, w["l.weight"])
    assert np.array_equal(alice.bias + bob.bias, w["l.bias"])
    masks = graph.weight_masks(PLAN, *(Stream(seed, "upload") for seed in draws.seeds))
    assert np.array_equal(alice.masked - masks["l"], w["l.weight"]), "the dealer's masks are the owner's"
    again = received(identities, 0, body(identities, 0, Draws.fresh()))
    assert not np.array_equal(again.masked["l.weight"], alice.masked), "fresh masks for every upload"


def test_a_weightless_bias_is_shared_too(identities: dict[str, Identity]) -> None:
    """A Bias layer's constants, in a ring of 64 bits."""
    members = plans.logits().model_dump(mode="json")
    bias = {"op": "bias", "name": "b", "input": "l", "shape": [plans.CLASSES], "bias_shape": [plans.CLASSES]}
    members |= {"ring_bits": 64, "layers": [*members["layers"], bias]}
    plan = Plan.model_validate(members | {"output": members["output"] | {"wire": "b"}})
    w = {name: np.arange(np.prod(shape), dtype=np.int64).reshape(shape) << 40 for name, shape in plan.weights()}
    draws = Draws.fresh()
    alice, bob = (received(identities, p, body(identities, p, draws, w, plan)).weights() for p in (0, 1))
    assert alice["b"].masked is None and np.array_equal(alice["b"].bias + bob["b"].bias, w["b.bias"])
    assert np.array_equal(alice["l"].local + bob["l"].local, w["l.weight"])


@pytest.mark.usefixtures("small_chunks")
def test_weights_that_the_owner_did_not_sign_are_refused(identities: dict[str, Identity]) -> None:
    """alice, who knows what w^ is, would shift it at bob: under another seed, other weights, or another manifest."""
    draws = Draws.fresh()
    shifted = {name: tensor + 1 for name, tensor in plans.weights().items()}
    good, bad = body(identities, 1, draws), body(identities, 1, draws, shifted)
    received(identities, 1, good)
    head, other = (upload.Head.unpack(raw[: _head_length(raw)]) for raw in (good, bad))
    content = good[_head_length(good) :], bad[_head_length(bad) :]
    signed = SignedManifest(manifest=other.manifest, signature=head.signed.signature)
    elsewhere = Draws(draws.seeds, bytes(32), draws.keys)
    third = upload.Head.unpack((raw := body(identities, 1, elsewhere))[: _head_length(raw)])
    reseeded = Draws((draws.seeds[0], bytes(32)), draws.nonce, draws.keys)
    fourth = upload.Head.unpack((raw := body(identities, 1, reseeded))[: _head_length(raw)])
    for changed in (
        head.pack() + content[1],  # w^ alone
        _with(head, own_envelope=third.own_envelope).pack() + content[0],  # the nonce
        _with(head, own_envelope=fourth.own_envelope).pack() + content[0],  # the seed
        _with(head, signed=signed).pack() + content[1],  # the manifest
        head.pack() + content[0][32:64] + content[0][:32] + content[0][64:],  # chunks of it, in another order
        head.pack() + content[0][:-1],
        head.pack() + content[0] + b"x",
        head.pack()[:-1] + content[0],
        good[:11],
        b"",
    ):
        with pytest.raises(Problem) as caught:
            received(identities, 1, changed)
        assert caught.value.kind in (ProblemType.MALFORMED, ProblemType.SEALED_FOR_ANOTHER)
    with pytest.raises(Problem, match="to the other party"):
        received(identities, 0, good)


def _head_length(raw: bytes) -> int:
    return upload.HEADER_BYTES + upload.Head.size(raw)


def _with(head: upload.Head, **members: Any) -> upload.Head:
    found = {name: getattr(head, name) for name in ("signed", "plan", "dealer_envelope", "own_envelope")}
    return upload.Head(**(found | members))


def test_nothing_that_the_provider_gets_depends_on_the_weights(identities: dict[str, Identity]) -> None:
    """It knows s: with w + s, or its digest, it could try out what it takes w to be."""
    sent: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(204)

    async def hand_on(raw: bytes) -> None:
        head = upload.Head.unpack(raw[: _head_length(raw)])
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://p") as client:
            await Provider(client).register(ID, head.plan, head.dealer_envelope)

    draws = Draws.fresh()
    plain = PublicKey.seal
    with pytest.MonkeyPatch.context() as patch:  # what is sealed, in the clear
        patch.setattr(PublicKey, "seal", lambda self, message, bound: plain(self, b"", bound) + message)
        for w in (plans.weights(), {name: tensor * 3 for name, tensor in plans.weights().items()}):
            asyncio.run(hand_on(body(identities, 0, draws, w)))
    assert [set(each) for each in sent] == [{"upload_id", "plan", "seeds"}] * 2
    inside = [base64.b64decode(each.pop("seeds"))[-64:] for each in sent]
    assert inside == [b"".join(draws.seeds)] * 2 and sent[0] == sent[1]


# Memory


@contextmanager
def measured() -> Iterator[list[int]]:
    """The most bytes that were allocated meanwhile."""
    found: list[int] = []
    tracemalloc.start()
    try:
        yield found
        found.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def test_a_large_model_passes_through_in_pieces(identities: dict[str, Identity], tmp_path: Path) -> None:
    """The owner makes no copy of it, a party none but the two that it computes with: w^ and its own share."""
    features, outputs = 1024, 6144
    members = plans.logits().model_dump(mode="json")
    members["input"]["shape"] = members["layers"][0]["shape"] = members["layers"][1]["shape"] = [features]
    members["layers"][1]["out_features"] = outputs
    members["output"]["shape"] = [outputs]
    plan = Plan.model_validate(members)
    w = {name: np.zeros(shape, np.int32) for name, shape in plan.weights()}
    size, spare, draws = sum(tensor.nbytes for tensor in w.values()), 8 << 20, Draws.fresh()
    assert size > 24_000_000
    masked = MaskedModel(ID, plan, w, draws)
    keys = identities["bob"].keyring.public, identities["server"].provider_key
    with measured() as peak:
        _, content = upload_body(masked, {"name": "m", "version": 1}, 1, OWNER, *keys)
        for _ in content:
            pass
    assert peak[0] < spare, "the owner"
    raw = body(identities, 1, draws, w, plan)
    with measured() as peak:
        stored = received(identities, 1, raw)
        store = ModelStore(Folder(tmp_path / "models"), bytes(range(32)))
        store.put(stored)
        del stored
    assert peak[0] < 2 * size + spare, "a party, at the upload"
    del store
    with measured() as peak:
        ModelStore(Folder(tmp_path / "models"), bytes(range(32)))
    assert peak[0] < 2 * size + spare, "a party, at its start"
    streams = (Stream(seed, "upload") for seed in draws.seeds)
    with measured() as peak:
        graph.weight_masks(plan, *streams)
    assert peak[0] < 2 * size + spare, "the provider: s, and a half of the largest layer's"


# Deletes


def test_what_is_deleted_while_it_arrives_is_gone(identities: dict[str, Identity], tmp_path: Path) -> None:
    """The owner gave up: its DELETE overtakes the upload, which the party still has to put away."""
    registered: list[str] = []

    async def scenario() -> None:
        party: Party

        async def answer(request: httpx.Request) -> httpx.Response:
            registered.append(request.method)
            if request.method == "POST":
                await party.models.delete(ID)
            return httpx.Response(204)

        client = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://p")
        party = Party(PartySettings(role="bob", data_dir=tmp_path), identities["bob"], client)
        raw = body(identities, 1, Draws.fresh())
        for _ in range(2):
            with pytest.raises(Problem) as caught:
                await party.models.receive(ID, pieces(raw), len(raw))
            assert caught.value.kind is ProblemType.UPLOAD_CONFLICT
            assert ID not in party.store and not list((tmp_path / "models").iterdir())
        await party.close()

    asyncio.run(scenario())
    assert registered[-1] == "DELETE", "the provider forgets it, too"


@given(st.binary(max_size=300))
def test_garbage_for_a_head_is_malformed_and_nothing_else(raw: bytes) -> None:
    with pytest.raises(Problem) as refused:
        Head.unpack(raw)
    assert refused.value.kind is ProblemType.MALFORMED
