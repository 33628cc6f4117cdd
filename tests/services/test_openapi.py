"""Each service against its own OpenAPI document: it answers as documented whatever it is sent, and to whom it may."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance, unsupported_method

from moiety_service.security.identity import LINKS, Identity
from moiety_shared.messages.catalogue import Entry
from moiety_shared.problems import PROBLEM_JSON, Problem, ProblemType
from tests.apps import services
from tests.asgi import listening

PRESENTS = {"alice": "server", "bob": "server", "crypto_provider": "alice"}
"""Whose credential opens a role's protected addresses."""
ROLES = ("server", "alice", "bob", "crypto_provider", "client")
# What a valid-looking body runs into (another plan, an unknown lease) is not in a schema.
EXCLUDED = [not_a_server_error, positive_data_acceptance, unsupported_method]


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
    @settings(max_examples=10, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
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
        ("server", "/v1/models/{name}/versions/{version}/files/{digest}"),
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
