"""Each service against its own OpenAPI document: it answers as documented whatever it is sent, and to whom it may."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest
import requests
import schemathesis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

from moiety_client import sidecar
from moiety_client.settings import ClientSettings
from moiety_crypto_provider import app as provider
from moiety_crypto_provider.settings import ProviderSettings
from moiety_party import app as party
from moiety_party.settings import PartySettings
from moiety_server import app as server
from moiety_server.catalogue import Catalogue
from moiety_server.records import records
from moiety_server.settings import ServerSettings
from moiety_server.uploads import Uploads
from moiety_shared.access import Access
from moiety_shared.catalogue import Entry, sign
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType
from moiety_shared.service.identity import LINKS, Identity
from moiety_shared.service.settings import ServiceSettings
from tests.asgi import listening

NOWHERE = "http://127.0.0.1:9"
PRESENTS = {"alice": "server", "bob": "server", "crypto_provider": "alice"}
"""Whose credential opens a role's protected addresses."""
ROLES = ("server", "alice", "bob", "crypto_provider", "client")
# What a valid-looking body runs into (another plan, an unknown lease) is not in a schema.
EXCLUDED = [not_a_server_error, positive_data_acceptance, unsupported_method]


def a_party(role: str, folder: Path) -> PartySettings:
    return PartySettings(
        role=role,  # type: ignore[arg-type]
        data_dir=folder,
        provider_url=NOWHERE,
        peer_url=NOWHERE.replace("http", "ws"),
        transport="plain",
    )


def services(
    root: Path, entry: Entry, identities: dict[str, Identity]
) -> Iterator[tuple[str, FastAPI, ServiceSettings]]:
    owner = ServerSettings(data_dir=root / "server")
    with closing(records(owner)) as db:
        begun = Uploads(db).begin(entry.name)
        members = {"upload_id": begun.upload_id, "version": begun.version}
        Catalogue(db).add(sign(entry.model_copy(update=members), Ed25519PrivateKey.generate()), activate=True)
    yield "server", server.build(owner, identities["server"]), owner
    for role in ("alice", "bob"):
        yield role, party.build(a_party(role, root / role), identities[role]), a_party(role, root / role)
    dealing = ProviderSettings(data_dir=root / "provider")
    yield "crypto_provider", provider.build(dealing, identities["crypto_provider"]), dealing
    access = root / "access.json"
    access.write_text(Access(catalogue_url=NOWHERE, owner_key="").model_dump_json())
    local = ClientSettings(data_dir=root / "client", access_file=access, timeout=0.5)
    upstream = sidecar.Upstream.from_access(access, timeout=0.5)
    signed = sign(entry, Ed25519PrivateKey.generate())
    upstream._owner_key = signed.owner_key

    def catalogue_alone(request: httpx.Request) -> httpx.Response:
        if request.url.path == f"/v1/models/{entry.name}":
            return httpx.Response(200, text=signed.model_dump_json())
        raise httpx.ConnectError("nobody there", request=request)

    upstream._http = httpx.AsyncClient(transport=httpx.MockTransport(catalogue_alone))
    yield "client", sidecar.build(upstream, local), local


@pytest.fixture(scope="module")
def urls(
    tmp_path_factory: pytest.TempPathFactory, entry: Entry, identities: dict[str, Identity]
) -> Iterator[dict[str, str]]:
    root = tmp_path_factory.mktemp("openapi")
    with ExitStack() as running:
        yield {
            role: f"http://127.0.0.1:{running.enter_context(listening(app, chosen))}"
            for role, app, chosen in services(root, entry, identities)
        }


@pytest.fixture(scope="module")
def credentials(identities: dict[str, Identity]) -> dict[tuple[str, str], str]:
    """By who presents it, and to whom."""
    return {(who, whom): identities[who].credential(whom) for who, links in LINKS.items() for whom in links.presents}


def headers(role: str, credentials: dict[tuple[str, str], str]) -> dict[str, str]:
    return {"authorization": f"Bearer {credentials[PRESENTS[role], role]}"} if role in PRESENTS else {}


def document(url: str) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    return requests.get(f"{url}/openapi.json", timeout=10).json()  # type: ignore[no-any-return]


@pytest.mark.parametrize("role", ROLES)
def test_answers_are_those_of_the_document(
    urls: dict[str, str], credentials: dict[tuple[str, str], str], role: str
) -> None:
    schema = schemathesis.openapi.from_url(f"{urls[role]}/openapi.json")
    seen: set[int] = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        modes = list(GenerationMode) if operation.body or operation.path_parameters else [GenerationMode.POSITIVE]
        for mode in modes:
            with suppress(Unsatisfiable):  # where any text is a name, nothing is wrong
                attempt(
                    operation.as_strategy(generation_mode=mode),
                    lambda case: seen.add(answered(case, headers(role, credentials))),
                )
    assert 200 in seen and seen & {400, 404, 405, 422}, "some were taken, some refused"


def attempt(cases: "st.SearchStrategy[schemathesis.Case]", one: Callable[[schemathesis.Case], object]) -> None:
    @settings(max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(cases)
    def run(case: schemathesis.Case) -> None:
        one(case)

    run()


def answered(case: schemathesis.Case, given_headers: dict[str, str]) -> int:
    response = case.call(headers=given_headers, timeout=30)
    status: int = response.status_code
    assert status < 500 or (status == 503 and int(response.headers["retry-after"][0]) > 0), response.text
    case.validate_response(response, excluded_checks=EXCLUDED, headers=given_headers)
    return status


@pytest.mark.parametrize("role", PRESENTS)
def test_every_protected_address_knows_one_link_only(
    urls: dict[str, str], credentials: dict[tuple[str, str], str], role: str
) -> None:
    """Nothing, garbage and every other link's credential get 401 or 403, whatever else is right or wrong."""
    protected = 0
    for path, operations in document(urls[role])["paths"].items():
        for method, operation in operations.items():
            if {} in operation.get("security", [{}]):  # type: ignore[comparison-overlap]
                continue
            protected += 1
            url = urls[role] + path.format(upload_id="0" * 32, lease_id="0" * 32, number="0")
            right = {credentials[PRESENTS[role], role], credentials.get(("bob", role))}
            for credential in {*credentials.values(), "", "garbage", f"{credentials[PRESENTS[role], role]}x"} - right:
                for body in (b"", b"{}", b"x" * 2000):
                    sent = {"authorization": f"Bearer {credential}", "content-type": "application/json"}
                    answer = requests.request(method, url, data=body, headers=sent, timeout=10)
                    assert answer.status_code in (401, 403), (method, path, credential, body)
                    assert answer.headers["content-type"] == PROBLEM_JSON
    assert protected >= 2


def test_what_is_open_is_meant_to_be(urls: dict[str, str]) -> None:
    """Every address that asks for no credential is named here. The sidecar is for programs of its own machine."""
    found = {
        (role, path)
        for role in ROLES
        for path, operations in document(urls[role])["paths"].items()
        for operation in operations.values()
        if {} in operation.get("security", [{}]) and not path.startswith("/health/")
    }
    assert found == {
        ("server", "/v1/models"),
        ("server", "/v1/models/{name}"),
        ("server", "/v1/models/{name}/versions"),
        ("server", "/v1/models/{name}/versions/{version}"),
        ("alice", "/v1/keys"),
        ("alice", "/v1/predictions"),
        ("bob", "/v1/keys"),
        *(("client", path) for path in document(urls["client"])["paths"] if not path.startswith("/health/")),
    }


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("crypto_provider", "/v1/uploads"),
        ("crypto_provider", "/v1/leases"),
        ("client", "/v2/models/mnist/infer"),
        ("alice", "/v1/predictions"),
    ],
)
@pytest.mark.parametrize(
    "text",
    [b"[" * 900_000, b'{"a":' * 150_000, b'{"rows": ' + b"9" * 9000 + b"}", b'{"rows": NaN, "inputs": [NaN]}', b'"'],
    ids=["lists", "objects", "digits", "nan", "text"],
)
def test_hostile_json_everywhere(
    urls: dict[str, str], credentials: dict[tuple[str, str], str], role: str, path: str, text: bytes
) -> None:
    sent = headers(role, credentials) | {"content-type": "application/json"}
    answer = requests.post(urls[role] + path, data=text, headers=sent, timeout=10)
    assert answer.status_code in (400, 413, 422)
    assert Problem.from_document(answer.json()).kind is not ProblemType.INTERNAL
    assert requests.get(urls[role] + "/health/live", timeout=10).ok
