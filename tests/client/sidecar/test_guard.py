"""Who may use the sidecar, and who may not."""

import pytest

from moiety_client.settings import ClientSettings
from moiety_client.sidecar import Exposed, Upstream, build
from moiety_shared.problems import Problem, ProblemType
from tests.asgi import InProcess
from tests.client.sidecar.conftest import Local

PATHS = ["/", "/docs", "/v2", "/v2/models/mnist", "/health/live", "/web/app.js", "/openapi.json", "/nothing"]


@pytest.mark.parametrize("host", ["0.0.0.0", "", "192.168.1.5", "::", "sidecar.example"])
def test_it_does_not_listen_to_others_unless_told_to(host: str) -> None:
    upstream = Upstream("https://owner", owner_key="x")
    with pytest.raises(Exposed, match="MOIETY_CLIENT_EXPOSE"):
        build(upstream, ClientSettings(host=host))
    build(upstream, ClientSettings(host=host, expose=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_permission(host: str) -> None:
    build(Upstream("https://owner", owner_key="x"), ClientSettings(host=host))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7704",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "169.254.1.1",
        "",
        "[::1",
    ],
)
def test_a_foreign_name_is_refused_everywhere(sidecar: InProcess, host: str, path: str) -> None:
    answer = sidecar.get(path, headers={"host": host})
    assert answer.status_code == 421 and Problem.from_document(answer.json()).kind is ProblemType.WRONG_HOST


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7704", "127.0.0.1:80", "127.1.2.3", "[::1]:7704"])
def test_loopbacks_names_are_taken(sidecar: InProcess, host: str) -> None:
    assert sidecar.get("/v2", headers={"host": host}).is_success


def test_names_can_be_added(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOIETY_CLIENT_HOSTS", "client, Sidecar.example")
    named = local.sidecar()
    for host, status in (("client:7704", 200), ("sidecar.example", 200), ("other", 421)):
        assert named.get("/v2", headers={"host": host}).status_code == status


@pytest.mark.parametrize("path", ["/v2/models/mnist/infer", "/v1/show/mnist", "/v2/repository/index", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:9999"},
        {"origin": "http://localhost.evil.example"},
        {"origin": "file://localhost"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://localhost"},
    ],
)
def test_pages_of_other_sites_are_refused(local: Local, sidecar: InProcess, headers: dict[str, str], path: str) -> None:
    answer = sidecar.post(path, headers=headers, content=b"{}")
    assert answer.status_code == 403 and Problem.from_document(answer.json()).kind is ProblemType.CROSS_ORIGIN
    assert not local.bodies


@pytest.mark.parametrize(
    "headers", [{}, {"origin": "http://localhost", "sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}]
)
def test_its_own_page_and_programs_are_not(sidecar: InProcess, headers: dict[str, str]) -> None:
    assert sidecar.post("/v2/repository/index", headers=headers).is_success


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_is_closed_to_other_sites(sidecar: InProcess, path: str) -> None:
    answer = sidecar.request("OPTIONS" if path == "/v2" else "GET", path, headers={"origin": "https://evil.example"})
    headers = answer.headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    assert "frame-ancestors 'none'" in policy and headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in headers if name.startswith("access-control-")]
    assert path.startswith(("/web", "/docs")) or path == "/" or headers["cache-control"] == "no-store"
