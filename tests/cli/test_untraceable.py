"""What an owner reads of a module that cannot be traced: one line of ours, and nothing of torch's own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MODULES = """
import logging
import sys
import warnings

import torch
from torch import nn


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)

    def heard(self, x):
        warnings.warn("torch warns of a graph")
        for name in ("torch", "torch.export", "torch.fx.experimental.symbolic_shapes", "torch.first_heard_of_here"):
            logging.getLogger(name).error("torch logs a graph")
        print("torch prints a graph")
        print("torch prints a graph", file=sys.stderr)
        return self.first(x)


class Branching(Noisy):
    def forward(self, x):
        x = self.heard(x)
        return x if x.sum() > 0 else -x


class Ragged(Noisy):
    def forward(self, x):
        return self.heard(x[x > 0].reshape(-1, 4))
"""


@pytest.mark.parametrize(
    ("command", "name"),
    [("inspect", "Branching"), pytest.param("publish", "Ragged", marks=pytest.mark.long)],
)
def test_nothing_of_torch_reaches_the_terminal(tmp_path: Path, command: str, name: str) -> None:
    """In a process of its own, because torch and Python's warnings write past what a test catches."""
    (tmp_path / "mine.py").write_text(MODULES)
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 80, dtype=np.float32).reshape(20, 4))
    done = subprocess.run(
        [sys.executable, "-m", "moiety_service.cli.main", command, f"mine:{name}", "--calibration", "x.npy"],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "1000", "MOIETY_SERVER_DATA_DIR": str(tmp_path / "owner")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stdout
    *before, said = done.stderr.splitlines()
    assert before == ([] if command == "inspect" else ["compiling ragged"])
    assert said.startswith(f"the model ({name}), mine.py:") and "Instead: " in said
