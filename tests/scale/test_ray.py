"""Parties and provider on Ray Serve, by the files of ops/scale: a Ray cluster for each role, of two nodes for a party.

The nodes are processes of one machine, and the provider has one only; nothing else differs from what an operator does.
"""

import signal
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np
import psutil
import pytest

from moiety_local.site import clean_environment
from tests.databases import Postgres
from tests.scale.rays import Cluster, config
from tests.scale.replicated import REPLICAS, Replicated, predict_all

_FILES = {"alice": "serve-alice.yaml", "bob": "serve-bob.yaml", "crypto_provider": "serve-provider.yaml"}
_NODES = {"alice": 2, "bob": 2, "crypto_provider": 1}


@dataclass
class OnRay(Replicated):
    """Every node is one replica's: its environment names the data folder."""

    clusters: dict[str, Cluster] = field(default_factory=dict, init=False)

    def start_role(self, role: str) -> None:
        if role not in _FILES:
            super().start_role(role)
            return
        cluster = self.clusters[role] = Cluster(
            self.root / f"{role}-ray.log", clean_environment() | self.settings(role)
        )
        for number in range(1, _NODES[role] + 1):
            folder = self.folder(role, number)
            folder.mkdir(mode=0o700)
            cluster.add_node({name: str(folder) for name in self.settings(role) if name.endswith("_DATA_DIR")})
        tls = self.root / "keys" / role / "tls"
        files = {"ssl_keyfile": str(tls / "key.pem"), "ssl_certfile": str(tls / "cert.pem")}
        cluster.deploy(config(_FILES[role], host="127.0.0.1", port=self.ports[role], **files))

    def wait(self, role: str, path: str = "/health/live") -> None:
        if role in _FILES:
            self.clusters[role].wait(lambda: self._answers(role, path), REPLICAS)
        else:
            super().wait(role, path)

    def _answers(self, role: str, path: str) -> bool:
        with self.http(role, timeout=2) as client:
            try:
                return client.get(path).is_success
            except httpx.HTTPError:
                return False

    def stop(self) -> None:
        super().stop()
        for cluster in self.clusters.values():
            cluster.stop()


pytestmark = pytest.mark.scale


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[OnRay]:
    with OnRay(tmp_path_factory.mktemp("ray"), postgres=postgres) as made:
        made.publish()
        yield made


def test_two_replicas_of_each_party_and_one_is_killed(running: OnRay, digits: tuple[np.ndarray, np.ndarray]) -> None:
    bob = running.clusters["bob"].replicas()[0]
    predict_all(running, digits[0], {60: lambda: bob.send_signal(signal.SIGKILL)})
    assert not bob.is_running() or bob.status() == psutil.STATUS_ZOMBIE
    assert all(running.served(number) for number in range(1, REPLICAS + 1)), "both of alice's replicas served"
    assert len(running.clusters["alice"].logged("peer", "peer")) >= REPLICAS, "and with both of bob's"


def test_an_older_tls_is_refused(running: OnRay) -> None:
    context = ssl.create_default_context(cafile=str(running.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", running.ports["alice"]), 5) as plain:
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_plain_connections_are_served_nothing(running: OnRay) -> None:
    plain = running.url("alice").replace("https", "http")
    with pytest.raises(httpx.HTTPError), httpx.Client(timeout=5) as client:
        client.get(f"{plain}/health/live")
