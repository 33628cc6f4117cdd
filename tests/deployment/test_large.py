"""Rows that are dear: a pool of one row, and a request for each input; and what else a model may be published for."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moiety_client import inputs
from moiety_client.errors import InvalidInput, LabelsOnly
from moiety_client.exchange import Sealer
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_shared.messages.access import AccessFile
from moiety_shared.problems import Problem, ProblemType

pytestmark = pytest.mark.long
Digits = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def scarce(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str]]:
    root: Path = tmp_path_factory.mktemp("scarce")
    pools = {"POOL_BYTES": "30000"}  # one row of the MNIST network
    with Deployment(root, extra={"alice": pools, "bob": pools}) as running:
        yield running, running.publish()


def test_one_row_at_a_time_serves_batches_and_many_clients(scarce: tuple[Deployment, str], digits: Digits) -> None:
    deployment, _ = scarce
    expected = mnist.float_outputs(digits[0][:12]).argmax(axis=1)
    with deployment.client(timeout=60) as client:
        entry = client.model("mnist")
        assert entry.max_rows == 1
        assert np.array_equal(client.predict("mnist", digits[0][:12]).labels, expected)
        for role in ("alice", "bob"):
            assert int(str(deployment.party_state(role, entry.upload_id)["rows_ready"])) <= 2

        wide = Sealer(entry.model_copy(update={"max_rows": 2})).call(inputs.encode(entry, digits[0][:2]))
    token = AccessFile.model_validate_json(deployment.access_file.read_bytes()).token
    with deployment.http("alice") as alice:
        answer = alice.post("/v1/predictions", content=wide.body, headers={"authorization": f"Bearer {token}"})
        problem = Problem.from_document(answer.json())
        assert problem.kind is ProblemType.TOO_LARGE

    async def many() -> list[int]:
        async with deployment.async_client(timeout=60) as twin:
            answers = await asyncio.gather(*(twin.predict("mnist", digits[0][i]) for i in range(12)))
            return [int(answer.labels[0]) for answer in answers]

    assert asyncio.run(many()) == expected.tolist()


def test_labels_and_counts_of_a_real_network(scarce: tuple[Deployment, str], digits: Digits) -> None:
    deployment, _ = scarce
    outputs = mnist.float_outputs(digits[0][:6])
    deployment.publish("--name", "labels", "--reveal", "labels", "--top", "3")
    deployment.publish("--name", "count", "--reveal", "count")
    with deployment.client(timeout=60) as client:
        answer = client.predict("labels", digits[0][:6])
        assert np.array_equal(answer.top, np.argsort(-outputs, axis=1)[:, :3])
        truth = digits[1][:6].astype(np.int64)
        truth[0] += 1
        result = client.evaluate("count", digits[0][:6], truth)
        assert (result.correct, result.total) == (int((outputs.argmax(axis=1) == truth).sum()), 6)


_RISK = """
import torch
from torch import nn

def build():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
"""


def test_one_output_tells_two_classes_apart(
    scarce: tuple[Deployment, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, _ = scarce
    monkeypatch.chdir(tmp_path)
    Path("risk.py").write_text(_RISK)
    x = np.sin(np.arange(240.0, dtype=np.float32) * 1.7).reshape(40, 6)
    np.save("x.npy", x)
    made: dict[str, Any] = {}
    exec(_RISK, made)
    with torch.inference_mode():
        risk = made["build"]()(torch.from_numpy(x)).numpy()[:, 0]
    threshold = float(np.median(risk)) + 1e-4
    how = ("risk:build", "--calibration", "x.npy", "--low", "-1", "--high", "1", "--threshold", str(threshold))
    deployment.publish(*how, "--name", "risk")
    deployment.publish(*how, "--name", "decision", "--reveal", "decision")
    clear = np.abs(risk - threshold) > 1e-3
    assert 10 < (risk > threshold)[clear].sum() < 30
    with deployment.client(timeout=60) as client:
        shown, alone = (client.predict(name, x, canaries=4) for name in ("risk", "decision"))
        np.testing.assert_allclose(shown.probabilities[:, 1], risk, atol=1e-3)
        for answer in (shown, alone):
            assert np.array_equal(answer.labels[clear], (risk > threshold)[clear])
        with pytest.raises(LabelsOnly):
            _ = alone.scores
        assert client.evaluate("decision", x[clear], (risk > threshold)[clear].astype(int)).accuracy == 1


def test_a_count_goes_to_whom_the_request_names(scarce: tuple[Deployment, str], digits: Digits, tmp_path: Path) -> None:
    deployment, _ = scarce
    expected = mnist.float_outputs(digits[0][:4]).argmax(axis=1)
    claimed = np.where(np.arange(4) == 1, (expected + 1) % 10, expected)
    deployment.publish("--name", "shown", "--reveal", "count")
    with deployment.client(timeout=60) as client:
        both = client.evaluate("shown", digits[0][:4], claimed, reveal_to="both")
        owners = client.evaluate("shown", digits[0][:4], claimed, reveal_to="owner")
        with pytest.raises(InvalidInput, match="client, owner or both"):
            client.evaluate("shown", digits[0][:1], claimed[:1], reveal_to="everybody")
    assert both.correct == 3 and both.accuracy == 0.75
    assert owners.correct is None and owners.accuracy is None
    for evaluation in (both, owners):
        files = [tmp_path / f"{index}" for index in range(len(evaluation.for_owner))]
        for path, token in zip(files, evaluation.for_owner, strict=True):
            path.write_bytes(token)
        command = [sys.executable, "-m", "moiety_service.cli.main", "count", "shown", *map(str, files)]
        environment = os.environ | deployment.settings("server")
        assert subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout == "3\n"
        changed = files[0].read_bytes()
        files[0].write_bytes(changed[:-1] + bytes([changed[-1] ^ 1]))
        assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 1
