"""What the crypto provider counts in addition to the metrics of every service."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from moiety_service.observability.metrics import SECONDS, Metrics


class ProviderMetrics(Metrics):
    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__("crypto_provider", registry)
        self.bundles = Counter("moiety_dealt_bundles", "Bundles that the provider dealt completely.", registry=registry)
        self.rows = Counter("moiety_dealt_rows", "Rows in these bundles. Each input uses one row.", registry=registry)
        self.bytes = Counter("moiety_dealt_bytes", "Bytes of corrections that the provider dealt.", registry=registry)
        self.dealing_seconds = Histogram(
            "moiety_dealing_duration_seconds",
            "Seconds from the request for a bundle to its last byte.",
            buckets=SECONDS,
            registry=registry,
        )
        self.opened_leases = Counter("moiety_opened_leases", "Leases that the provider opened.", registry=registry)
