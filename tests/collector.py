"""An OpenTelemetry collector: takes spans over HTTP as real ones do, and keeps them."""

import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_SECONDS = 20.0


@dataclass(frozen=True)
class Found:
    """A span, and the service that sent it."""

    service: str
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def attributes(self) -> dict[str, str]:
        return {a.key: a.value.string_value or str(a.value.int_value) for a in self.span.attributes}


class Collector:
    """Used as a context manager."""

    def __init__(self) -> None:
        bodies = self.bodies = list[bytes]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process send its spans here."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }

    def spans(self, trace: str) -> list[Found]:
        """Those of a trace (hexadecimal) that have arrived."""
        found = []
        for body in list(self.bodies):
            for of_service in ExportTraceServiceRequest.FromString(body).resource_spans:
                (service,) = (a.value.string_value for a in of_service.resource.attributes if a.key == "service.name")
                for scope in of_service.scope_spans:
                    found += [Found(service, span) for span in scope.spans if span.trace_id.hex() == trace]
        return found

    def wait_for(self, trace: str, outside: str, last: dict[str, str]) -> list[Found]:
        """The spans of a trace when each of these services has sent the last of its own, by name, and all that others
        are below. `outside` is the span of the request from outside, of which nobody here sends any."""
        deadline = time.monotonic() + _SECONDS
        while True:
            found = self.spans(trace)
            here = {one.span.span_id for one in found}
            sent = {(one.service, one.name) for one in found}
            if sent >= set(last.items()) and _complete(found, here | {bytes.fromhex(outside)}):
                return found
            assert time.monotonic() < deadline, [(one.service, one.name) for one in found]
            time.sleep(0.1)


def _complete(found: list[Found], here: set[bytes]) -> bool:
    """Whether no span's parent is missing."""
    return {one.span.parent_span_id for one in found} <= here
