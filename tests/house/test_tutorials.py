"""The tutorials' notebooks run as they stand, and print what is printed in them.

A cell tagged `varies` (noise, ids, versions, what a machine takes) is run, and its output is not compared. `--rewrite`
writes the outputs anew (`make docs-reference`).
"""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from moiety_local.deployment import Deployment

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
_LONG = ("model-owner", "tables", "texts")  # they train and publish for a minute or two
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def normal(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Without what differs from run to run: counters, colours, metadata, and where a text was cut into pieces."""
    made: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type != "stream":
            assert output.output_type in ("execute_result", "display_data"), output
            kind = "image/png" if "image/png" in output.data else "text/plain"
            made.append(nbformat.v4.new_output("display_data", data={kind: output.data[kind]}))
            continue
        text = _ANSI.sub("", output.text).replace("\r\n", "\n")
        if not made or made[-1].output_type != "stream":
            made.append(nbformat.v4.new_output("stream", name="stdout", text=""))
        made[-1].text += text
    for output in made:
        if output.output_type == "stream":
            output.text = "\n".join(line.rstrip() for line in output.text.split("\n"))
    return made


def run(notebook: nbformat.NotebookNode, folder: Path, deployment: Deployment) -> nbformat.NotebookNode:
    """A copy with the outputs of this run: in an empty folder, with an access file, as the deployment's owner."""
    (folder / "access.json").write_bytes(deployment.access_file.read_bytes())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MOIETY_")}
    environment |= deployment.settings("server") | deployment.settings("client")
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
        "IPYTHONDIR": str(folder / "ipython"),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "OMP_NUM_THREADS": "1",  # the deployment needs the cores, too
        "TERM": "dumb",
    }
    copy = nbformat.from_dict(notebook)
    NotebookClient(
        copy, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}, record_timing=False
    ).execute(env=environment)
    for cell, original in zip(copy.cells, notebook.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = normal(cell.outputs)
            cell.execution_count, cell.metadata = None, original.metadata
    copy.metadata = notebook.metadata
    return copy


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.long] if path.stem in _LONG else [])
        for path in sorted(TUTORIALS.glob("*.ipynb"))
    ],
)
def test_a_tutorial_runs_and_prints_what_it_shows(
    path: Path, deployment: Deployment, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    committed = nbformat.read(path, as_version=4)
    found = run(committed, tmp_path, deployment)
    if request.config.getoption("--rewrite"):
        nbformat.write(found, path)
        return
    for then, now in zip(committed.cells, found.cells, strict=True):
        if now.cell_type == "code" and "varies" not in now.metadata.get("tags", []):
            assert then.outputs == now.outputs, f"run make docs-reference, or look into: {now.source}"
        elif now.cell_type == "code":
            assert len(then.outputs) == len(now.outputs), now.source
