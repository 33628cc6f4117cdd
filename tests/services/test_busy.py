"""A busy address: what the gate does for it, though its requests go past the layers of FastAPI."""

import asyncio

import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from moiety_service.http.app import create_app
from moiety_service.observability.metrics import Metrics
from moiety_shared.problems import Problem, ProblemType
from tests.asgi import InProcess

LIMIT = 1000


def app(passed: list[str] | None = None) -> FastAPI:
    """An app with one busy address. `passed` gets the paths of the requests that reach FastAPI's own layers."""

    async def guard(request: Request) -> None:
        if request.headers.get("authorization") == "Bearer stranger":
            raise Problem(ProblemType.UNAUTHORIZED)

    made = create_app("test", body_limit=lambda _: LIMIT, guard=guard)

    async def endpoint(request: Request) -> Response:
        body = await request.body()
        if body == b"refuse":
            raise Problem(ProblemType.FORBIDDEN, "for a test")
        if body == b"break":
            raise ValueError("a secret")
        if body == b"stop":
            made.state.drain.stopping = True
        return PlainTextResponse(body, headers={"moiety-rounds": "5"})

    made.busy("/ask", endpoint, summary="Ask", response_class=Response)

    class Layer:
        def __init__(self, app: FastAPI) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and passed is not None:
                passed.append(scope["path"])
            await self.app(scope, receive, send)

    made.add_middleware(Layer)
    return made


def test_it_is_answered_past_fastapi_and_as_behind_the_gate() -> None:
    passed: list[str] = []
    made = app(passed)
    with capture_logs() as logs:
        answer = InProcess(made).post("/ask", content=b"x", headers={"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"})
        assert InProcess(made).get("/health/live").is_success
    assert (answer.status_code, answer.content, answer.headers["moiety-rounds"]) == (200, b"x", "5")
    assert answer.headers["x-request-id"] == "ab" * 16
    assert passed == ["/health/live"]
    (line,) = (log for log in logs if log["event"] == "request")
    assert (line["route"], line["method"], line["status"]) == ("/ask", "POST", 200)
    text = made.state.metrics.text().decode()
    assert 'moiety_http_requests_total{route="/ask",status="200"} 1.0' in text
    assert 'moiety_link_bytes_total{direction="in",link="client"} 1.0' in text
    assert "moiety_http_requests_in_flight 0.0" in text


@pytest.mark.parametrize(
    ("body", "headers", "kind"),
    [
        (b"refuse", {}, ProblemType.FORBIDDEN),
        (b"break", {}, ProblemType.INTERNAL),
        (bytes(LIMIT + 1), {}, ProblemType.TOO_LARGE),
        (b"x", {"authorization": "Bearer stranger"}, ProblemType.UNAUTHORIZED),
        (b"x", {"content-encoding": "gzip"}, ProblemType.ENCODING_REFUSED),
        (b"x", {"content-length": "2_0"}, ProblemType.MALFORMED),
    ],
    ids=lambda value: value.name if isinstance(value, ProblemType) else "",
)
def test_its_problems_are_documents(body: bytes, headers: dict[str, str], kind: ProblemType) -> None:
    made = app()
    answer = InProcess(made).post("/ask", content=body, headers=headers)
    problem = Problem.from_document(answer.json())
    assert (answer.status_code, problem.kind) == (kind.status, kind)
    assert answer.headers["x-request-id"] in answer.text and "secret" not in answer.text
    assert f'moiety_refused_requests_total{{problem="{kind.name}"}} 1.0' in made.state.metrics.text().decode()


def test_other_methods_are_refused_and_it_is_documented() -> None:
    made = app()
    answer = InProcess(made).get("/ask")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert made.openapi()["paths"]["/ask"]["post"]["summary"] == "Ask"
    assert InProcess(made).post("/ask/", content=b"x").status_code in (307, 404), "another path is another address"


def test_a_stop_waits_for_it_and_refuses_more() -> None:
    made = app()
    with InProcess(made) as asked:
        last = asked.post("/ask", content=b"stop")
        assert (last.status_code, last.headers["connection"]) == (200, "close")
        late = asked.post("/ask", content=b"x")
        assert Problem.from_document(late.json()).kind is ProblemType.STOPPING and late.headers["retry-after"]
    asyncio.run(asyncio.wait_for(made.state.drain.finish(60), 10))  # nothing is under way


def test_a_metrics_child_is_looked_up_once_and_counts_what_the_library_shows() -> None:
    metrics = Metrics("test", CollectorRegistry())
    child = metrics.link_bytes.labels("peer", "in")
    assert metrics.link_bytes.labels("peer", "in") is child is not metrics.link_bytes.labels("peer", "out")
    child.inc(3)
    assert 'moiety_link_bytes_total{direction="in",link="peer"} 3.0' in metrics.text().decode()
