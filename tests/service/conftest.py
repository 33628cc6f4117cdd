"""A client of the five processes that tests/conftest.py starts."""

from collections.abc import Iterator

import pytest

from moiety_client.client import Client
from moiety_client.local.deployment import Deployment


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    with deployment.client(timeout=60) as made:
        yield made
