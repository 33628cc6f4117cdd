"""One request seen in all processes: its spans, its id in the logs, what is counted; and what is kept from whom."""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from moiety_client.client import Client
from moiety_client.telemetry import Telemetry
from moiety_local.deployment import Deployment
from moiety_local.site import ROLES
from moiety_service.http.ports import reserved
from moiety_shared.messages.access import AccessFile
from tests import monitoring
from tests.collector import Collector, Found

Digits = tuple[np.ndarray, np.ndarray]
ROWS = 100


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Deployment]:
    """Its pools hold less than a request of `ROWS` takes: the provider has to deal while it waits."""
    pools = {"POOL_ROWS": "32", "BUNDLE_BYTES": str(1 << 19), "MAX_ROWS": "200"}
    root = tmp_path_factory.mktemp("observed")
    with Deployment(root, extra={"alice": pools, "bob": pools}, environment=collector.environment) as running:
        running.publish()
        yield running


def logged(deployment: Deployment, role: str, request_id: str) -> list[dict[str, object]]:
    lines = (deployment.root / role / "log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line.get("request_id") == request_id]


def soon_logged(deployment: Deployment, role: str, request_id: str) -> list[dict[str, object]]:
    """bob says what he did after he has sent his result."""
    deadline = time.monotonic() + 20
    while not (lines := logged(deployment, role, request_id)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return lines


def counted(deployment: Deployment, role: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = httpx.get(f"{deployment.metrics_url(role)}/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(deployment: Deployment, role: str, name: str, **labels: str) -> float:
    return sum(v for (n, of), v in counted(deployment, role).items() if n == name and labels.items() <= set(of))


def the(found: list[Found], service: str, name: str) -> Found:
    """The last one of that name: rows may come in several bundles."""
    return [one for one in found if (one.service, one.name) == (f"moiety-{service}", name)][-1]


def test_one_trace_and_one_id_from_the_application_to_the_provider(
    observed: Deployment, collector: Collector, digits: Digits
) -> None:
    trace, application = "5eed" * 8, "ab" * 8
    observed.wait("client")
    tensor = {"name": "input", "shape": [ROWS, 28, 28], "datatype": "UINT8", "data": digits[0][:ROWS].ravel().tolist()}
    with observed.http("client", timeout=60) as rest:
        answer = rest.post(
            "/v2/models/mnist/infer",
            json={"inputs": [tensor], "outputs": [{"name": "label"}]},
            headers={"traceparent": f"00-{trace}-{application}-01", "tracestate": "a=1", "baggage": "patient=7"},
        )
    assert answer.is_success and answer.headers["x-request-id"] == trace
    services = ("client", "alice", "bob", "crypto_provider")
    dealing = "POST /v1/leases/{lease_id}/bundles/{number}"
    last = ("POST /v2/models/{name}/infer", "POST /v1/predictions", "run", dealing)
    names = {f"moiety-{service}": name for service, name in zip(services, last, strict=True)}
    found = collector.wait_for(trace, application, names)

    dealt = the(found, "crypto_provider", dealing)
    chain = [
        the(found, "client", "POST /v2/models/{name}/infer"),
        the(found, "client", "predict"),
        the(found, "alice", "POST /v1/predictions"),
        the(found, "bob", "run"),
    ]
    made = the([one for one in found if one.span.span_id == dealt.span.parent_span_id], "bob", "bundle")
    for below in (chain, [*chain[:3], made, dealt]):
        parent = bytes.fromhex(application)
        for one in below:
            assert one.span.parent_span_id == parent, one.name
            parent = one.span.span_id
    for top, phases in (
        (chain[1], "(catalogue )?(seal )?exchange (open )?"),
        # Whoever waits for rows waits in the queue, and so comes to a lane and to its rows again.
        (chain[2], "(open )?((lane )?(lease )?(rows )?)*rounds (seal )?(result )?"),
        (chain[3], "(open )?(rows )?rounds (seal )?"),
    ):
        inside = [one for one in found if one.span.parent_span_id == top.span.span_id and one.service == top.service]
        inside.sort(key=lambda one: one.span.start_time_unix_nano)
        names = "".join(f"{one.name} " for one in inside if one.name != "bundle")
        assert re.fullmatch(phases, names), "in this order; short ones are left out"
    allowed = {"http.request.method", "http.route", "http.response.status_code", "moiety.request_id"}
    assert {name for one in found for name in one.attributes} <= allowed
    assert not [one for one in found if one.span.trace_state or one.span.events]

    for service in services:
        assert logged(observed, service, trace), service
    (run,) = [line for line in logged(observed, "bob", trace) if line["event"] == "run"]
    assert run["rows"] == ROWS and run["role"] == "bob"


def test_a_client_may_keep_its_trace_to_itself(observed: Deployment, digits: Digits) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("the application")
    for withhold in (False, True):
        telemetry = Telemetry(tracer, withhold)
        with (
            tracer.start_as_current_span("a patient") as patient,
            Client.from_access(observed.access_file, telemetry=telemetry) as client,
        ):
            client.predict("mnist", digits[0][0])
        own = f"{patient.get_span_context().trace_id:032x}"
        (asked,) = [span for span in kept.get_finished_spans() if span.name == "predict"]
        assert asked.attributes is not None and asked.parent is not None
        told = str(asked.attributes["moiety.request_id"])
        assert f"{asked.parent.trace_id:032x}" == own and (told == own) is not withhold
        for role in ("alice", "bob"):
            assert soon_logged(observed, role, told)
            assert bool(logged(observed, role, own)) is not withhold
        kept.clear()


def test_what_happens_is_counted(observed: Deployment, digits: Digits) -> None:
    def state() -> list[float]:
        return [
            total(observed, role, name, **labels)
            for role in ("alice", "bob")
            for name, labels in (
                ("moiety_predictions_total", {"model": "mnist", "outcome": "ok"}),
                ("moiety_prediction_rows_total", {"model": "mnist"}),
                ("moiety_prediction_phase_seconds_count", {"phase": "rounds"}),
            )
        ]

    before = state()
    refused = total(observed, "alice", "moiety_refused_requests_total", problem="MALFORMED")
    asked, sent = (
        total(observed, "alice", "moiety_link_bytes_total", link="client", direction=d) for d in ("in", "out")
    )
    peers = [
        total(observed, role, "moiety_link_bytes_total", link="peer", direction="out") for role in ("alice", "bob")
    ]
    with observed.client() as client:
        entry = client.model("mnist")
        online = client.predict("mnist", digits[0][:3]).online_bytes
    with observed.http("alice") as alice:
        token = AccessFile.model_validate_json(observed.access_file.read_bytes()).token
        headers = {"authorization": f"Bearer {token}"}
        assert alice.post("/v1/predictions", content=b"garbage", headers=headers).status_code == 400
    assert [after - then for then, after in zip(before, state(), strict=True)] == [1, 3, 1] * 2
    assert total(observed, "alice", "moiety_refused_requests_total", problem="MALFORMED") == refused + 1
    assert total(observed, "alice", "moiety_last_refused_request_timestamp_seconds", problem="MALFORMED") > 1.7e9
    assert total(observed, "alice", "moiety_link_bytes_total", link="client", direction="in") > asked
    assert total(observed, "alice", "moiety_link_bytes_total", link="client", direction="out") > sent
    for role, then in zip(("alice", "bob"), peers, strict=True):
        now = total(observed, role, "moiety_link_bytes_total", link="peer", direction="out")
        assert now - then >= online, "what was opened, and the frames around it"
    dealt = total(observed, "crypto_provider", "moiety_dealt_rows_total")
    assert dealt > 0
    assert total(observed, "crypto_provider", "moiety_dealt_bytes_total") >= dealt * entry.plan.cost(1).offline_bytes
    assert total(observed, "bob", "moiety_link_bytes_total", link="provider", direction="in") > dealt
    for role in ("alice", "bob"):
        assert total(observed, role, "moiety_peer_lanes") >= 1
        assert total(observed, role, "moiety_pool_target_rows", model="mnist", version="1") == 32


def test_every_role_tells_its_operator_and_nobody_else(observed: Deployment) -> None:
    for role in ROLES:
        observed.wait(role)
        samples = counted(observed, role)
        (info,) = [dict(of) for name, of in samples if name == "moiety_build_info"]
        assert info["role"] == role
        assert total(observed, role, "moiety_ready") == 1
        expiry = total(observed, role, "moiety_certificate_expiry_timestamp_seconds")
        assert (expiry > 1.7e9) is (role != "client")
        with observed.http(role) as public:
            assert public.get("/metrics").status_code == 404
        with httpx.Client(base_url=observed.metrics_url(role)) as operator:
            assert operator.get("/health/ready").json() == {"status": "ready"}
            assert operator.get("/metrics", headers={"host": "evil.example"}).status_code == 400
            assert operator.get("/v1/models").status_code == 404


@pytest.fixture
def port() -> Iterator[int]:
    """For a process that the test starts."""
    with reserved() as kept:
        yield kept


def test_every_panel_of_the_dashboard_has_data(observed: Deployment, digits: Digits, tmp_path: Path, port: int) -> None:
    """Prometheus itself scrapes the five roles and is asked what Grafana would ask it."""
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"role": role}} for role, port in observed.metrics_ports.items()
    ]
    job = {"job_name": "moiety", "static_configs": targets, "scrape_interval": "1s", "scrape_timeout": "1s"}
    (tmp_path / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML
    address = f"127.0.0.1:{port}"
    command = [monitoring.needed("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={address}", "--log.level=error"]
    missing = {expression.replace("$__rate_interval", "1m") for expression in monitoring.expressions()}
    assert len(missing) > 30
    tensor = {"name": "input", "shape": [1, 28, 28], "datatype": "UINT8", "data": digits[0][0].ravel().tolist()}
    deadline = time.monotonic() + 90
    prometheus = subprocess.Popen(command)
    try:
        with observed.http("client", timeout=60) as rest, httpx.Client(base_url=f"http://{address}") as asked:
            while missing:
                assert time.monotonic() < deadline, missing
                assert rest.post("/v2/models/mnist/infer", json={"inputs": [tensor]}).is_success
                assert rest.post("/v2/models/mnist/infer", content=b"garbage").status_code == 422
                with contextlib.suppress(httpx.TransportError):  # it is starting
                    missing -= {one for one in missing if answers(asked, one)}
                time.sleep(0.5)
    finally:
        prometheus.terminate()
        prometheus.wait()


def answers(prometheus: httpx.Client, expression: str) -> bool:
    """Whether it finds numbers for it."""
    found = prometheus.get("/api/v1/query", params={"query": expression})
    if found.status_code == 503:
        return False
    document = found.json()
    assert document["status"] == "success", (expression, document)
    return any(sample["value"][1] != "NaN" for sample in document["data"]["result"])


def test_readiness_is_of_peers_and_stock(observed: Deployment) -> None:
    """Last: it stops roles."""
    with observed.client() as client:
        observed.wait_full(client.model("mnist").upload_id)
    observed.stop_role("crypto_provider")
    for role in ("alice", "bob"):
        assert httpx.get(f"{observed.metrics_url(role)}/health/ready").is_success, "there is stock"
    observed.stop_role("bob")
    deadline = time.monotonic() + 30
    with observed.http("alice", timeout=30) as alice:
        while alice.get("/health/ready").is_success:  # it is found out once a second at most
            assert time.monotonic() < deadline, "ready without its peer"
            time.sleep(0.1)
        assert alice.get("/health/live").is_success
    assert total(observed, "alice", "moiety_ready") == 0
