"""What several folders of tests share."""

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import URL

from moiety_client.client import Client
from moiety_local.deployment import Deployment
from moiety_service.security import keys
from moiety_service.security.identity import LINKS, Identity
from moiety_shared.crypto.sealing import PrivateKey
from moiety_shared.messages.catalogue import Entry, PartyEndpoint, Preprocessing
from moiety_shared.plan.plan import Plan
from tests import databases, plans
from tests.collector import Collector
from tests.databases import Postgres

LISTED_PAGE = "https://app.example"
"""The origin of pages that may ask the deployment's alice and catalogue."""


def _seed() -> None:
    if torch := sys.modules.get("torch"):  # the client's tests run without PyTorch
        torch.manual_seed(0)


def pytest_collectstart() -> None:
    """A file's parameters are the same models, whichever files are collected before it."""
    _seed()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same weights and inputs, whichever tests run before it."""
    _seed()


@pytest.fixture(scope="session", autouse=True)
def _exports_are_quick() -> Iterator[None]:
    if "moiety_server.compiler.trace" not in sys.modules:  # no test that was collected exports a model
        yield
        return
    from tests import exporting

    with exporting.remembered():
        yield


@pytest.fixture(scope="session")
def party_keys() -> tuple[PrivateKey, PrivateKey]:
    return PrivateKey.generate(), PrivateKey.generate()


@pytest.fixture(scope="session")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    """Every role's secrets."""
    root = tmp_path_factory.mktemp("keys")
    keys.init(root, {})
    return {role: Identity.load(root / role, role) for role in LINKS}


@pytest.fixture(scope="session")
def entry(party_keys: tuple[PrivateKey, PrivateKey]) -> Entry:
    """A catalogue entry of the MNIST network, its parties at addresses where nobody listens."""
    names = ("alice", "bob")
    return Entry(
        name="mnist",
        version=1,
        upload_id="00" * 16,
        plan=Plan.model_validate_json(_mnist("plan.json")),
        parties=tuple(  # type: ignore[arg-type]
            PartyEndpoint(name=n, url="http://127.0.0.1:9", sealing_key=k.public.text())
            for n, k in zip(names, party_keys, strict=True)
        ),
        max_rows=512,
        preprocessing=Preprocessing(channels=1, size=(28, 28), mean=(0.1307,), std=(0.3081,)),
        classes=tuple("0123456789"),
        **plans.TERM,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Real MNIST test images (512, 28, 28) and labels."""
    written = np.load(io.BytesIO(_mnist("digits.npz")))
    return written["images"], written["labels"]


def _mnist(name: str) -> bytes:
    """A file that `tests/mnist.py` writes: in MOIETY_TEST_MNIST where PyTorch is not there to make it of."""
    if folder := os.environ.get("MOIETY_TEST_MNIST"):
        return (Path(folder) / name).read_bytes()
    from tests import mnist

    return mnist.FILES[name]()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real server, started for the tests and ended with them."""
    with databases.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """An empty database: the test runs once on each kind."""
    if request.param == "sqlite":
        return URL.create("sqlite", database=str(tmp_path / "database.sqlite"))
    server: Postgres = request.getfixturevalue("postgres")
    return server.url(server.create())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--steps", type=int, default=25, help="Length of the random simulations (tests/simulation).")
    parser.addoption(
        "--rewrite", action="store_true", help="Write what tests make of docs/ instead of comparing with it."
    )


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the processes of this session send their spans."""
    with Collector() as made:
        yield made


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Deployment]:
    """Five real processes, started once for all tests."""
    root: Path = tmp_path_factory.mktemp("moiety")
    # Small pools: a restarted party is ready sooner.
    pools = {"POOL_ROWS": "512", "BUNDLE_BYTES": str(1 << 21), "MAX_ROWS": "200"}
    deployment = Deployment(root, extra={"alice": pools, "bob": pools}, environment=collector.environment)
    pages = ",".join((deployment.url("server"), LISTED_PAGE))
    deployment.extra |= {"alice": pools | {"ORIGINS": pages}, "server": {"PAGE": "true", "ORIGINS": pages}}
    with deployment as running:
        running.publish()
        yield running


@pytest.fixture
def client(deployment: Deployment) -> Iterator[Client]:
    with deployment.client(timeout=60) as made:
        yield made
