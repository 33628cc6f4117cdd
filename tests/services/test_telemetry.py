"""Names that others give to work, and the operator's address: one app, no deployment."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from moiety_party.metrics import PartyMetrics
from moiety_service.http.app import create_app
from moiety_service.http.ports import reserved
from moiety_service.observability import tracing
from moiety_service.observability.audit import Audit
from moiety_service.observability.tracing import Timeline
from moiety_service.settings import ServiceSettings
from moiety_shared.problems import Problem, ProblemType
from tests.asgi import InProcess, listening

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def app() -> FastAPI:
    made = create_app("test")

    @made.get("/told")
    async def told() -> dict[str, str]:
        """What would go on to the next process."""
        return tracing.outgoing()

    @made.get("/wrong/{what}")
    async def wrong(what: str) -> None:
        raise ValueError(what)

    return made


@pytest.mark.parametrize(
    "header",
    [
        "",
        TRACE,
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-" + "0" * 9000,
        "\N{ARABIC-INDIC DIGIT ZERO}" * 55,
    ],
)
def test_a_malformed_traceparent_is_as_good_as_none(header: str) -> None:
    assert tracing.read(header) is None


def test_a_well_formed_one_names_the_request_and_nothing_else_goes_on() -> None:
    asked = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1", "baggage": "patient=7"}
    answer = InProcess(app()).get("/told", headers=asked)
    assert answer.headers["x-request-id"] == TRACE
    assert answer.json() == {"traceparent": f"00-{TRACE}-{SPAN}-01"}


def test_every_request_has_an_id_of_its_own() -> None:
    service = InProcess(app())
    found = {service.get("/told", headers={"traceparent": "no"}).headers["x-request-id"] for _ in range(20)}
    assert len(found) == 20 and all(len(one) == 32 and int(one, 16) for one in found)


def test_the_peer_link_has_the_same_context_in_25_bytes() -> None:
    context = SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=True, trace_flags=TraceFlags(1))
    assert tracing.unpack(tracing.pack(context)) == context and len(tracing.pack(context)) == 25
    assert tracing.unpack(bytes(25)) is None
    others = tracing.unpack(tracing.pack(context)[:24] + b"\xff")
    assert others is not None and others.trace_flags == 1


def test_work_on_nobodys_behalf_has_no_id() -> None:
    seen: list[bool] = []

    async def look() -> None:
        seen.append(tracing.current().is_valid)

    async def run() -> None:
        with tracing.doing(tracing.begin(tracing.NOBODY, "a request", None)):
            await look()
            await tracing.on_behalf(None, look())

    asyncio.run(run())
    assert seen == [True, False]


def test_phases_follow_one_another() -> None:
    timeline, counted = Timeline(), list[tuple[str, float]]()
    timeline.passed("one")
    timeline.passed("two")
    timeline.tell(tracing.NOBODY, tracing.fresh(), lambda name, seconds: counted.append((name, seconds)))
    assert [name for name, _ in counted] == ["one", "two"] and all(seconds >= 0 for _, seconds in counted)


@pytest.mark.parametrize(
    ("ended", "counted"),
    [
        (None, "ok"),
        (Problem(ProblemType.ROW_USED), "ROW_USED"),
        (ValueError(), "INTERNAL"),
        (asyncio.CancelledError(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
    ],
)
def test_what_was_given_up_is_no_fault_of_the_service(
    ended: BaseException | None, counted: str, tmp_path: Path
) -> None:
    metrics, audit = PartyMetrics("alice", CollectorRegistry()), Audit(tmp_path / "audit.jsonl")
    with suppress(BaseException), metrics.prediction("mnist", 1), audit.event("publish", subject="owner"):
        if ended is not None:
            raise ended
    audit.close()
    assert json.loads((tmp_path / "audit.jsonl").read_text())["outcome"] == counted
    assert metrics.registry.get_sample_value("moiety_predictions_total", {"model": "mnist", "outcome": counted}) == 1


def test_an_exceptions_message_is_in_no_log_and_no_metric() -> None:
    made = app()
    with capture_logs() as logs:
        assert InProcess(made).get("/wrong/98765.4321").status_code == 500
    assert [line["problem"] for line in logs if line["event"] == "request"] == ["INTERNAL"]
    text = made.state.metrics.text().decode()
    assert 'moiety_http_requests_total{route="/wrong/{what}",status="500"} 1.0' in text
    assert "98765" not in text and "98765" not in str(logs)


def test_made_up_addresses_are_one_label() -> None:
    made = app()
    for i in range(5):
        InProcess(made).get(f"/nothing/{i}")
        InProcess(made).request(f"METHOD{i}", "/told")
    text = made.state.metrics.text().decode()
    assert 'moiety_http_requests_total{route="-",status="404"} 5.0' in text
    assert "/nothing" not in text and "METHOD0" not in text


# The operator's address


@contextmanager
def operated(**settings: int) -> Iterator[tuple[int, str]]:
    with (
        reserved() as port,
        listening(app(), ServiceSettings.model_validate(settings | {"metrics_port": port})) as public,
    ):
        assert httpx.get(f"http://127.0.0.1:{public}/health/live").is_success, "it has started"
        yield public, f"http://127.0.0.1:{port}"


def test_metrics_are_not_on_the_public_address() -> None:
    with operated() as (public, operator):
        assert httpx.get(f"http://127.0.0.1:{public}/metrics").status_code == 404
        answer = httpx.get(f"{operator}/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "moiety_connections 0.0" in answer.text and "moiety_ready 1.0" in answer.text
        assert httpx.get(f"{operator}/told").status_code == 404


def test_a_web_page_cannot_read_metrics_under_a_name_of_its_own() -> None:
    with operated() as (_, operator):
        assert httpx.get(f"{operator}/metrics", headers={"host": "evil.example"}).status_code == 400
        assert httpx.get(f"{operator}/metrics", headers={"host": "localhost:1"}).is_success


def test_metrics_can_be_read_while_all_connections_are_taken() -> None:
    with operated(max_connections=2) as (public, operator):
        taken = [socket.create_connection(("127.0.0.1", public)) for _ in range(2)]
        try:
            with pytest.raises(httpx.HTTPStatusError):
                httpx.get(f"http://127.0.0.1:{public}/told").raise_for_status()
            text = httpx.get(f"{operator}/metrics").text
        finally:
            for one in taken:
                one.close()
    assert "moiety_max_connections 2.0" in text and 'moiety_refused_requests_total{problem="OVERLOADED"} 1.0' in text


class Ending(NonRecordingSpan):
    """A span that notes when it ends."""

    ended = False

    def end(self, end_time: int | None = None) -> None:
        self.ended = True


@pytest.mark.parametrize("fails", [False, True])
def test_a_spans_block_leaves_what_was_before(fails: bool) -> None:
    outer, inner = Ending(tracing.fresh()), Ending(tracing.fresh())

    def named(span: Ending) -> bool:
        return tracing.current() == span.get_span_context()

    with tracing.doing(outer):
        with suppress(ValueError), tracing.doing(inner):
            assert named(inner)
            if fails:
                raise ValueError
        assert named(outer) and inner.ended and not outer.ended
    assert outer.ended and not tracing.current().is_valid


LOGGING = """
from moiety_service.observability import logs, tracing
from opentelemetry.trace import NonRecordingSpan
logs.configure("alice", "json")
logs.log().info("before")
with tracing.doing(NonRecordingSpan(tracing.read("00-{trace}-{span}-01"))):
    logs.log().info("within", password="secret")
    logs.log().info("of another", request_id="another")
logs.log().info("after")
"""


def test_a_log_line_has_the_id_of_the_request_under_way() -> None:
    code = LOGGING.format(trace=TRACE, span=SPAN)
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["before", "within", "of another", "after"]
    assert [line.get("request_id") for line in lines] == [None, TRACE, "another", None]
    assert all(line["role"] == "alice" and line["level"] == "info" and "password" not in line for line in lines)
