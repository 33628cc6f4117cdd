"""Prometheus metrics: what every service counts, in a registry of its own.

Labels are routes, statuses, names of problems, links, phases and models. They are few, and a caller cannot invent one.
No label says who asked: only the audit log does, and only the role itself can read that.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from moiety_service.security.identity import Identity
from moiety_service.settings import RoleSettings
from moiety_shared.problems import ProblemType

SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64)
"""Buckets for every duration, from a phase of one image to the run of a deep network."""

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_CHILDREN = 1024


class Metrics:
    """What every service counts. Roles add their own."""

    def __init__(self, role: str, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        Info("moiety_build", "Role and version of the service.", registry=registry).info(
            {"role": role, "version": version("moiety")}
        )
        self.ready = Gauge(
            "moiety_ready", "Whether the service can do its work, as /health/ready says.", registry=registry
        )
        self.requests = Counter("moiety_http_requests", "Requests answered.", ["route", "status"], registry=registry)
        self.request_seconds = Histogram(
            "moiety_http_request_duration_seconds",
            "Seconds from a request's header to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.requests_in_flight = Gauge("moiety_http_requests_in_flight", "Requests under way.", registry=registry)
        for metric in (self.requests, self.request_seconds):
            remember_children(metric)
        self._refused = Counter(
            "moiety_refused_requests", "Requests that ended with a problem.", ["problem"], registry=registry
        )
        for kind in ProblemType:  # from zero on: of a series that begins at one, a rate misses the first count
            self._refused.labels(kind.name)
        self._last_refused = Gauge(
            "moiety_last_refused_request_timestamp_seconds",
            "When a request last ended with that problem.",
            ["problem"],
            registry=registry,
        )
        self.connections = Gauge("moiety_connections", "Open connections.", registry=registry)
        self.max_connections = Gauge("moiety_max_connections", "Most open connections allowed.", registry=registry)
        self.dropped_connections = Counter(
            "moiety_dropped_connections",
            "Connections closed without an answer, because there were too many.",
            registry=registry,
        )
        self.link_bytes = Counter(
            "moiety_link_bytes",
            "Bytes of messages, by who is at the other end: client, peer, provider, party, owner or application.",
            ["link", "direction"],
            registry=registry,
        )
        remember_children(self.link_bytes)

    def certificate(self, identity: Identity, settings: RoleSettings) -> None:
        """Export when the certificate expires that the service uses from now on."""
        if settings.transport == "tls":
            Gauge(
                "moiety_certificate_expiry_timestamp_seconds",
                "When the service's TLS certificate expires.",
                registry=self.registry,
            ).set(identity.certificate_expiry())

    def refused(self, problem: str) -> None:
        """Count a request that ended with the problem of that name."""
        self._refused.labels(problem).inc()
        self._last_refused.labels(problem).set(time.time())

    def text(self) -> bytes:
        """The exposition, as `CONTENT_TYPE`."""
        return generate_latest(self.registry)


def remember_children(metric: MetricWrapperBase) -> None:
    """Have a metric look up each of its children once. The library checks and locks at every look-up, several times in
    a request."""
    metric.labels = lru_cache(maxsize=_CHILDREN)(metric.labels)  # type: ignore[method-assign]


@contextmanager
def timed(histogram: Histogram) -> Iterator[None]:
    """Observe how long the block takes, unless it raises."""
    started = time.perf_counter()
    yield
    histogram.observe(time.perf_counter() - started)
