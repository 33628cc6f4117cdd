"""Programs run as they stand: `import syft as sy` gives the dialect in their process, and nothing else is changed."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import moiety_syft
from moiety_service.cli.main import build
from moiety_service.cli.terminal import Exit
from moiety_syft import program as programs

PROGRAM = """import sys

import neighbour
import syft as sy
from syft import VirtualWorker

print(__name__, sys.argv[1:], sy.TorchHook.__module__, VirtualWorker is sy.VirtualWorker, neighbour.HERE)
sys.exit(7)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("HERE = 4711\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


@pytest.fixture
def own_process() -> Iterator[None]:
    """What a program changes of its process is put back."""
    arguments, path = sys.argv, list(sys.path)
    yield
    sys.argv, sys.path[:] = arguments, path
    programs.stand_down()


def test_a_program_runs_as_python_runs_it(program: Path) -> None:
    for start in (["-m", "moiety_syft"], ["-m", "moiety_service.cli.main", "syft", "run"]):
        command = [sys.executable, *start, str(program), "--epochs", "3", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout == "__main__ ['--epochs', '3', '--help'] moiety_syft.hook True 4711\n", done.stderr
        assert done.returncode == 7


@pytest.mark.usefixtures("own_process")
def test_what_a_program_raises_is_shown_as_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text("def f():\n    return 1 / 0\n\n\nf()\n")
    assert programs.run(tmp_path / "bad.py", []) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback") and "ZeroDivisionError" in told and "runpy" not in told and "moiety" not in told
    (tmp_path / "bad.py").write_text("import syft.frameworks.torch\n")
    assert programs.run(tmp_path / "bad.py", []) == 1
    assert "syft.frameworks is not part of the dialect" in capsys.readouterr().err
    (tmp_path / "bad.py").write_text("import sys\nsys.exit('in words')\n")
    assert programs.run(tmp_path / "bad.py", []) == 1
    assert capsys.readouterr().err == "in words\n"


@pytest.mark.usefixtures("own_process")
def test_a_notebook_loads_it_and_lets_go_of_it() -> None:
    moiety_syft.load_ipython_extension(None)
    import syft  # type: ignore[import-not-found]

    assert syft.TorchHook is moiety_syft.TorchHook
    moiety_syft.unload_ipython_extension(None)
    with pytest.raises(ModuleNotFoundError):
        import syft


def test_the_command_says_what_it_needs() -> None:
    done = CliRunner().invoke(build(), ["syft", "run", "nowhere.py"])
    assert done.exit_code == Exit.USAGE and "does not exist" in done.stderr


def test_the_old_name_says_the_new_one() -> None:
    with pytest.raises(ImportError, match="import moiety_syft as sy"):
        from moiety_client import syft  # type: ignore[attr-defined]  # noqa: F401
