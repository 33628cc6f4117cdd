"""From a deployment of 0.1.0 to this version, on real processes, in the order that docs/operations.md gives.

`0.1.0/deployment` is what that release left behind: keys, databases, the shares of a network of six inputs and three
outputs, and two clients' access files, of which the second one's token is revoked.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from moiety_client.client import Client
from moiety_client.errors import MoietyError, NotAllowed
from moiety_local.deployment import Deployment
from moiety_local.folder import DeploymentError

pytestmark = pytest.mark.long  # a minute of both cores: eleven processes, one after another
LEFT = Path(__file__).parent / "0.1.0" / "deployment"
ORDER = ("crypto_provider", "bob", "alice", "server")
OLD = "ae023973d65635ff5bbd17a58878dfc7"
MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it, with the modes that it had: git keeps none."""
    root = tmp_path_factory.mktemp("upgrade") / "deployment"
    shutil.copytree(LEFT, root)
    for path in (root, *root.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return root


@pytest.fixture(scope="module")
def upgraded(root: Path) -> Iterator[Deployment]:
    """Each role, started by this version on its folder of 0.1.0, after the one before it answers."""
    deployment = Deployment(root, roles=ORDER)
    with pytest.raises(DeploymentError, match="keys"):  # before the step that operations.md names, in one sentence
        deployment.start()
    deployment = Deployment(root, roles=ORDER, environment={"PYTHONPATH": str(root)})
    keys = str(root / "keys")
    deployment.run("keys", "init", "--root", keys, "--if-missing")
    for role in ORDER:  # certificates of 0.1.0 run out after 397 days
        deployment.run("keys", "renew", role, "--root", keys)
    try:
        for role in ORDER:
            deployment.start_role(role)
            deployment.wait(role)
        yield deployment
    finally:
        deployment.stop()


def asked_by(deployment: Deployment, name: str) -> Client:
    """A client with an access file of 0.1.0, which names the port that the owner had then."""
    file = deployment.root / f"{name}.json"
    members = json.loads(file.read_text())
    file.write_text(json.dumps(members | {"catalogue_url": deployment.url("server")}))
    return Client.from_access(file, timeout=60)


def test_what_0_1_published_is_refused_by_its_number_until_it_is_published_again(
    upgraded: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = np.linspace(0, 1, 384, dtype=np.float32).reshape(64, 6)
    np.save(tmp_path / "inputs.npy", inputs)
    (upgraded.root / "scores_model.py").write_text(MODEL)
    with asked_by(upgraded, "clinic") as client, asked_by(upgraded, "gone") as revoked:
        with pytest.raises(MoietyError, match="another version") as refused:
            client.predict("scores", inputs[:5])
        assert not isinstance(refused.value, NotAllowed)

        monkeypatch.setenv("PYTHONPATH", str(upgraded.root))
        arguments = ("--calibration", str(tmp_path / "inputs.npy"), "--low", "0", "--high", "1")
        upgraded.publish("scores_model:build", *arguments, "--name", "scores")

        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        answer = client.predict("scores", inputs[:5])
        assert np.abs(answer.outputs - model(torch.from_numpy(inputs[:5])).detach().numpy()).max() < 0.02
        assert client.model("scores").version == 2, "a number is never used again"
        with pytest.raises(NotAllowed):
            revoked.predict("scores", inputs[:5])

    upgraded.run("withdraw", "scores", "1")
    for role in ("alice", "bob"):
        assert not [path for path in (upgraded.root / role / "models").rglob("*") if OLD in str(path)]
