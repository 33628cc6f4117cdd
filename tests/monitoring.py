"""What is in ops/monitoring, and the tools that read it."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from moiety_client.sidecar.metrics import ClientMetrics
from moiety_crypto_provider.metrics import ProviderMetrics
from moiety_party.metrics import PartyMetrics, Stock
from moiety_server.app import ServerMetrics
from moiety_service.observability.metrics import Metrics
from moiety_service.security.identity import Identity
from moiety_service.settings import RoleSettings

FOLDER = Path(__file__).parent.parent / "ops" / "monitoring"


def needed(tool: str) -> str:
    """Prometheus's own tools. Where tests must not be passed over, their absence is a failure."""
    path = shutil.which(tool)
    if path is not None:
        return path
    if os.environ.get("CI"):
        pytest.fail(f"no {tool} here: run make prometheus")
    pytest.skip(f"no {tool} here: run make prometheus")


def expressions() -> Iterator[str]:
    """What the dashboard asks Prometheus."""
    for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


def registries(identity: Identity) -> dict[str, Metrics]:
    """Each role's metrics, by who has them."""
    party, provider = PartyMetrics("alice", CollectorRegistry()), ProviderMetrics(CollectorRegistry())
    party.watch(lambda: [Stock("mnist", 1, 1, 2)])
    server, client = ServerMetrics(CollectorRegistry()), ClientMetrics(CollectorRegistry())
    for one in (party, provider, server):
        one.certificate(identity, RoleSettings())
    return {"parties": party, "provider": provider, "owner": server, "sidecar": client}


def series(metrics: Metrics) -> Iterator[tuple[str, str, str]]:
    """Name as Prometheus has it, kind and help of each metric."""
    for family in metrics.registry.collect():
        name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        yield name, family.type, family.documentation


def names_in(text: str) -> set[str]:
    """Metrics that are named in it, a histogram's parts as the histogram."""
    found = re.findall(r"\b(?:moiety|process)_[a-z_]+\b", text)
    return {re.sub(r"_(seconds|rows)_(bucket|sum|count)$", r"_\1", name) for name in found}
