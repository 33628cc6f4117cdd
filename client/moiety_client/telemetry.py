"""What a client reports about its calls: spans to a tracer, and phases and outcomes to a metric."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Tracer

from moiety_client.errors import FromProblem
from moiety_service.observability import tracing
from moiety_service.observability.tracing import Timeline
from moiety_shared.problems import Problem, outcome


def _application() -> Tracer:
    """Return the application's tracer. It records nothing until the application sets up OpenTelemetry."""
    return trace.get_tracer("moiety")


@dataclass(frozen=True)
class Telemetry:
    """Where a client reports its calls, and what it tells the service about them.

    - `tracer` gets a span for each call. By default this is the application's own OpenTelemetry tracer.
    - `withhold=True` sends the service a random id for each call instead of the trace's own id, so that the service
      cannot tell which calls belong to one trace of the application.
    - `phase(name, seconds)` is called for each part of a call: catalogue, seal, exchange and open.
    - `ended(outcome)` is called once, when a call ends.
    """

    tracer: Tracer = field(default_factory=_application)
    withhold: bool = False
    phase: Callable[[str, float], object] = lambda _name, _seconds: None
    ended: Callable[[str], object] = lambda _outcome: None

    def call(self, name: str) -> "Asking":
        """Begin a span for one call, below the application's current span. Use it as a context manager."""
        return Asking(self, name)


class Asking:
    """One call: its span, its phases, and the trace header that the client sends to the service."""

    def __init__(self, telemetry: Telemetry, name: str) -> None:
        parent = tracing.current()
        self._telemetry = telemetry
        self._span = tracing.begin(telemetry.tracer, name, parent if parent.is_valid else None, SpanKind.CLIENT)
        self._timeline = Timeline()
        own = self._span.get_span_context()
        told = tracing.fresh() if telemetry.withhold else own
        self.headers = tracing.header(told)
        self._span.set_attribute("moiety.request_id", tracing.request_id(told))
        self.passed = self._timeline.passed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = _outcome(error)
        if error is not None:
            self._span.set_attribute("error.type", ended)
        self._timeline.tell(self._telemetry.tracer, self._span.get_span_context(), self._telemetry.phase)
        self._telemetry.ended(ended)
        self._span.end()


def _outcome(error: BaseException | None) -> str:
    """Return the outcome by the name that the services count it under.

    An error that no service answered with, such as InvalidInput, is counted under its own class name.
    """
    if isinstance(error, FromProblem):
        return outcome(error.problem)
    if isinstance(error, Exception) and not isinstance(error, Problem):
        return type(error).__name__
    return outcome(error)
