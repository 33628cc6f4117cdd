"""What pyproject.toml says of versions is what was run."""

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text().replace("\\\n", " ")
TOOLS = {"dev", "docs", "fuzz"}
"""What nobody gets who uses the package; and what the ordinary tests run in the newest versions alone:"""
ELSEWHERE = {"ray", "tabular", "text", "train"}


def listed(name: str) -> set[str]:
    """The words of a variable of the Makefile."""
    (found,) = re.findall(rf"^{name} :?= (.*)$", MAKEFILE, re.MULTILINE)
    return set(found.split())


def bounds(extras: set[str]) -> dict[str, Version]:
    """The lower bound of each package that these extras, and every role, ask for by themselves."""
    asked = [Requirement(text) for text in (*PROJECT["dependencies"], *(t for e in extras for t in EXTRAS[e]))]
    found = {}
    for one in asked:
        if one.name != PROJECT["name"]:
            (lowest,) = [Version(s.version) for s in one.specifier if s.operator == ">="]
            found[one.name] = max(lowest, found.get(one.name, lowest))
    return found


def test_every_extra_is_run_in_its_lowest_versions_or_named_here() -> None:
    assert listed("LOWEST_EXTRAS") | TOOLS | ELSEWHERE | {"all", "demo"} == set(EXTRAS)
    assert len(bounds(listed("LOWEST_EXTRAS"))) > 25


@pytest.mark.lowest
def test_these_are_the_lowest_versions() -> None:
    found = {name: Version(version(name)) for name in bounds(listed("LOWEST_EXTRAS"))}
    higher = {
        name: str(found[name])
        for name, lowest in bounds(listed("LOWEST_EXTRAS")).items()
        if found[name].release[: len(lowest.release)] != lowest.release
    }
    assert not higher, "another package asks for more: raise these bounds"


def test_what_uvicorn_is_taken_apart_for_ends_where_it_was_read() -> None:
    (uvicorn,) = [Requirement(text) for text in PROJECT["dependencies"] if text.startswith("uvicorn")]
    assert {s.operator for s in uvicorn.specifier} == {">=", "<"} and Version(version("uvicorn")) in uvicorn.specifier


def test_the_pythons_that_are_named_are_those_that_are_run() -> None:
    named = set(re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"])))
    (oldest,) = re.findall(r"--python-version (3\.\d+)", MAKEFILE)
    (newest,) = set(re.findall(r"python(3\.\d+) -c", MAKEFILE))
    assert named == {oldest, newest} and PROJECT["requires-python"] == f">={oldest}"
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in named, "say so in pyproject.toml when it is run"
