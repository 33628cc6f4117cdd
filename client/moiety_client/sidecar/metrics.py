"""The metrics that only the sidecar has.

No metric is labelled with a model's name: applications may send any name, and each would become a new series.
"""

from opentelemetry.trace import Tracer
from prometheus_client import CollectorRegistry, Counter, Histogram

from moiety_client.telemetry import Telemetry
from moiety_service.observability.metrics import SECONDS, Metrics


class ClientMetrics(Metrics):
    """The metrics of a sidecar: those of every service, and how its predictions went."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("client", registry)
        self._predictions = Counter(
            "moiety_client_predictions",
            "Predictions asked of the parties, by how they ended.",
            ["outcome"],
            registry=registry,
        )
        self._phase_seconds = Histogram(
            "moiety_client_prediction_phase_seconds",
            "Parts of a prediction: catalogue, seal, exchange, open.",
            ["phase"],
            buckets=SECONDS,
            registry=registry,
        )

    def telemetry(self, tracer: Tracer, withhold: bool) -> Telemetry:
        """Return the telemetry for the sidecar's client, which counts its calls in these metrics."""
        return Telemetry(
            tracer,
            withhold,
            phase=lambda name, seconds: self._phase_seconds.labels(name).observe(seconds),
            ended=lambda outcome: self._predictions.labels(outcome).inc(),
        )
