"""One request's id in all processes, and its spans: W3C trace context with OpenTelemetry.

The request id in the logs is the trace's id. Every process has it and passes it on, whether or not anybody records
spans. Spans hold times, names of phases, routes and statuses, and never a value, an exception's message, a subject or a
token. moiety neither reads baggage and tracestate nor passes them on.
"""

import asyncio
import contextvars
import os
import re
import secrets
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import NonRecordingSpan, NoOpTracer, Span, SpanContext, SpanKind, TraceFlags, Tracer

from moiety_service.observability.logs import log

HEADER = "traceparent"
_FORMAT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_LEAST_SPAN = 200_000  # nanoseconds: a shorter phase is not worth a span, which takes 45,000 to make
_CLOCK = time.time_ns() - time.perf_counter_ns()

NOBODY: Tracer = NoOpTracer()
"""A tracer that records nothing."""


def read(header: str | None) -> SpanContext | None:
    """The caller's span, if the header is a well-formed traceparent.

    Anybody may send one, so it decides nothing but the names in logs and traces.
    """
    found = _FORMAT.fullmatch(header or "")
    if found is None:
        return None
    return _valid(int(found[1], 16), int(found[2], 16), int(found[3], 16))


def pack(context: SpanContext) -> bytes:
    """A span context as 25 bytes, for the peer link."""
    ids = context.trace_id.to_bytes(16, "big") + context.span_id.to_bytes(8, "big")
    return ids + bytes([context.trace_flags & TraceFlags.SAMPLED])


def unpack(raw: bytes) -> SpanContext | None:
    """The span context in 25 bytes; None where the trace's or the span's id is all zeros."""
    return _valid(int.from_bytes(raw[:16], "big"), int.from_bytes(raw[16:24], "big"), raw[24])


def fresh() -> SpanContext:
    """A new span context, for work that has none yet."""
    drawn = secrets.token_bytes(24)
    return SpanContext(int.from_bytes(drawn[:16]), int.from_bytes(drawn[16:]), is_remote=False)


def header(context: SpanContext) -> dict[str, str]:
    """The header that tells the next process to which span its work belongs."""
    flags = context.trace_flags & TraceFlags.SAMPLED
    return {HEADER: f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags:02x}"}


def current() -> SpanContext:
    """The span context of the work under way; without any, an invalid one of zeros."""
    return trace.get_current_span().get_span_context()


def outgoing() -> dict[str, str]:
    """The header for a request made as part of the work under way; empty without such work."""
    context = current()
    return header(context) if context.is_valid else {}


def request_id(context: SpanContext) -> str:
    """The request id in the logs: the trace's id in hexadecimal."""
    return f"{context.trace_id:032x}"


def begin(tracer: Tracer, name: str, parent: SpanContext | None, kind: SpanKind = SpanKind.SERVER) -> Span:
    """Begin a span under `parent`, or the first of a trace. Its context is valid even if nobody records it."""
    span = tracer.start_span(name, context=_under(parent), kind=kind)
    return span if span.get_span_context().is_valid else NonRecordingSpan(fresh())


@contextmanager
def doing(span: Span) -> Iterator[None]:
    """The block is the span's work: its logs have the request id, its requests name the span. The span ends with it.

    The span records no exceptions: their messages could quote a value.
    """
    token = attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        detach(token)
        span.end()


@contextmanager
def part_of(header: str) -> Iterator[None]:
    """The block is part of the work that a well-formed traceparent names; with another header, of what it was."""
    parent = read(header)
    if parent is None:
        yield
        return
    with doing(NonRecordingSpan(parent)):
        yield


async def on_behalf(context: contextvars.Context | None, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` as part of the work under way when `context` was copied; without a context, as part of none."""
    await asyncio.create_task(work, context=context or contextvars.Context())


class Timeline:
    """The phases of one request or of one run, one after another.

    Noting a phase costs very little. Counting the phases, and making spans of them, waits until the answer is out.
    """

    def __init__(self) -> None:
        self._began = self._end = time.perf_counter_ns()
        self._phases: list[tuple[str, int, int]] = []  # name, start, end
        self._joined: list[Timeline] = []

    def passed(self, phase: str) -> None:
        """Note that this phase ends now. It began when the last one ended."""
        start, self._end = self._end, time.perf_counter_ns()
        self._phases.append((phase, start, self._end))

    def join(self, run: "Timeline") -> None:
        """Show the phases of a run that this request shares with others. The run counts them, once."""
        self._joined.append(run)

    def count(self, count: Callable[[str, float], object]) -> None:
        """Give the seconds of each of its own phases to `count`."""
        for phase, start, end in self._phases:
            count(phase, (end - start) / 1e9)

    def tell(self, tracer: Tracer, parent: SpanContext, count: Callable[[str, float], object]) -> None:
        """Give each phase's seconds to `count`, and make a span under `parent` of each that is long enough."""
        self.count(count)
        if parent.trace_flags.sampled:
            for timeline in (self, *self._joined):
                timeline._tell(tracer, _under(parent))

    def tell_whole(self, tracer: Tracer, name: str, parent: SpanContext | None) -> None:
        """Make a span under `parent` of all the time so far, and below it one of each phase that is long enough."""
        if parent is not None and parent.trace_flags.sampled:
            whole = tracer.start_span(name, _under(parent), kind=SpanKind.SERVER, start_time=_CLOCK + self._began)
            self._tell(tracer, trace.set_span_in_context(whole, Context()))
            whole.end(_CLOCK + self._end)

    def _tell(self, tracer: Tracer, under: Context) -> None:
        for phase, start, end in self._phases:
            if end - start >= _LEAST_SPAN:
                tracer.start_span(phase, under, start_time=_CLOCK + start).end(_CLOCK + end)


@contextmanager
def exporting(role: str, endpoint: str = "") -> Iterator[Tracer]:
    """The tracer of a process. A thread of its own exports spans to `endpoint`, or to `OTEL_EXPORTER_OTLP_ENDPOINT`.

    `OTEL_TRACES_SAMPLER_ARG` is the fraction of requests to record, 1 by default. The trace's id alone decides which,
    so that all processes record the same requests, and a stranger's sampling flag decides nothing.
    """
    if not endpoint and not any(os.environ.get(name) for name in _ENDPOINTS):
        yield NOBODY
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.id_generator import IdGenerator
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
    except ModuleNotFoundError:
        log().warning("traces are off: install moiety[tracing]")
        yield NOBODY
        return

    class Ids(IdGenerator):
        """Ids from the system's randomness, as everywhere in moiety."""

        def generate_trace_id(self) -> int:
            return fresh().trace_id

        def generate_span_id(self) -> int:
            return fresh().span_id

    part = float(os.environ.get("OTEL_TRACES_SAMPLER_ARG") or 1)
    provider = TracerProvider(
        TraceIdRatioBased(part), Resource.create({"service.name": f"moiety-{role}"}), id_generator=Ids()
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces" if endpoint else None)))
    try:
        yield provider.get_tracer("moiety")
    finally:
        provider.shutdown()


def _under(parent: SpanContext | None) -> Context:
    return Context() if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), Context())


def _valid(trace_id: int, span_id: int, flags: int) -> SpanContext | None:
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags & TraceFlags.SAMPLED))
    return context if context.is_valid else None
