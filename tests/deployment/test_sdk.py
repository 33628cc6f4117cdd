"""The SDK and a client's commands against five real processes: forms of input, runs that are killed, connections."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from moiety_client.answers import Prediction
from moiety_client.client import Client
from moiety_client.errors import QuotaExceeded, ServiceUnavailable
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_service.cli.terminal import Exit
from moiety_service.http import clients
from tests import days

Digits = tuple[np.ndarray, np.ndarray]
RUN = """
import sys, numpy as np
from moiety import Client
with Client.from_access(sys.argv[1], timeout=60) as client:
    for answer in client.stream("mnist", np.load(sys.argv[2]), batch=8, resume=sys.argv[3]):
        print(*answer.labels, flush=True)
"""


def expected(images: np.ndarray) -> np.ndarray:
    return mnist.float_outputs(images).argmax(axis=1)


def issue(deployment: Deployment, path: Path, rows: int) -> Path:
    """A token for so many rows, until midnight at least."""
    days.wait_over_midnight()
    deployment.run("token", "issue", path.stem, "--rows-per-day", str(rows), "--out", str(path))
    return path


@pytest.fixture
def pictures(digits: Digits, tmp_path: Path) -> Path:
    """A folder as image folders are: CLASS/NAME.png."""
    folder = tmp_path / "pictures"
    for at in range(20):
        (folder / str(digits[1][at])).mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits[0][at]).save(folder / str(digits[1][at]) / f"{at:02}.png")
    return folder


def moiety(
    deployment: Deployment, *arguments: object, access: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(_command(*arguments), env=_env(deployment, access), capture_output=True, text=True)


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "moiety_service.cli.main", *map(str, arguments)]


def _env(deployment: Deployment, access: Path | None = None) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MOIETY_")}
    return own | deployment.settings("server") | {"MOIETY_CLIENT_ACCESS_FILE": str(access or deployment.access_file)}


# Inputs and answers


def test_every_form_of_an_input_gets_the_same_answer(client: Client, digits: Digits, pictures: Path) -> None:
    files = sorted(pictures.rglob("*.png"), key=lambda path: path.name)
    images = digits[0][:20]
    wanted = expected(images)
    forms = [images, torch.from_numpy(images), [Image.fromarray(one) for one in images], files, iter(images)]
    for given in forms:
        assert np.array_equal(client.predict("mnist", given).labels, wanted)


def test_private_accuracy_through_predictions(deployment: Deployment, client: Client, digits: Digits) -> None:
    images, labels = digits
    result = client.evaluate("mnist", images, labels)
    right = expected(images) == labels
    assert (result.correct, result.total) == (right.sum(), 512) and np.array_equal(result.right, right)

    async def twin() -> tuple[int | None, list[str], str]:
        async with deployment.async_client() as other:
            names = [entry.name for entry in await other.models()]
            described = (await other.model("mnist")).describe()
            return (await other.evaluate("mnist", images[:99], labels[:99])).correct, names, described

    correct, names, described = asyncio.run(twin())
    assert correct == right[:99].sum() and "mnist" in names
    assert client.model("mnist").describe() == described


def test_connections_are_used_again(deployment: Deployment, digits: Digits) -> None:
    def open_to(role: str) -> set[int]:
        found = psutil.Process().net_connections("tcp")
        return {c.laddr.port for c in found if c.raddr and c.raddr.port == deployment.ports[role]}

    before = {role: open_to(role) for role in ("alice", "server")}
    with deployment.client() as client:
        client.predict("mnist", digits[0][:1])
        first = {role: open_to(role) - before[role] for role in before}
        for _ in range(5):
            client.predict("mnist", digits[0][:1])
            client.model("mnist", refresh=True)
        assert {role: open_to(role) - before[role] for role in before} == first
    assert all(len(ports) == 1 for ports in first.values())


# Runs that are interrupted: the quota is what they need and no more, so that whatever is paid twice is refused


def test_a_killed_run_goes_on_and_pays_nothing_twice(deployment: Deployment, digits: Digits, tmp_path: Path) -> None:
    access, file, inputs = issue(deployment, tmp_path / "killed.json", 512), tmp_path / "run.jsonl", tmp_path / "x.npy"
    np.save(inputs, digits[0])
    command = [sys.executable, "-c", RUN, str(access), str(inputs), str(file)]
    kills = 0
    for enough in (5, 21, 40):
        with subprocess.Popen(command, env=_env(deployment), stdout=subprocess.DEVNULL) as run:
            while run.poll() is None and (not file.exists() or file.read_bytes().count(b"\n") < enough):
                time.sleep(0.0005)
            run.send_signal(signal.SIGKILL)
            kills += run.wait() == -signal.SIGKILL
    assert kills == 3, "each was killed in the middle"
    last = subprocess.run(command, env=_env(deployment), capture_output=True, text=True, check=True)
    assert np.array_equal(np.array(last.stdout.split(), dtype=int), expected(digits[0]))
    with Client.from_access(access, timeout=60) as client, pytest.raises(QuotaExceeded):
        client.predict("mnist", digits[0][:1])


class Lossy(httpx.HTTPTransport):
    """Loses every answer to a prediction after the first so many, once it has come."""

    def __init__(self, left: int, ca: str) -> None:
        super().__init__(verify=clients.tls_context(ca))
        self.left = left

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        if request.method == "POST":
            self.left -= 1
            if self.left < 0:
                answer.read()
                answer.close()
                raise httpx.ReadError("the network is down", request=request)
        return answer


def test_an_answer_that_was_lost_is_given_again_for_nothing(
    deployment: Deployment, digits: Digits, tmp_path: Path
) -> None:
    access, file = issue(deployment, tmp_path / "lossy.json", 60), tmp_path / "run.jsonl"
    taken: list[Prediction] = []
    with Client.from_access(access, timeout=1) as client:
        client._http = httpx.Client(transport=Lossy(2, deployment.ca.read_text()))
        with pytest.raises(ServiceUnavailable):
            taken.extend(client.stream("mnist", digits[0][:60], batch=20, resume=file))
    with Client.from_access(access, timeout=60) as client:
        taken = list(client.stream("mnist", digits[0][:60], batch=20, resume=file))
        assert np.array_equal(Prediction.joined(taken).labels, expected(digits[0][:60]))
        with pytest.raises(QuotaExceeded):
            client.predict("mnist", digits[0][:1])


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(
    deployment: Deployment, digits: Digits, tmp_path: Path
) -> None:
    access, file, inputs = issue(deployment, tmp_path / "ctrl.json", 512), tmp_path / "run.jsonl", tmp_path / "x.npy"
    np.save(inputs, digits[0])
    command = _command("predict", "mnist", inputs, "--batch", 8, "--resume", file, "--json")
    with subprocess.Popen(
        command,
        env=_env(deployment, access),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests may ignore it
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        first = [json.loads(run.stdout.readline()) for _ in range(100)]
        run.send_signal(signal.SIGINT)
        rest, err = run.stdout.read(), run.stderr.read()
    assert run.returncode == Exit.INTERRUPTED and "Traceback" not in err
    assert len(rest.splitlines()) < 412, "it was in the middle"
    again = moiety(deployment, *command[3:], access=access)
    assert again.returncode == Exit.OK, again.stderr
    rows = [json.loads(row) for row in again.stdout.splitlines()]
    assert rows[:100] == first and [row["row"] for row in rows] == list(range(512))
    assert [row["class"] for row in rows] == expected(digits[0]).tolist()
    assert moiety(deployment, "predict", "mnist", inputs, access=access).returncode == Exit.UNAVAILABLE, "quota spent"


# The commands


def test_predict_prints_a_table_for_people_and_lines_for_machines(deployment: Deployment, pictures: Path) -> None:
    done = moiety(deployment, "predict", "mnist", pictures, "--json", "--top", 2)
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert done.returncode == Exit.OK and not done.stderr and len(rows) == 20
    assert [row["file"] for row in rows] == sorted(map(str, pictures.rglob("*.png")))
    assert all(row["label"] == Path(row["file"]).parent.name == row["top"][0] and len(row["top"]) == 2 for row in rows)
    shown = moiety(deployment, "predict", "mnist", rows[0]["file"])
    assert shown.returncode == Exit.OK and re.search(
        rf"{re.escape(rows[0]['file'])} +{rows[0]['label']}\b", shown.stdout
    )


def test_evaluate_counts_by_folders_or_by_a_file_of_labels(
    deployment: Deployment, digits: Digits, pictures: Path, tmp_path: Path
) -> None:
    (counted,) = moiety(deployment, "evaluate", "mnist", pictures, "--json").stdout.splitlines()
    assert {"model": "mnist", "correct": 20, "total": 20, "accuracy": 1.0}.items() <= json.loads(counted).items()
    np.save(tmp_path / "x.npy", digits[0][:200])
    wrong = np.where(np.arange(200) < 50, (digits[1][:200] + 1) % 10, digits[1][:200])
    right = int((expected(digits[0][:200]) == wrong).sum())
    (tmp_path / "labels.txt").write_text("\n".join(map(str, wrong)) + "\n")
    np.save(tmp_path / "labels.npy", wrong)
    for labels in ("labels.txt", "labels.npy"):
        done = moiety(deployment, "evaluate", "mnist", tmp_path / "x.npy", "--labels", tmp_path / labels)
        assert done.returncode == Exit.OK and f"{right} of 200" in done.stdout, done.stderr
    short = moiety(deployment, "evaluate", "mnist", pictures, "--labels", tmp_path / "labels.txt")
    assert short.returncode == Exit.USAGE and "one integer label for each of the 20 inputs" in short.stderr


def test_a_count_for_the_owner_goes_from_file_to_file(deployment: Deployment, digits: Digits, tmp_path: Path) -> None:
    deployment.publish("mnist-deep", "--reveal", "count", "--name", "counting")
    try:
        np.save(tmp_path / "x.npy", digits[0][:300])
        np.save(tmp_path / "y.npy", digits[1][:300])
        files = ("evaluate", "counting", tmp_path / "x.npy", "--labels", tmp_path / "y.npy")
        done = moiety(deployment, *files, "--reveal-to", "owner", "--out", tmp_path / "counts", "--json")
        assert done.returncode == Exit.OK and json.loads(done.stdout)["correct"] is None, done.stderr
        counts = sorted((tmp_path / "counts").iterdir())
        opened = moiety(deployment, "count", "counting", *counts, "--json")
        assert len(counts) == 2 and 290 < json.loads(opened.stdout)["correct"] <= 300
        both = moiety(deployment, *files, "--reveal-to", "client", "--json")
        assert json.loads(both.stdout)["correct"] == json.loads(opened.stdout)["correct"]
    finally:
        deployment.run("withdraw", "counting", "1")


def test_models_are_listed_described_and_completed(deployment: Deployment) -> None:
    assert "mnist" in moiety(deployment, "models").stdout
    described = moiety(deployment, "models", "mnist").stdout
    assert "10 outputs for each input" in described and "alice at https://" in described
    (one,) = [json.loads(row) for row in moiety(deployment, "models", "mnist", "--json").stdout.splitlines()]
    assert one["input"]["shape"] == [784] and one["output"]["kind"] == "logits" and one["rounds"] == 5
    words = {"_MOIETY_COMPLETE": "complete_bash", "COMP_WORDS": "moiety predict mn", "COMP_CWORD": "2"}
    for access, offered in ((deployment.access_file, ["mnist"]), (deployment.root / "none.json", [])):
        env = _env(deployment, access) | words
        done = subprocess.run(_command(), env=env, capture_output=True, text=True)
        assert done.stdout.split() == offered and not done.stderr


def test_the_doctor_finds_a_running_deployment_well(deployment: Deployment) -> None:
    done = moiety(deployment, "doctor", "server", "client", "--json")
    found = [json.loads(row) for row in done.stdout.splitlines()]
    checked = {(one["role"], one["check"]): one for one in found}
    ours = {role: [one for one in found if one["role"] == role] for role in ("server", "client")}
    assert [one for one in ours["server"] if one["status"] != "ok"] == []
    assert [one for one in ours["client"] if one["status"] != "ok" and one["check"] != "port"] == []
    for name in ("alice", "bob", "catalogue"):
        assert "is ready" in checked["server", f"reach {name}"]["found"]
        assert checked["server", f"clock of {name}"]["status"] == "ok"
    assert "mnist 1" in checked["client", "models"]["found"] and ("client", "reach alice") in checked


def test_every_command_of_the_owner_prints_lines(deployment: Deployment, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    issued = json.loads(moiety(deployment, "token", "issue", "somebody", "--out", out, "--json").stdout)
    assert issued["file"] == str(out)
    listed = [json.loads(row) for row in moiety(deployment, "token", "list", "--json").stdout.splitlines()]
    assert {row["token_id"] for row in listed} >= {issued["token_id"]}
    assert "somebody" in moiety(deployment, "token", "list").stdout
    assert json.loads(moiety(deployment, "versions", "mnist", "--json").stdout) == {"version": 1, "active": True}
    assert moiety(deployment, "refresh", "--json").stdout == ""
