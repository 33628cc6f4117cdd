"""A job of syft 0.10 evaluates a secret model on a data owner's data, as docs/syft.md prints it.

Its last section says what is different here: syft's stand-in for Google Drive, this Python, and a wheel of this
checkout.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moiety import Client, NotAllowed
from moiety_local import mnist
from moiety_local.deployment import Deployment

ROOT = Path(__file__).parents[2]
_, _, PAGE = (ROOT / "docs" / "syft.md").read_text().partition("\n## Jobs of syft 0.10\n")
PICTURES = 100
BEGIN = """
import sys
from pathlib import Path

import syft_job.client
from syft_rds import SyftRDSClient

syft_job.client.RUN_SCRIPT_PYTHON_VERSION = sys.executable
ds, do = SyftRDSClient.pair_with_mock_drive_service_connection(
    email1="data@hospital.example", email2="ada@university.example",
    base_path1=Path("owner").absolute(), base_path2=Path("scientist").absolute(), use_in_memory_cache=False,
)
"""


def blocks(language: str) -> list[str]:
    """The section's blocks of a language that have no title."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The data owner's session: uv is on its path, and a wheel of this checkout where uv looks."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MOIETY_", "PYTHON"))}
    made = inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
        "UV_FIND_LINKS": str(wheels),
    }
    run(["uv", "build", "--quiet", "--wheel", "--out-dir", str(wheels), str(ROOT)], tmp_path, made)
    return made


@pytest.fixture(scope="module")
def access(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data owner's access file, of a model that its owner withdraws again."""
    path = tmp_path_factory.mktemp("hospital") / "hospital.json"
    for line in blocks("sh")[0].splitlines():
        deployment.run(*shlex.split(line.replace("hospital.json", str(path)))[1:])
    yield path
    deployment.run("withdraw", "mnist-count", "1")


@pytest.mark.long
def test_the_page_runs_as_printed(
    access: Path, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path, environment: dict[str, str]
) -> None:
    pictures, labels = digits[0][:PICTURES], digits[1][:PICTURES].astype(np.int64)
    labels[:7] = (labels[:7] + 1) % 10
    np.savez(tmp_path / "private.npz", images=pictures, labels=labels)
    packages = [word for word in shlex.split(blocks("sh")[1].splitlines()[0])[2:] if word != "uv"]
    python = str(tmp_path / "syft" / "bin" / "python")
    run(["uv", "venv", "--quiet", "--python", sys.executable, "syft"], tmp_path, environment)
    run(["uv", "pip", "install", "--quiet", "--python", python, *packages], tmp_path, environment)
    (job,) = re.findall(r'^```python title="evaluate_digits.py"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)
    (tmp_path / "evaluate_digits.py").write_text(job)
    steps = blocks("python")
    logins = [step for step in steps if "login_d" in step]
    assert len(logins) == 2 and len(steps) == 7
    program = BEGIN + "".join(step for step in steps if step not in logins)
    printed = run([python, "-c", program], tmp_path, environment | {"MOIETY_CLIENT_ACCESS_FILE": str(access)})
    right = int((mnist.float_outputs(pictures).argmax(axis=1) == labels).sum())
    assert json.loads(printed.splitlines()[-1]) == {"correct": right, "total": PICTURES}, printed
    assert right < PICTURES and list(json.loads(blocks("json")[0])) == ["correct", "total"]
    seen = {path: path.read_bytes() for path in (tmp_path / "scientist").rglob("*") if path.is_file()}
    assert "stderr.txt" in {path.name for path in seen}, "what a job prints reaches its sender, as the page says"
    ten = pictures[:10].tobytes()
    assert ten in (tmp_path / "private.npz").read_bytes() and not [path for path in seen if ten in seen[path]]


def test_a_job_gets_no_predictions(access: Path, digits: tuple[np.ndarray, np.ndarray]) -> None:
    with Client.from_access(access) as client:
        assert client.evaluate("mnist-count", digits[0][:2], digits[1][:2]).total == 2
        with pytest.raises(NotAllowed):
            client.predict("mnist", digits[0][0])
