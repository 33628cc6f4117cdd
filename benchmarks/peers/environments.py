"""The environments in which other engines are installed, each a folder of its own, made once."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from moiety_local.folder import DeploymentError

_STAMP = "moiety-installed.json"
_PYTHON = "3.11"  # the newest that both engines' wheels are for


@dataclass(frozen=True)
class Environment:
    """What pip installs, in this order: packages with what they need, then packages alone."""

    name: str
    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()


CRYPTEN = Environment(
    "crypten",
    ("torch==2.13.0", "omegaconf", "onnx", "pandas", "pyyaml", "scikit-learn", "tensorboard", "scipy"),
    ("crypten==0.4.1",),  # what it asks for includes packages that it does not import, and of torch an old release
)
SPU = Environment("spu", ("spu==0.9.5",))


def python_of(environment: Environment, cache: Path, say: Callable[[str], None]) -> Path:
    """The environment's interpreter, below `cache`. Installs what is not there yet, or not as it should be.

    Raises DeploymentError when there is no Python for it, when pip cannot install a package, or when the folder is not
    one that an earlier run made: nothing is deleted then.
    """
    folder = (cache / environment.name).absolute()
    python, stamp = folder / "bin" / "python", folder / _STAMP
    wanted = json.dumps([_PYTHON, environment.packages, environment.alone])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    base = _base()
    if folder.exists():
        if not stamp.is_file():
            raise DeploymentError(
                f"no earlier run made {folder}, so the command deleted nothing: choose another folder with --cache"
            )
        say(f"deleting {folder}, which an earlier run made")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    stamp.touch()  # a run that breaks off leaves what the next may delete
    say(f"installing {', '.join((*environment.packages, *environment.alone))} into {folder}, once")
    _run(f"no environment could be made in {folder}", base, "-m", "venv", str(folder))
    for packages in (environment.packages, ("--no-deps", *environment.alone)):
        if packages != ("--no-deps",):
            _run(
                f"pip could not install {' '.join(packages)}. It takes packages from the index that pip is set to: "
                "where this machine has no network, name a folder that has them in PIP_FIND_LINKS, or an index in "
                "PIP_INDEX_URL. Where that has no CPU build of torch, name one that has it in PIP_EXTRA_INDEX_URL",
                str(python), "-m", "pip", "install", "--quiet", "--progress-bar", "off", *packages,
            )  # fmt: skip
    stamp.write_text(wanted)
    return python


def versions(python: Path, *packages: str) -> dict[str, str]:
    """Which versions of packages an environment has."""
    program = "import json, sys; from importlib.metadata import version; "
    program += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    found: dict[str, str] = json.loads(_run("a package is missing", str(python), "-c", program, *packages))
    return found


def _base() -> str:
    if f"{sys.version_info.major}.{sys.version_info.minor}" == _PYTHON:
        return sys.executable
    found = shutil.which(f"python{_PYTHON}")
    if found is None:
        raise DeploymentError(
            f"the other engines need Python {_PYTHON}, and there is no python{_PYTHON} on the PATH: install it"
        )
    return found


def _run(problem: str, *command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise DeploymentError(f"{problem}.\nThe last that it said: {last}")
    return done.stdout
