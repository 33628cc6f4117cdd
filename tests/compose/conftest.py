"""The project is built and brought up by the README's own commands, once for all tests of this folder."""

import re
import shlex
import time
from collections.abc import Iterator

import pytest

from tests.compose.project import ROOT, SERVICES, Project

_COMPOSE = re.compile(r"^docker-compose (up .*|exec .*)$", re.MULTILINE)


def readme_commands() -> list[str]:
    """The lines of the README that begin with docker-compose, comments cut off."""
    return [line.split("  #")[0].strip() for line in _COMPOSE.findall((ROOT / "README.md").read_text())]


@pytest.fixture(scope="package")
def seconds() -> dict[str, float]:
    """How long things took, to be printed."""
    return {}


@pytest.fixture(scope="package")
def project(seconds: dict[str, float]) -> Iterator[Project]:
    up, predict = readme_commands()
    with Project().taken_down() as made:
        started = time.monotonic()
        made.compose("build")
        built = time.monotonic()
        made.compose(*shlex.split(up))
        said = made.compose(*shlex.split(predict.replace("exec ", "exec -T ")))  # there is no terminal
        answered = time.monotonic()
        assert re.findall(r"^ ?/digits/(\d).png +(\d) +\d\.\d+ *$", said, re.MULTILINE) == [
            (d, d) for d in "0123456789"
        ], said
        seconds |= {"images built": built - started, "up to the first prediction": answered - built}
        for service in SERVICES:
            made.wait_healthy(service)
        yield made
