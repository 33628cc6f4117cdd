"""What a party counts besides what every service counts."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from moiety_service.observability.metrics import SECONDS, Metrics, remember_children
from moiety_shared.problems import ProblemType, outcome

_ROWS = tuple(1 << exponent for exponent in range(10))  # 1 to 512, the most in one request unless set otherwise
_MISSED = (
    ProblemType.PROVIDER_UNAVAILABLE,
    ProblemType.UNKNOWN_LEASE,
    ProblemType.ALREADY_ISSUED,
    ProblemType.MALFORMED,
    ProblemType.INTERNAL,
)


@dataclass(frozen=True)
class Stock:
    """Prepared rows of a model."""

    model: str
    version: int
    rows: int
    target: int


class PartyMetrics(Metrics):
    """alice's metrics or bob's. Both count each prediction."""

    def __init__(self, role: str, registry: CollectorRegistry) -> None:
        super().__init__(role, registry)
        self.predictions = Counter(
            "moiety_predictions", "Predictions, by how they ended.", ["model", "outcome"], registry=registry
        )
        self.rows = Counter(
            "moiety_prediction_rows", "Inputs of predictions that succeeded.", ["model"], registry=registry
        )
        self.prediction_seconds = Histogram(
            "moiety_prediction_duration_seconds",
            "Seconds that a successful prediction takes in this process.",
            buckets=SECONDS,
            registry=registry,
        )
        self.phase_seconds = Histogram(
            "moiety_prediction_phase_seconds",
            "Seconds that each phase of a run takes.",
            ["phase"],
            buckets=SECONDS,
            registry=registry,
        )
        for metric in (self.predictions, self.rows, self.phase_seconds):
            remember_children(metric)
        self.rounds = Counter(
            "moiety_rounds", "Rounds in which both parties exchanged masked values.", registry=registry
        )
        self.runs = Gauge(
            "moiety_runs_in_flight", "Predictions under way, including those that wait for a lane.", registry=registry
        )
        self.waiting = Gauge(
            "moiety_runs_waiting", "alice: requests that wait for a lane to bob, or for rows.", registry=registry
        )
        self.run_rows = Histogram(
            "moiety_run_rows",
            "Inputs in a run, of all requests that share it.",
            buckets=_ROWS,
            registry=registry,
        )
        self.lanes = Gauge("moiety_peer_lanes", "Open lanes to the other party.", registry=registry)
        self.bundles = Counter(
            "moiety_bundles_prepared", "Bundles of randomness that this party prepared.", registry=registry
        )
        self.bundle_failures = Counter(
            "moiety_bundle_failures",
            "Bundles that this party failed to get or to prepare.",
            ["problem"],
            registry=registry,
        )
        for kind in _MISSED:  # from zero on: a rate needs to see the first one
            self.bundle_failures.labels(kind.name)
        self.failed_checks = Counter(
            "moiety_failed_checks",
            "Checks of verified runs that failed, or have no verdict because the run broke off.",
            ["model"],
            registry=registry,
        )
        self.bundle_seconds = Histogram(
            "moiety_bundle_preparation_duration_seconds",
            "Seconds from the request for a bundle until it is ready.",
            buckets=SECONDS,
            registry=registry,
        )

    def watch(self, stocks: Callable[[], Iterable[Stock]]) -> None:
        """Have each scrape tell what is in stock. A model that is gone is not in it any more."""
        self.registry.register(_Stocks(stocks))

    @contextmanager
    def prediction(self, model: str, rows: int) -> Iterator[None]:
        """Count a prediction of `rows` inputs, by how the block ends."""
        started, error = time.perf_counter(), None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.predicted(model, rows, time.perf_counter() - started, error)

    def predicted(self, model: str, rows: int, seconds: float, error: BaseException | None) -> None:
        """Count a prediction of `rows` inputs that took so long, and ended with this error or with none."""
        self.predictions.labels(model, outcome(error)).inc()
        if error is None:
            self.prediction_seconds.observe(seconds)
            self.rows.labels(model).inc(rows)

    def session(self, rounds: int, sent: int, received: int) -> None:
        """Count the rounds of a session and its bytes on the lane."""
        self.rounds.inc(rounds)
        self.link_bytes.labels("peer", "out").inc(sent)
        self.link_bytes.labels("peer", "in").inc(received)

    def provider_bytes(self, sent: int, received: int) -> None:
        """Count what went to the crypto provider and came from it."""
        self.link_bytes.labels("provider", "out").inc(sent)
        self.link_bytes.labels("provider", "in").inc(received)

    def phase(self, name: str, seconds: float) -> None:
        """Observe how long a part of a run took."""
        self.phase_seconds.labels(name).observe(seconds)


class _Stocks(Collector):
    def __init__(self, stocks: Callable[[], Iterable[Stock]]) -> None:
        self._stocks = stocks

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The gauges without samples, for the registry."""
        labels = ["model", "version"]
        return (
            GaugeMetricFamily("moiety_pool_rows", "Rows of randomness that are ready.", labels=labels),
            GaugeMetricFamily(
                "moiety_pool_target_rows", "Rows of randomness that this party tries to keep ready.", labels=labels
            ),
        )

    def collect(self) -> Iterable[GaugeMetricFamily]:
        rows, target = self.describe()
        for stock in self._stocks():
            labels = [stock.model, str(stock.version)]
            rows.add_metric(labels, stock.rows)
            target.add_metric(labels, stock.target)
        return rows, target
