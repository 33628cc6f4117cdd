"""What the images are built from: lock files that satisfy pyproject.toml, a Dockerfile, a bill of materials."""

import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
ROLES = ("client", "crypto_provider", "party", "server")
_PYTHON = default_environment() | {"python_version": "3.11", "sys_platform": "linux", "platform_system": "Linux"}
images = pytest.mark.parametrize("role", ROLES)


def locked(name: str) -> dict[str, str]:
    """Package to version, of a lock file."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))


def asked(extra: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for, extras of its own followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"] + project["optional-dependencies"][extra.replace("_", "-")]:
        one = Requirement(text)
        if one.name == "moiety":
            for further in one.extras:
                yield from asked(further)
        elif one.marker is None or one.marker.evaluate(dict(_PYTHON)):
            yield one


def torch() -> dict[str, str]:
    return locked("torch")


@images
def test_the_lock_file_satisfies_what_is_asked_for(role: str) -> None:
    """That each package's own needs are met too is what `pip check` says while an image is built."""
    found = locked(role)
    assert "torch" not in found, "it is apart, by build argument"
    needed = {canonicalize_name(one.name) for one in asked(role)}
    found |= torch() if "torch" in needed else {}
    more = ["tracing"] if role == "client" else ["tracing", "postgres"]
    wrong = [
        f"{one} but {found.get(canonicalize_name(one.name))}"
        for extra in (role, *more)
        for one in asked(extra)
        if not one.specifier.contains(found.get(canonicalize_name(one.name), "0"))
    ]
    assert not wrong, "run `make lock`"


@images
def test_every_package_is_pinned_by_hashes_and_no_index_is_named(role: str) -> None:
    for name in (role, "build"):
        text = (ROOT / "requirements" / f"{name}.txt").read_text()
        assert "://" not in text and "index-url" not in text
        entries = re.findall(r"^(\S+==\S+) (.*?)(?=^\S)", text + "\nx", re.MULTILINE | re.DOTALL)
        assert entries and all("--hash=sha256:" in rest for _, rest in entries)


@images
def test_a_role_has_only_its_extra(role: str) -> None:
    packages = locked(role).keys()
    assert "torchvision" not in packages and not [name for name in packages if name.startswith(("nvidia-", "cuda-"))]
    assert ("sympy" in packages) == (role != "client"), "what PyTorch needs"
    base = "empty" if role == "client" else "computing"
    assert f"\nFROM {base} AS {role}\n" in DOCKERFILE


def test_an_image_holds_its_role_and_what_all_share() -> None:
    copied = re.findall(r"^COPY (.*) (?:/src/\S*)$", DOCKERFILE, re.MULTILINE)
    assert copied == ["pyproject.toml README.md LICENSE", "shared", "$ROLE"]
    assert re.findall(r"^COPY requirements/(\S+) ", DOCKERFILE, re.MULTILINE) == [
        "${TORCH:-torch.txt}",
        "$ROLE.txt",
        "build.txt",
    ]
    assert re.findall(r"^(.*)\nCOPY --from=torch ", DOCKERFILE, re.MULTILINE) == ["FROM empty AS computing"]


def test_an_image_has_a_numeric_user_labels_and_no_shell_to_start_with() -> None:
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKERFILE, re.MULTILINE)
    made = {name for _, name in stages}
    assert {base for base, _ in stages} - made == {"$BASE", "$ROLE"} and set(ROLES) < made
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE) == ['["/venv/bin/moiety"]']
    labels = Counter(re.findall(r"\borg\.opencontainers\.image\.(\S+?)=", DOCKERFILE))
    each = dict.fromkeys(("title", "description"), len(ROLES))
    assert labels == each | dict.fromkeys(("licenses", "version", "revision", "base.name"), 1)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"^ARG VERSION=(.*)$", DOCKERFILE, re.MULTILINE)) == {version}


def test_the_base_image_and_pytorch_are_named_alike_everywhere() -> None:
    """Layers are shared between images that are built with the same arguments."""
    defaults = dict(re.findall(r"^ARG (BASE|TORCH)=(.+)$", DOCKERFILE, re.MULTILINE))
    assert defaults == {"BASE": "python:3.11-slim-bookworm", "TORCH": "torch-hashes.txt"}
    named, *hashes = (ROOT / "requirements" / "torch-hashes.txt").read_text().split("torch==")[1].split()
    assert named == torch()["torch"] and len(re.findall("--hash=sha256:[0-9a-f]{64}", " ".join(hashes))) == 2
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    wanted = {name: f"${{{name}:-{value}}}" for name, value in defaults.items()}
    built = [service["build"]["args"] for service in compose["services"].values() if "build" in service]
    assert sorted(arguments["ROLE"] for arguments in built) == sorted(ROLES)
    for arguments in built:
        expected = wanted | ({"TORCH": ""} if arguments["ROLE"] == "client" else {})
        assert {name: arguments[name] for name in wanted} == expected


def test_an_image_is_built_from_what_is_needed_alone() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and kept == {"pyproject.toml", "README.md", "LICENSE", "requirements", "shared", *ROLES}


@pytest.mark.long
def test_the_bill_of_materials_is_of_all_that_is_locked() -> None:
    made = subprocess.run(
        ["make", "--old-file=.venv/.installed", "sbom", f"BIN={Path(sys.executable).parent}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    for role in ROLES:
        document: dict[str, Any] = json.loads((ROOT / "dist" / "sbom" / f"{role}.cdx.json").read_text())
        assert document["bomFormat"] == "CycloneDX" and document["metadata"]["component"]["name"] == "moiety"
        listed = {one["name"]: one["version"] for one in document["components"]}
        assert listed == locked(role) | (torch() if role != "client" else {})
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
