"""The service under hostile load: nobody dies, nobody grows, and who means well is answered rightly or told to wait."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import hostile
from moiety_client.client import Client
from moiety_local.deployment import Deployment

pytestmark = pytest.mark.long
CONNECTIONS = 300


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Its own: the memory of the others' tests is not the attack's."""
    pools = {"POOL_ROWS": "512", "BUNDLE_BYTES": str(1 << 21)}
    with Deployment(tmp_path_factory.mktemp("attacked"), extra={"alice": pools, "bob": pools}) as running:
        running.publish()
        yield running


def test_hundreds_of_hostile_connections(
    deployment: Deployment, client: Client, digits: tuple[np.ndarray, np.ndarray]
) -> None:
    report = hostile.attack(deployment, digits[0], connections=CONNECTIONS, seconds=6)
    assert report.enemies == CONNECTIONS and report.opened > CONNECTIONS, "the attack was one"
    assert {"400", "413"} <= set(report.statuses)
    assert (report.wrong, report.lost, report.died) == (0, 0, 0)
    assert report.right > 0
    assert max(report.megabytes.values()) < 900 and max(report.grown.values()) < 250, report
    for role in ("alice", "bob", "crypto_provider", "server", "client"):
        deployment.wait(role, "/health/ready")
    assert client.predict("mnist", digits[0][:4]).labels.tolist() == [7, 2, 1, 0]


def test_an_answer_that_is_wrong_would_be_counted(
    deployment: Deployment, digits: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hostile.mnist, "float_outputs", lambda pixels: np.zeros((len(pixels), 10)))
    report = hostile.attack(deployment, digits[0], connections=4, seconds=1)
    assert report.wrong > 0


def test_junk_of_one_token_burns_next_to_nothing(deployment: Deployment, digits: tuple[np.ndarray, np.ndarray]) -> None:
    """What the others wait for is randomness. How long they wait is measured by the bench."""
    with deployment.client() as client:
        upload = client.model("mnist").upload_id

    def prepared() -> int:
        deployment.wait_full(upload)
        return int(str(deployment.party_state("bob", upload)["bundle_rows"]))

    before = prepared()
    report = hostile.send_junk(deployment, digits[0], seconds=3)
    assert report.quiet and report.beside and report.answers[400]
    assert set(report.answers) == {400}
    asked, burnt = len(report.quiet) + len(report.beside), 2 * 64  # before bob's first refusal, one on each connection
    assert prepared() - before <= asked + burnt + 512, report.answers
