"""The provider's HTTP interface: who may ask for what, and what a refusal says."""

import base64
import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import URL

from moiety_crypto_provider.app import build
from moiety_crypto_provider.settings import ProviderSettings
from moiety_service.security.identity import Identity
from moiety_service.security.keys import rotate
from moiety_shared.crypto.channel import TAG_BYTES, lease_context
from moiety_shared.crypto.sealing import PrivateKey, PublicKey
from moiety_shared.messages.upload import context
from moiety_shared.plan.plan import Plan
from moiety_shared.problems import Problem, ProblemType
from tests.asgi import InProcess
from tests.provider.conftest import SEEDS

FRESH = PrivateKey(bytes(range(96)))
PUBLIC = {"key": FRESH.public.text()}


@pytest.fixture
def alice(identities: dict[str, Identity]) -> dict[str, str]:
    """What alice presents to the provider."""
    return {"authorization": f"Bearer {identities['alice'].credential('crypto_provider')}"}


@pytest.fixture
def bob(identities: dict[str, Identity]) -> dict[str, str]:
    return {"authorization": f"Bearer {identities['bob'].credential('crypto_provider')}"}


@pytest.fixture
def provider(tmp_path: Path, database: URL, identities: dict[str, Identity]) -> Iterator[InProcess]:
    url = SecretStr(database.render_as_string(hide_password=False))
    with InProcess(build(ProviderSettings(data_dir=tmp_path, database_url=url), identities["crypto_provider"])) as made:
        yield made


def registration(
    plan: Plan, provider_key: PublicKey, upload_id: str, seeds: tuple[bytes, bytes] = SEEDS
) -> dict[str, object]:
    """What a party hands on."""
    envelope = provider_key.seal(b"".join(seeds), context(plan, bytes.fromhex(upload_id), "dealer"))
    text = base64.b64encode(envelope).decode()
    return {"upload_id": upload_id, "plan": plan.model_dump(mode="json"), "seeds": text}


@pytest.fixture
def provider_key(identities: dict[str, Identity]) -> PublicKey:
    return identities["server"].provider_key


@pytest.fixture
def upload_id(
    provider: InProcess, plan: Plan, alice: dict[str, str], bob: dict[str, str], provider_key: PublicKey
) -> str:
    """Of an upload that both parties have registered, one of them twice."""
    body = registration(plan, provider_key, made := secrets.token_hex(16))
    assert [provider.post("/v1/uploads", json=body, headers=who).status_code for who in (alice, bob, bob)] == [204] * 3
    return made


def kind(response: object) -> ProblemType:
    return Problem.from_document(response.json()).kind  # type: ignore[attr-defined]


def test_a_bundle_is_issued_once_and_has_the_stated_length(
    provider: InProcess, plan: Plan, alice: dict[str, str], bob: dict[str, str], upload_id: str
) -> None:
    lease = provider.post("/v1/leases", json={"upload_id": upload_id, "rows": 8, **PUBLIC}, headers=alice).json()
    shown = {"json": {"ticket": lease["ticket"]}, "headers": bob}
    asked = {"ticket": lease["ticket"], **PUBLIC}
    joined = provider.post(f"/v1/leases/{lease['lease_id']}/join", json=asked, headers=bob).json()
    ours, theirs = (opened(answer, party) for party, answer in enumerate((lease, joined)))
    assert len(ours) == len(theirs) == 64 and ours[:32] != theirs[:32] and ours[32:] == theirs[32:]
    url = f"/v1/leases/{lease['lease_id']}/bundles"
    bundle = provider.post(f"{url}/0", **shown)
    assert len(bundle.content) == 8 * plan.bundle_row_bytes + TAG_BYTES == int(bundle.headers["content-length"])
    assert kind(provider.post(f"{url}/0", **shown)) is ProblemType.ALREADY_ISSUED
    assert provider.post(f"{url}/4", **shown).is_success
    assert kind(provider.post(f"{url}/3", **shown)) is ProblemType.ALREADY_ISSUED
    assert provider.post(f"{url}/5", **shown).content != bundle.content


def test_each_seed_goes_to_its_party_once(
    provider: InProcess, alice: dict[str, str], bob: dict[str, str], upload_id: str
) -> None:
    asked = {"upload_id": upload_id, "rows": 1, **PUBLIC}
    lease = provider.post("/v1/leases", json=asked, headers=alice).json()
    url, shown = f"/v1/leases/{lease['lease_id']}", {"json": {"ticket": lease["ticket"], **PUBLIC}}
    assert kind(provider.post(f"{url}/join", **shown, headers=alice)) is ProblemType.FORBIDDEN
    of_bob = provider.post(f"{url}/bundles/0", json={"ticket": lease["ticket"]}, headers=alice)
    assert kind(of_bob) is ProblemType.FORBIDDEN
    assert kind(provider.post("/v1/leases", json=asked, headers=bob)) is ProblemType.FORBIDDEN
    assert provider.post(f"{url}/join", **shown, headers=bob).is_success
    assert kind(provider.post(f"{url}/join", **shown, headers=bob)) is ProblemType.ALREADY_ISSUED


def test_both_parties_must_register_the_same(
    provider: InProcess,
    plan: Plan,
    bob: dict[str, str],
    upload_id: str,
    provider_key: PublicKey,
    identities: dict[str, Identity],
) -> None:
    members = plan.model_dump()
    other = Plan.model_validate(members | {"output": members["output"] | {"scale": 3.0}})
    sealed = registration(plan, provider_key, upload_id)
    stranger = PrivateKey.generate().public
    cases: list[tuple[dict[str, object], ProblemType]] = [
        (registration(other, provider_key, upload_id), ProblemType.UPLOAD_CONFLICT),
        (registration(plan, provider_key, upload_id, (SEEDS[0], bytes(32))), ProblemType.UPLOAD_CONFLICT),
        (sealed | {"upload_id": "ab" * 16}, ProblemType.SEALED_FOR_ANOTHER),
        (sealed | {"plan": other.model_dump(mode="json")}, ProblemType.SEALED_FOR_ANOTHER),
        (registration(plan, stranger, upload_id), ProblemType.PROVIDER_KEY_RETIRED),
        (sealed | {"seeds": "?"}, ProblemType.MALFORMED),
    ]
    for body, expected in cases:
        assert kind(provider.post("/v1/uploads", json=body, headers=bob)) is expected
    assert provider.post("/v1/uploads", json=sealed, headers=bob).is_success
    rotate(identities["crypto_provider"].folder, timedelta(days=1))
    assert provider.post("/v1/uploads", json=sealed, headers=bob).is_success, "the old key opens for a while"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic alice-secret"}])
def test_strangers_get_nothing(provider: InProcess, plan: Plan, headers: dict[str, str]) -> None:
    for path in ("/v1/uploads", "/v1/leases", "/v1/leases/x/join", "/v1/leases/x/bundles/0"):
        answer = provider.post(path, json={"upload_id": "0" * 32, "rows": 1, "plan": {}}, headers=headers)
        assert answer.status_code == 401 and kind(answer) is ProblemType.UNAUTHORIZED


def opened(answer: dict[str, str], party: int) -> bytes:
    """A party's seed of the lease, and the key of its tags."""
    ticket, sealed = (base64.b64decode(answer[name]) for name in ("ticket", "seeds"))
    context = lease_context(party, answer["lease_id"], answer["upload_id"], int(answer["rows"]), ticket)
    return FRESH.open(sealed, context)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_either_party_ends_a_lease(
    provider: InProcess, alice: dict[str, str], bob: dict[str, str], upload_id: str, who: str
) -> None:
    asked = {"upload_id": upload_id, "rows": 1, **PUBLIC}
    ended, other = (provider.post("/v1/leases", json=asked, headers=alice).json() for _ in range(2))
    url = f"/v1/leases/{ended['lease_id']}"
    assert kind(provider.delete(url)) is ProblemType.UNAUTHORIZED
    shown = {"json": {"ticket": ended["ticket"]}, "headers": bob}
    assert provider.post(f"{url}/bundles/0", **shown).is_success
    for _ in range(2):
        assert provider.delete(url, headers={"alice": alice, "bob": bob}[who]).status_code == 204
    assert kind(provider.post(f"{url}/bundles/1", **shown)) is ProblemType.UNKNOWN_LEASE
    shown["json"]["ticket"] = other["ticket"]
    assert provider.post(f"/v1/leases/{other['lease_id']}/bundles/0", **shown).is_success


@pytest.mark.parametrize("key", ["", "x", "A" * 1624, "é"])
def test_a_seed_is_sealed_to_a_key_or_not_given_out(
    provider: InProcess, alice: dict[str, str], upload_id: str, key: str
) -> None:
    asked = {"upload_id": upload_id, "rows": 1, "key": key}
    assert kind(provider.post("/v1/leases", json=asked, headers=alice)) is ProblemType.INVALID_INPUT


async def chunks() -> AsyncIterator[bytes]:
    yield b"x"


def test_bad_requests_are_problem_documents_without_the_input(
    provider: InProcess, alice: dict[str, str], bob: dict[str, str]
) -> None:
    for body in ({"upload_id": "marker-4711", "rows": 1}, {"rows": "marker-4711"}, ["marker-4711"]):
        answer = provider.post("/v1/leases", json=body, headers=alice)
        assert answer.headers["content-type"] == "application/problem+json"
        assert kind(answer) is ProblemType.INVALID_INPUT and "marker-4711" not in answer.text
    for ticket in ("", "A" * 152, "-" * 152):
        unknown = provider.post("/v1/leases/unknown/bundles/0", json={"ticket": ticket}, headers=bob)
        assert kind(unknown) is ProblemType.UNKNOWN_LEASE
    assert kind(provider.get("/nowhere")) is ProblemType.NOT_FOUND
    assert kind(provider.get("/v1/leases")) is ProblemType.METHOD_NOT_ALLOWED
    large = provider.post("/v1/leases", content=b"x" * (1 << 21), headers=alice)
    assert large.status_code == 413
    packed = provider.post("/v1/leases", content=b"x", headers=alice | {"content-encoding": "gzip"})
    assert kind(packed) is ProblemType.ENCODING_REFUSED
    chunked = provider.post("/v1/leases", content=chunks(), headers=alice)
    assert kind(chunked) is ProblemType.LENGTH_REQUIRED
