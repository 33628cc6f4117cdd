"""The package, built once for all tests of it."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[2] / "client" / "js"
Node = Callable[..., str]


@pytest.fixture(scope="session")
def node() -> Node:
    """Run a program of Node.js in the package's folder, and return what it prints. It is built before the first."""
    if not shutil.which("npm") or not (PACKAGE / "node_modules").exists():
        said = "no Node.js, or no modules for client/js: run make browsers"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    _run("npm", "run", "build", "--silent")
    return _run


def _run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def ask_each(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[dict[str, Any]]]:
    """Ask with JavaScript clients in one process, as `client/js/test/predict.mjs` does, and return what each says.

    `each` is how their clients differ: members of the request.
    """

    def asked(access: Path, *requests: dict[str, Any], each: list[dict[str, Any]]) -> list[dict[str, Any]]:
        file = tmp_path_factory.mktemp("asked") / "requests.json"
        file.write_text(json.dumps([{"access": str(access), "asked": requests} | how for how in each]))
        told: list[dict[str, Any]] = json.loads(node("node", "test/predict.mjs", file))
        return told

    return asked


@pytest.fixture
def ask(ask_each: Callable[..., list[dict[str, Any]]]) -> Callable[..., dict[str, Any]]:
    """Ask with one JavaScript client, and return what it says."""

    def asked(access: Path, *requests: dict[str, Any]) -> dict[str, Any]:
        (told,) = ask_each(access, *requests, each=[{}])
        return told

    return asked
