"""Five real processes, started once for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from moiety_client.client import Client
from moiety_client.local.deployment import Deployment


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    root: Path = tmp_path_factory.mktemp("moiety")
    # Small pools: a restarted party is ready sooner.
    pools = {"POOL_ROWS": "512", "BUNDLE_BYTES": str(1 << 21), "MAX_ROWS": "200"}
    with Deployment(root, extra={"alice": pools, "bob": pools}) as running:
        running.publish()
        yield running


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    with deployment.client(timeout=60) as made:
        yield made
