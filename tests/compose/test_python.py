"""The client's image on a newer Python, with the services of the other images."""

import os
import re
import subprocess

import pytest

from tests.compose.project import ROOT, Project, docker, wait_for

pytestmark = [pytest.mark.compose, pytest.mark.long]

BASE = "python:3.13-slim-trixie"
ASK = """
import base64, httpx, pathlib, platform
picture = base64.b64encode(pathlib.Path("/digits/7.png").read_bytes()).decode()
tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "data": [picture]}
answer = httpx.post("http://localhost:7704/v2/models/mnist/infer", json={"inputs": [tensor]}, timeout=60)
print(platform.python_version(), answer.json()["outputs"][0]["data"])
"""


@pytest.fixture(scope="module")
def image() -> str:
    """The client's image on that base, which is pulled, or made by the program that MOIETY_BASE_IMAGE_TOOL names."""
    there = (["docker", "image", "inspect", BASE], ["docker", "pull", "-q", BASE])
    if all(subprocess.run(command, capture_output=True).returncode for command in there):
        subprocess.run([os.environ["MOIETY_BASE_IMAGE_TOOL"], BASE], check=True, capture_output=True)
    arguments = (f"BASE={BASE}", "ROLE=client", "TORCH=")
    chosen = [part for argument in arguments for part in ("--build-arg", argument)]
    return docker("build", "--quiet", "--network", "host", *chosen, str(ROOT)).strip()


def test_the_client_predicts_on_a_newer_python(project: Project, image: str) -> None:
    access = ("--volume", f"{project.name}_access:/access:ro", "--env", "MOIETY_CLIENT_ACCESS_FILE=/access/access.json")
    bounds = ("--network", f"{project.name}_clients", "--read-only", "--cap-drop", "ALL")
    said = docker("run", "--rm", *access, *bounds, image, "predict", "mnist", "/digits")
    assert re.findall(r"^ ?/digits/(\d).png +(\d) +\d\.\d+ *$", said, re.MULTILINE) == [(d, d) for d in "0123456789"], (
        said
    )
    sidecar = docker("run", "--detach", *access, *bounds, image, "sidecar").strip()
    try:
        health = ["docker", "exec", sidecar, "moiety", "healthcheck", "http://localhost:7704"]
        wait_for(lambda: subprocess.run(health, capture_output=True).returncode == 0, "the sidecar is ready")
        version, label = docker("exec", sidecar, "/venv/bin/python", "-c", ASK).split()
        assert version.startswith("3.13.") and label == "[7]"
    finally:
        docker("rm", "--force", sidecar)
