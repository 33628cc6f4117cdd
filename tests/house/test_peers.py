"""`make bench-peers`: how results become a table, and what goes wrong. What is measured is measured by hand."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from benchmarks import __main__ as suites
from benchmarks.peers import __main__ as command
from benchmarks.peers import environments, processor
from benchmarks.peers.conductor import LAYERS, NetworkTask, walls
from benchmarks.peers.engines import Engine, running
from benchmarks.peers.environments import Environment, python_of
from benchmarks.peers.results import CaseResult, EngineResult, PeerResults
from moiety_local.folder import DeploymentError


def compared() -> PeerResults:
    """Quick has the quickest median, and gives a wrong label for one of two images; Steady has the quickest run."""
    engines = {
        "moiety": EngineResult.of([0.002, 0.004, 0.003], 0.004, right=2, bytes=26_000, rounds=5),
        "Quick": EngineResult.of([0.010, 0.010, 0.010], 0.011, right=1, bytes=1_000_000, rounds=9),
        "Even": EngineResult.of([0.060, 0.060, 0.060], 0.1, right=2, bytes=6_400_000, rounds=12),
        "Steady": EngineResult.of([0.050, 1.500, 1.250], 2.5, right=2, bytes=112_520, rounds=17),
    }
    case = CaseResult(network="784-500-10", batch=2, engines=engines)
    return PeerResults(
        date="1 May 2030", processor="a processor", load=0.5, versions={"moiety": "1.0", "spu": "2.0"}, cases=[case]
    )


def test_the_best_other_engine_is_one_whose_labels_are_right() -> None:
    (case,) = compared().cases
    assert case.sound == ["Even", "Steady"] and case.best == "Even"
    assert case.ratio == 20 and case.ratio_of_least == 25
    (row,) = compared().rows()
    assert row.what == "784-500-10, 2 images, Even / moiety: at least" and (row.value, row.asked, row.holds) == (
        20,
        10,
        True,
    )


def test_the_tables_have_medians_ratios_bytes_and_what_was_measured_on() -> None:
    assert compared().markdown() == "\n".join(
        (
            "a processor; load 0.5 when the run began; 1 May 2030; moiety 1.0, spu 2.0.",
            "",
            "| milliseconds, medians (and least) | moiety | Quick | Even | Steady | best other / moiety |",
            "| --- | --- | --- | --- | --- | --- |",
            "| 784-500-10, 2 images | 3 (2) | 10 (10), 1 of 2 labels wrong, not compared | 60 (60) | 1,250 (50) "
            "| **20.0** (25.0), Even |",
            "",
            "| milliseconds of processor time, all processes | moiety | Quick | Even | Steady |",
            "| --- | --- | --- | --- | --- |",
            "| 784-500-10, 2 images | 4 | 11 | 100 | 2,500 |",
            "",
            "| online bytes of all parties, rounds | moiety | Quick | Even | Steady |",
            "| --- | --- | --- | --- | --- |",
            "| 784-500-10, 2 images | 0.026 MB, 5 | 1 MB, 9 | 6.4 MB, 12 | 0.113 MB, 17 |",
        )
    )


def test_where_no_other_engine_is_right_nothing_is_compared() -> None:
    found = compared()
    for name in ("Even", "Steady"):
        found.cases[0].engines[name].right = 0
    assert found.rows() == [] and "| no other engine's labels are right |" in found.markdown()


def test_a_run_lasts_until_the_last_party_is_done() -> None:
    assert walls([[(1.0, 2.0), (5.0, 6.0)], [(0.5, 1.5), (5.5, 8.0)]]) == [1.5, 3.0]


def test_a_task_is_read_as_it_was_written(tmp_path: Path) -> None:
    inputs, weights = np.ones((2, 3), np.float32), [np.full((4, 3), 7, np.float32), np.zeros(4, np.float32)]
    NetworkTask.write(tmp_path / "task.npz", "mnist", inputs, weights)
    task = NetworkTask.read(str(tmp_path / "task.npz"))
    assert task.layers == LAYERS["mnist"] and np.array_equal(task.inputs, inputs)
    assert len(task.weights) == 2 and all(map(np.array_equal, task.weights, weights))


CPU = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC
flags\t\t: fpu avx avx2 avx512f avx512_vnni
"""


def test_a_processor_is_told_with_its_instruction_sets() -> None:
    assert processor.described(CPU).startswith("AMD EPYC, family 25 model 17, ")
    assert processor.described(CPU).endswith(" cores, AVX2, AVX-512, VNNI")
    assert processor.described(CPU.replace("avx512", "x").replace("avx2", "x")).endswith("no known instruction sets")


@pytest.mark.parametrize(("program", "named"), [(suites.bench, "benchmarks.peers"), (command.peers, "CrypTen and SPU")])
def test_the_help_names_the_comparison(program: object, named: str) -> None:
    app = typer.Typer()
    app.command()(program)  # type: ignore[type-var]
    assert named in " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "300"}).stdout.split())


MAKES_ENVIRONMENTS = """#!/bin/sh
mkdir -p "$3/bin"
cat >"$3/bin/python" <<END
#!/bin/sh
echo "\\$@" >>"$3.asked"
[ -e "$NETWORK" ] || { echo "no route to host" >&2; exit 1; }
END
chmod +x "$3/bin/python"
"""


def test_what_cannot_be_installed_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(MAKES_ENVIRONMENTS)
    python.chmod(0o700)
    monkeypatch.setattr(environments, "_base", lambda: str(python))
    monkeypatch.setenv("NETWORK", str(tmp_path / "network"))
    engine, told = Environment("engine", ("numbers==1",), ("engine==2",)), list[str]()
    with pytest.raises(DeploymentError, match=r"pip could not install numbers==1(.|\n)*PIP_FIND_LINKS(.|\n)*no route"):
        python_of(engine, tmp_path, told.append)
    (tmp_path / "network").touch()
    for _ in range(2):
        assert python_of(engine, tmp_path, told.append) == tmp_path / "engine" / "bin" / "python"
    asked = (tmp_path / "engine.asked").read_text().splitlines()
    assert [line.split()[-1] for line in asked] == ["numbers==1", "numbers==1", "engine==2"]
    assert [text.split()[0] for text in told] == ["installing", "deleting", "installing"]
    assert "--no-deps" in asked[2] and "--no-deps" not in asked[1]
    python_of(Environment("engine", ("numbers==3",)), tmp_path, told.append)
    assert [text.split()[0] for text in told[3:]] == ["deleting", "installing"], "another version is installed"


def test_a_folder_that_no_run_made_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "thesis").write_text("the only copy")
    with pytest.raises(DeploymentError, match=r"deleted nothing: choose another folder with --cache"):
        python_of(Environment("engine", ("numbers==1",)), tmp_path, lambda _: None)
    assert (tmp_path / "engine" / "thesis").read_text() == "the only copy"


def test_without_its_python_the_command_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environments, "_PYTHON", "3.0")
    with pytest.raises(DeploymentError, match=r"need Python 3\.0.*install it"):
        python_of(Environment("engine", ("numbers",)), tmp_path, lambda _: None)


def test_an_engine_that_ends_is_said_with_its_last_words(tmp_path: Path) -> None:
    engine = Engine("Mute", Environment("mute", ()), "no_parties")
    said = r"Mute ended(.|\n)*No module named benchmarks\.peers\.no_parties"
    with pytest.raises(DeploymentError, match=said), running(engine, Path(sys.executable), tmp_path / "log"):
        raise AssertionError("it does not run")


def test_what_is_kept_is_read_as_it_was_written() -> None:
    told = compared().model_dump_json()
    assert PeerResults.model_validate_json(told) == compared() and json.loads(told)["cases"][0]["batch"] == 2
