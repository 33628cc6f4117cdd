"""What the crypto provider counts in addition to the metrics of every service."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from moiety_service.observability.metrics import SECONDS, Metrics


class ProviderMetrics(Metrics):
    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("crypto_provider", registry)
        self.bundles = Counter("moiety_dealt_bundles", "Bundles dealt to their end.", registry=registry)
        self.rows = Counter("moiety_dealt_rows", "Rows of these bundles: an input uses one.", registry=registry)
        self.bytes = Counter("moiety_dealt_bytes", "Bytes of corrections dealt.", registry=registry)
        self.dealing_seconds = Histogram(
            "moiety_dealing_duration_seconds",
            "A bundle, from being asked for to its last byte being handed over.",
            buckets=SECONDS,
            registry=registry,
        )
        self.opened_leases = Counter("moiety_opened_leases", "Leases opened.", registry=registry)
