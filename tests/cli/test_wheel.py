"""A wheel is enough: built as a release is, and installed beside the packages at hand, it runs from any folder.

The commands that `demo` and `up` print for people to copy are run as they are printed.
"""

import json
import os
import re
import secrets
import subprocess
import sys
import tomllib
import venv
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from moiety_service.http.ports import reserved
from moiety_service.startup import StartRefused

ROOT = Path(__file__).parents[2]
HATCH = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
ENVIRONMENT = {n: v for n, v in os.environ.items() if not n.startswith(("MOIETY_", "PYTHON", "VIRTUAL_ENV"))}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def shell(command: str, folder: Path) -> str:
    """What a command printed for programs; it has to succeed."""
    done = subprocess.run(command, shell=True, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tree() -> str:
    """The commit to build: what is checked out, with what was changed since."""
    return git("stash", "create") or git("rev-parse", "HEAD")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, tree: str) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    binaries = Path(sys.executable).parent
    options = ("--old-file=.venv/.installed", f"BIN={binaries}", f"DIST={folder}", f"TREE={tree}")
    made = subprocess.run(["make", "wheel", *options], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The folder with the `python` and the `moiety` of an environment that has the wheel, and no other code of ours."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    options = ("--python", folder / "bin" / "python", "install", "--quiet", "--no-deps", "--no-index")
    subprocess.run([sys.executable, "-m", "pip", *options, wheel], check=True)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "others.pth").write_text(
        "\n".join(others)
    )  # whose own .pth files, an editable moiety's too, are not read
    return folder / "bin"


def test_it_holds_each_file_of_each_package_and_nothing_else(wheel: Path, tree: str) -> None:
    folders = {path: Path(path).name for path in HATCH["build"]["targets"]["wheel"]["packages"]}
    wanted = {
        line.replace(path, name, 1)
        for path, name in folders.items()
        for line in git("ls-tree", "-r", "--name-only", tree, "--", path).splitlines()
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted and {name.split("/")[0] for name in held} == set(folders.values())


def test_it_says_which_commit_it_is(wheel: Path, installed: Path, tree: str, tmp_path: Path) -> None:
    stated = tomllib.loads(git("show", f"{tree}:pyproject.toml"))["project"]["version"]
    release = git("tag", "--points-at", tree)
    version = stated if release else f"{stated}+g{git('rev-parse', '--short', tree)}"
    assert shell(f"{installed}/moiety --version", tmp_path) == f"{version}\n"
    assert wheel.name == f"moiety-{version}-py3-none-any.whl"


def test_the_client_needs_no_pytorch(installed: Path, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['torch'] = None; from moiety import Client; print(sys.modules['moiety'].__file__)"
    )
    assert Path(shell(f'{installed}/python -c "{program}"', tmp_path).strip()).is_relative_to(installed.parent)


def test_networks_that_ship_are_published_without_onnx(installed: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['onnx'] = None; from moiety_server import sources; print(sources.load('mnist'))"
    assert "name='mnist'" in shell(f'{installed}/python -c "{program}"', tmp_path)


@pytest.mark.long
def test_the_demo_runs_and_so_do_the_commands_that_it_leads_to(installed: Path, tmp_path: Path) -> None:
    demo = [installed / "moiety", "demo", "--images", "32", "--json"]
    done = subprocess.run(demo, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["images"] == report["agree"] == 32 and (tmp_path / ".moiety/demo/shares.png").stat().st_size > 1000
    (up,) = re.findall(r"^What to try next: +(.+)$", done.stderr, re.MULTILINE)
    with subprocess.Popen(  # ports of its own: who runs the tests may have roles of theirs at the usual ones
        f"exec {up} --base-port {five_ports()}",
        shell=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        try:
            said = ""
            while "Ctrl-C stops all five." not in said and (line := running.stderr.readline()):
                said += line
            (publish,) = re.findall(r"^Publish the MNIST network: +(.+)$", said, re.MULTILINE)
            (predict,) = re.findall(r"^Private predictions: +(.+)$", said, re.MULTILINE)
            elsewhere = tmp_path / "elsewhere"
            elsewhere.mkdir()
            shell(publish, elsewhere)
            answers = re.findall(r"(\d)\.png +(\d) +\d\.\d+ *$", shell(predict, elsewhere), re.MULTILINE)
            assert answers == [(digit, digit) for digit in "0123456789"]
        finally:
            running.terminate()  # SIGINT may be ignored, as in a shell's background
            running.communicate(timeout=60)
    assert running.returncode == 0


def five_ports() -> int:
    """The first of five ports that are free, as those ten higher are, for the metrics. The system gives these to no
    connection of another process meanwhile: it takes those from 32768 on."""
    while True:
        first = 20_000 + secrets.randbelow(10_000)
        with ExitStack() as held:
            try:
                for port in (*range(first, first + 5), *range(first + 10, first + 15)):
                    held.enter_context(reserved(port))
            except StartRefused:  # one of them is taken
                continue
            return first
