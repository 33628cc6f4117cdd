"""Pages in browsers: those of listed sites may ask alice and read the catalogue, and no others."""

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import ValidationError

from moiety_party.leader import app as leader
from moiety_party.settings import PartySettings
from moiety_server import app as server
from moiety_server.settings import ServerSettings
from moiety_service.security.identity import Identity
from moiety_shared.problems import Problem, ProblemType
from tests.asgi import InProcess

LISTED, OTHER = "https://app.example", "https://other.example"
ORIGINS = f"{LISTED}, http://127.0.0.1:8000"
PREDICTIONS = "/v1/predictions"


def apps(root: Path, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch, listed: str) -> list[FastAPI]:
    """alice and the catalogue, which read their settings from the environment as a process does."""
    for role in ("PARTY", "SERVER"):
        monkeypatch.setenv(f"MOIETY_{role}_ORIGINS", listed)
    party = PartySettings(
        data_dir=root / "alice", transport="plain", provider_url="http://127.0.0.1:9", peer_url="ws://127.0.0.1:9"
    )
    owner = ServerSettings(data_dir=root / "server")
    return [leader.build(party, identities["alice"]), server.build(owner, identities["server"])]


def preflight(app: FastAPI, path: str, origin: str, method: str = "POST") -> httpx.Response:
    asked = {"access-control-request-method": method, "access-control-request-headers": "authorization,content-type"}
    return InProcess(app).request("OPTIONS", path, headers={"origin": origin} | asked)


def kind(answer: httpx.Response) -> ProblemType:
    return Problem.from_document(answer.json()).kind


def cors(answer: httpx.Response) -> set[str]:
    return {name for name in answer.headers if name.startswith("access-control-")}


def test_a_listed_page_may_ask_and_read(
    tmp_path: Path, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, catalogue = apps(tmp_path, identities, monkeypatch, ORIGINS)
    for origin in (LISTED, "http://127.0.0.1:8000"):
        allowed = preflight(alice, PREDICTIONS, origin)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == origin
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert int(allowed.headers["access-control-max-age"]) > 600, "or each prediction costs two requests"
        for answer in (
            InProcess(catalogue).get("/v1/models", headers={"origin": origin}),
            InProcess(alice).post(PREDICTIONS, content=b"?", headers={"origin": origin}),
            InProcess(alice).post(PREDICTIONS, content=b"?", headers={"origin": origin, "content-encoding": "gzip"}),
        ):
            assert answer.headers["access-control-allow-origin"] == origin, "a page reads problems too"
            assert "origin" in answer.headers["vary"].lower()
            assert "x-request-id" in answer.headers["access-control-expose-headers"]
            assert "access-control-allow-credentials" not in answer.headers
        assert kind(answer) is ProblemType.ENCODING_REFUSED


@pytest.mark.parametrize("listed", [ORIGINS, ""])
@pytest.mark.parametrize("origin", [OTHER, f"{LISTED}.evil.example", "http://app.example", "null", f"{LISTED}:8443"])
def test_another_page_reads_nothing_and_nothing_of_its_body_is_read(
    tmp_path: Path, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch, listed: str, origin: str
) -> None:
    alice, catalogue = apps(tmp_path, identities, monkeypatch, listed)
    asked = preflight(alice, PREDICTIONS, origin)
    assert asked.status_code >= 400 and "access-control-allow-origin" not in asked.headers
    assert (
        "access-control-allow-origin" not in InProcess(catalogue).get("/v1/models", headers={"origin": origin}).headers
    )
    simple = {"origin": origin, "content-type": "text/plain"}  # which a browser sends without a preflight
    read = list[bytes]()

    async def body() -> object:
        read.append(b"?")
        yield b"?"

    answer = InProcess(alice).post(PREDICTIONS, content=body(), headers=simple | {"content-length": "1"})
    assert kind(answer) is ProblemType.CROSS_ORIGIN and "access-control-allow-origin" not in answer.headers
    assert not read


def test_without_a_list_no_answer_has_such_headers(
    tmp_path: Path, identities: dict[str, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, catalogue = apps(tmp_path, identities, monkeypatch, "")
    assert not cors(InProcess(catalogue).get("/v1/models", headers={"origin": LISTED}))
    assert not cors(preflight(alice, PREDICTIONS, LISTED))
    answer = InProcess(alice).post(PREDICTIONS, content=b"?")
    assert not cors(answer) and kind(answer) is not ProblemType.CROSS_ORIGIN, "a program that is no browser"


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "app.example",
        "http://app.example",
        "https://App.example",
        "https://me@app.example",
        f"{LISTED}/",
        f"{LISTED}/page",
    ],
)
def test_what_is_no_safe_origin_is_refused(origin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOIETY_SERVER_ORIGINS", f"{LISTED},{origin}")
    with pytest.raises(ValidationError, match="is not an origin"):
        ServerSettings()
