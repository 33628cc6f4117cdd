"""What a client tells of its calls: spans to a tracer, phases and outcomes to whoever counts them."""

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
    """The tracer of the program that uses the SDK; it records nothing until that program sets OpenTelemetry up."""
    return trace.get_tracer("moiety")


@dataclass(frozen=True)
class Telemetry:
    """Of one client. `withhold`: the service gets a random id for each call instead of the trace's own, so that it
    cannot tell which calls belong to one trace of the application."""

    tracer: Tracer = field(default_factory=_application)
    withhold: bool = False
    phase: Callable[[str, float], object] = lambda _name, _seconds: None
    ended: Callable[[str], object] = lambda _outcome: None

    def call(self, name: str) -> "Asking":
        """A span for one call, part of what the application does now. Used as a context manager."""
        return Asking(self, name)


class Asking:
    """One call: its span, its phases, and the header under which the service is asked."""

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
    """As the services count it; an error that is no problem of theirs has its own name: InvalidInput."""
    if isinstance(error, FromProblem):
        return outcome(error.problem)
    if isinstance(error, Exception) and not isinstance(error, Problem):
        return type(error).__name__
    return outcome(error)
