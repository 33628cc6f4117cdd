"""What the images are built from: lock files that satisfy pyproject.toml, Dockerfiles, a bill of materials."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = {"client": "client", "crypto_provider": "crypto-provider", "party": "party", "server": "server"}
FOLDERS = tuple(EXTRAS)
_PYTHON = default_environment() | {"python_version": "3.11", "sys_platform": "linux", "platform_system": "Linux"}
images = pytest.mark.parametrize("folder", FOLDERS)


def locked(name: str) -> dict[str, str]:
    """Package to version, of a lock file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))


def asked(extra: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for, extras of its own followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"][extra]:
        one = Requirement(text)
        if one.name == "moiety":
            for further in one.extras:
                yield from asked(further)
        elif one.marker is None or one.marker.evaluate(dict(_PYTHON)):
            yield one


def torch() -> dict[str, str]:
    return locked("torch")


@images
def test_the_lock_file_satisfies_what_is_asked_for(folder: str) -> None:
    """That each package's own needs are met too is what `pip check` says while an image is built."""
    found = locked(EXTRAS[folder])
    assert "torch" not in found, "it is apart, by build argument"
    needed = {canonicalize_name(one.name) for one in asked(EXTRAS[folder])}
    found |= torch() if "torch" in needed else {}
    more = ["tracing"] if folder == "client" else ["tracing", "postgres"]
    wrong = [
        f"{one} but {found.get(canonicalize_name(one.name))}"
        for extra in (EXTRAS[folder], *more)
        for one in asked(extra)
        if not one.specifier.contains(found.get(canonicalize_name(one.name), "0"))
    ]
    assert not wrong, "run `make lock`"


@images
def test_every_package_is_pinned_by_hashes_and_no_index_is_named(folder: str) -> None:
    for name in (EXTRAS[folder], "build"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert "://" not in text and "index-url" not in text
        entries = re.findall(r"^(\S+==\S+) (.*?)(?=^\S)", text + "\nx", re.MULTILINE | re.DOTALL)
        assert entries and all("--hash=sha256:" in rest for _, rest in entries)


@images
def test_a_role_has_only_its_extra(folder: str) -> None:
    packages = locked(EXTRAS[folder]).keys()
    assert "torchvision" not in packages and not [name for name in packages if name.startswith(("nvidia-", "cuda-"))]
    dockerfile = (ROOT / folder / "Dockerfile").read_text()
    assert f"requirements/{EXTRAS[folder]}.txt" in dockerfile
    assert ("AS torch" in dockerfile) == (folder != "client") == ("sympy" in packages)
    copied = set(re.findall(r"^COPY (\w+) /src/", dockerfile, re.MULTILINE))
    assert copied == {"shared", folder}, "no other role's code"


@images
def test_an_image_has_a_numeric_user_labels_and_no_shell_to_start_with(folder: str) -> None:
    dockerfile = (ROOT / folder / "Dockerfile").read_text()
    base = "".join(re.findall(r"\AARG PYTHON=(\S+)$", re.sub(r"^#.*\n", "", dockerfile, flags=re.M), re.M))
    stages = [base if stage == "$PYTHON" else stage for stage in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)]
    assert len(stages) > 2 and set(stages) == {"python:3.11-slim-bookworm"}
    assert re.findall(r"^USER (.*)$", dockerfile, re.MULTILINE) == ["10001:10001"]
    assert 'ENTRYPOINT ["/venv/bin/moiety"]' in dockerfile
    for label in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f"org.opencontainers.image.{label}=" in dockerfile
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in dockerfile


def test_torch_is_the_same_layer_everywhere_and_named_once() -> None:
    """Layers are shared between images whose Dockerfiles begin alike."""
    stages = {
        re.findall(r"^FROM \S+ AS torch\n.*?(?=\n# |\nFROM)", (ROOT / folder / "Dockerfile").read_text(), re.M | re.S)[
            0
        ]
        for folder in FOLDERS
        if folder != "client"
    }
    (stage,) = stages
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    pinned = f"torch=={torch()['torch']}"
    assert f"ARG TORCH={pinned}\n" in stage
    assert compose["x-build"]["args"]["TORCH"] == f"${{TORCH:-{pinned}}}"


def test_an_image_is_built_from_what_is_needed_alone() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and kept == {"pyproject.toml", "README.md", "LICENSE", "requirements", "shared", *FOLDERS}


def test_the_bill_of_materials_is_of_all_that_is_locked() -> None:
    made = subprocess.run(
        ["make", "--old-file=.venv/.installed", "sbom", f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    for folder, extra in EXTRAS.items():
        document: dict[str, Any] = json.loads((ROOT / "dist" / "sbom" / f"{extra}.cdx.json").read_text())
        assert document["bomFormat"] == "CycloneDX" and document["metadata"]["component"]["name"] == "moiety"
        listed = {one["name"]: one["version"] for one in document["components"]}
        assert listed == locked(extra) | (torch() if folder != "client" else {})
        assert all(one["purl"].startswith("pkg:pypi/") for one in document["components"])


def test_the_compose_file_names_what_the_schema_knows() -> None:
    """Each service is bounded, and nothing is taken from a registry."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    built = {one["image"] for one in compose["services"].values() if "build" in one}
    for name, service in compose["services"].items():
        if "profiles" in service:
            continue
        assert service["image"] in built, name
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["memswap_limit"] == service["mem_limit"], f"{name}: no swap beyond its memory"
        assert service["cpus"] and service["pids_limit"], name
        assert not [key for key in service.get("environment", {}) if "KEY" in key and key[-4:] != "_DIR"], name
        if "restart" in service:
            assert service["healthcheck"]["test"][:3] == ["CMD", "moiety", "healthcheck"], name
