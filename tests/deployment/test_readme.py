"""Every command of the README runs as it is printed there.

`make` runs in .ci/run, docker-compose in tests/compose. The others run here, in the README's order, in a folder that
looks like a checkout: what stands in a block of its own and goes on until Ctrl-C is left running for the next ones.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from docs.tools.reference import DOCS

ROOT = DOCS.parent
_OWN_MODEL = """
import torch

def build():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def of_moiety(block: str) -> bool:
    return not block.startswith(("make ", "docker-compose "))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: the repository, its virtual environment, and a model of their own."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (folder / "client").symlink_to(ROOT / "client")
    (folder / "mymodels.py").write_text(_OWN_MODEL)
    np.save(folder / "inputs.npy", np.linspace(0, 1, 32 * 16, dtype=np.float32).reshape(32, 16))
    return folder


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MOIETY_")}


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def up(checkout: Path) -> Iterator[None]:
    """The README's block that goes on until Ctrl-C, once it says that everything is up."""
    (command,) = [block.strip() for block in blocks("sh") if block.endswith("moiety up\n")]
    started = subprocess.Popen(
        command.split(), cwd=checkout, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with started as process:
        assert process.stderr is not None
        try:
            said = ""
            while "Ctrl-C" not in said:
                line = process.stderr.readline()
                assert line, f"it ended: {said}"
                said += line
            yield
        finally:
            process.terminate()  # SIGINT may be ignored, as in a shell's background
            assert process.wait(60) == 0


def test_make_and_docker_compose_run_elsewhere() -> None:
    commands = {block.strip() for block in blocks("sh") if not of_moiety(block)}
    made = {command for command in commands if command.startswith("make ")}
    assert made and made <= {line.split("  #")[0] for line in (ROOT / ".ci" / "run").read_text().splitlines()}
    composed = commands - made
    assert len(composed) == 1, "tests/compose/conftest.py takes the two lines of one block"


@pytest.mark.usefixtures("up")
def test_the_readmes_commands_run_as_printed(checkout: Path) -> None:
    todo = [block for block in blocks("sh") if of_moiety(block) and not block.endswith("moiety up\n")]
    assert len(todo) >= 2
    said = run(checkout, "bash", "-euc", "".join(todo))  # one shell, as a reader has
    assert re.search(r"7\.png +7 +\d\.\d+\s*$", said, re.MULTILINE), "the drawn 7 is a 7"
    assert "what one input costs" in said
    (program,) = blocks("python")
    assert run(checkout, sys.executable, "-c", program).split() == ["[7]", "5"]
    assert (checkout / "clinic-7.json").stat().st_mode & 0o77 == 0, "an access file is a secret"
