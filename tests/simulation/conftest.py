from pathlib import Path

import pytest

from moiety_party import filler, pool, replicas, state
from moiety_party.leader import leases, shortages
from tests.databases import Postgres
from tests.simulation.detector import Detector


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> Detector:
    """Watches all that is opened in this test. Pauses are short here: nothing travels far. Rows that come late are
    waited for: the machine's disk may be busy for seconds."""
    for module, name, seconds in (
        (filler, "_RETRY_SECONDS", 0.02),
        (pool, "_WAIT_SECONDS", 60.0),
        (filler, "_QUIET_SECONDS", 0.0),
        (leases, "_CHECK_SECONDS", 0.05),
        (shortages, "_WAIT_SECONDS", 60.0),
        (shortages, "_POLL_SECONDS", 0.01),
        (replicas, "LOOK_SECONDS", 0.05),
        (replicas, "_LEAST_SECONDS", 0.01),
        (replicas, "_ALIVE_SECONDS", 1.0),
        (state, "CLAIM_SECONDS", 4.0),  # what a crash leaves to wait for
    ):
        monkeypatch.setattr(module, name, seconds)
    made = Detector()
    made.watch(monkeypatch)
    return made


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Postgres | None:
    """Where the roles' databases are; None for files. A test asks for PostgreSQL by `on_both`."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return None
    made: Postgres = request.getfixturevalue("postgres")
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path
