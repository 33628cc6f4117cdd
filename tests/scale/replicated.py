"""A deployment whose parties are replicas behind one address each, and the load that is put on it."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from moiety_local import mnist
from moiety_local.deployment import Deployment
from tests.databases import Postgres

REPLICAS = 2
CLIENTS, PREDICTIONS = 8, 200
_ROWS = 3
_TOLERANCE = 0.05  # of fixed point against floats, see tests/service
SMALL = {"POOL_ROWS": "128", "BUNDLE_BYTES": str(1 << 20), "MAX_ROWS": "32", "LANES": "2"}
"""Pools that are filled soon: there is one for each pair."""


@dataclass
class Replicated(Deployment):
    """What replicas share: keys, a PostgreSQL database for each role, a store for each party. Each has a data folder of
    its own."""

    postgres: Postgres = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for role in ("alice", "bob", "crypto_provider"):
            shared = {"DATABASE_URL": self.postgres.text(self.postgres.create()), "METRICS_PORT": "0"}
            if role != "crypto_provider":
                store = self.root / "stores" / role
                store.mkdir(parents=True, mode=0o700)
                shared |= {"STORE_URL": f"file://{store}", **SMALL}
            self.extra[role] = shared | self.extra.get(role, {})

    def folder(self, role: str, number: int) -> Path:
        """Of one replica."""
        return self.root / f"{role}-{number}"

    def served(self, number: int) -> int:
        """Predictions that a replica of alice answered, by its audit log."""
        log = self.folder("alice", number) / "audit.jsonl"
        events = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return sum(event["event"] == "prediction" and event["outcome"] == "ok" for event in events)


def predict_all(deployment: Deployment, images: np.ndarray, at: dict[int, Callable[[], None]]) -> None:
    """`PREDICTIONS` by `CLIENTS`, each right; after so many of them `at` says what happens."""
    expected = mnist.float_outputs(images)
    deployment.access_file  # noqa: B018  made once, and not by every client
    done, lock = 0, threading.Lock()

    def client(number: int) -> None:
        nonlocal done
        with deployment.client(timeout=120) as made:
            for turn in range(number, PREDICTIONS, CLIENTS):
                start = turn * _ROWS % (len(images) - _ROWS)
                answer = made.predict("mnist", images[start : start + _ROWS])
                assert np.abs(answer.outputs - expected[start : start + _ROWS]).max() < _TOLERANCE, "a wrong answer"
                with lock:
                    done += 1
                    act = at.get(done)
                if act is not None:
                    act()

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(client, range(CLIENTS)))
    assert done == PREDICTIONS
