"""alice, bob and the crypto provider are restarted one after the other, while four clients go on asking."""

import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import numpy as np

from moiety_client import inputs
from moiety_client.client import Client
from moiety_client.exchange import Sealer, TokenHolder
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_shared.crypto.possession import private_from_pem
from moiety_shared.messages.access import AccessFile
from moiety_shared.messages.catalogue import Entry

CLIENTS = 4
_TRIES = 600  # of one request, a tenth of a second apart


@dataclass
class Load:
    """One request after the other in each client, sent again until it is answered, with what became of each sending."""

    deployment: Deployment
    entry: Entry
    images: np.ndarray
    counted: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.expected = mnist.float_outputs(self.images).argmax(axis=1)
        access = AccessFile.model_validate_json(self.deployment.access_file.read_bytes())
        token = access.token
        self.holder = TokenHolder(token, private_from_pem(access.key.encode()))
        self.headers = {"authorization": f"Bearer {token}", "connection": "close"}

    def run(self, client: int) -> None:
        try:
            sealer, at = Sealer(self.entry, self.holder), client
            while not self.over.is_set():
                at = (at + CLIENTS) % len(self.images)
                call = sealer.call(inputs.encode(self.entry, self.images[at]))
                answer = self._until_answered(call.body)
                label = int(call.open(answer)[0].argmax())
                if label != self.expected[at]:
                    self.wrong.append(f"{label} for {self.expected[at]}")
                self._count("answered")
        except BaseException:
            self._count("failed")
            raise

    def _until_answered(self, body: bytes) -> bytes:
        for _ in range(_TRIES):
            try:
                with self.deployment.http("alice", timeout=20) as alice:  # a request that hangs is not tried again
                    response = alice.post("/v1/predictions", content=body, headers=self.headers)
            except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError):
                self._count("nobody there")
            else:
                if response.is_success:
                    return response.content
                assert response.status_code == 503 and int(response.headers["retry-after"]) > 0, response.text
                self._count("refused")
            threading.Event().wait(0.1)
        raise AssertionError("never answered")

    def _count(self, what: str) -> None:
        with self.changed:
            self.counted[what] += 1
            self.changed.notify_all()

    def wait_for(self, answers: int) -> None:
        """Until so many more were given. Raises AssertionError when a client failed, or none comes in a minute."""
        with self.changed:
            until = self.counted["answered"] + answers
            assert self.changed.wait_for(lambda: self.counted["answered"] >= until or self.counted["failed"], 60)
            assert not self.counted["failed"]


def test_a_rolling_restart_under_load(
    deployment: Deployment, client: Client, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    load = Load(deployment, client.model("mnist"), digits[0][:64])
    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(load.run, i) for i in range(CLIENTS)]
        try:
            for role in ("alice", "bob", "crypto_provider"):
                load.wait_for(40)
                process = deployment.processes[role]
                deployment.stop_role(role)
                assert process.returncode == 128 + signal.SIGTERM, f"{role} ended by itself, within its grace"
                deployment.start_role(role)
                deployment.wait(role)
            load.wait_for(40)
        finally:
            load.over.set()
        for one in clients:
            one.result()
    assert not load.wrong
    assert load.counted["refused"], "while bob is away, alice says so"
