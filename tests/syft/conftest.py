"""The dialect on the deployment of all tests; torch is left as it was."""

from collections.abc import Callable, Iterator

import pytest
import torch

import moiety_syft as sy
from moiety_local.deployment import Deployment

Share = Callable[[torch.Tensor], sy.SharedTensor]


@pytest.fixture(scope="session")
def services(deployment: Deployment) -> Iterator[sy.Services]:
    made = sy.Services.of(deployment)
    yield made
    made.close()


@pytest.fixture(scope="session")
def hook(services: sy.Services) -> Iterator[sy.TorchHook]:
    made = sy.TorchHook(torch, services=services)
    yield made
    made.unhook()


@pytest.fixture(scope="session")
def workers(hook: sy.TorchHook) -> list[sy.VirtualWorker]:
    return [sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "crypto_provider")]


@pytest.fixture(scope="session")
def share(workers: list[sy.VirtualWorker]) -> Share:
    *two, dealer = workers

    def shared(plain: torch.Tensor) -> sy.SharedTensor:
        return plain.fix_precision().share(*two, crypto_provider=dealer)

    return shared
