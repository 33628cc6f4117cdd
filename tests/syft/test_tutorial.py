"""The tutorial as its readers run it: a program of its own, that starts and stops the other processes."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def mnist(tmp_path: Path, digits: tuple[np.ndarray, np.ndarray]) -> Path:
    """A folder as torchvision lays it out. The shipped test images have to do for training, too."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = (part.astype(np.uint8) for part in digits)
    for prefix in ("train", "t10k"):
        head = struct.pack(">IIII", 0x803, *images.shape)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(labels)) + labels.tobytes())
    return tmp_path


def processes_of(folder: Path) -> list[str]:
    """Command lines and environments of all processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"DATA_DIR={folder}/moiety-syft-".encode() in text:
            found.append(process.name)
    return found


def test_part_11_counts_the_same_on_secrets_and_in_the_clear(mnist: Path, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "moiety_syft", "tests/syft/part11.py", str(mnist), "3", "10"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("MOIETY_")} | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    counts = [(int(right), int(of)) for right, of in re.findall(r"Accuracy: (\d+)/(\d+)", done.stdout)]
    assert [of for _, of in counts[1:]] == list(range(50, 501, 50))
    right = int(re.search(r"in the clear: (\d+)", done.stdout)[1])  # type: ignore[index]
    assert right > 300, "a network that learnt something"
    assert abs(counts[-1][0] - right) <= 2, "it was trained from chance, and two of 500 may be ties in fixed point"
    assert not list(folder.glob("moiety-syft-*")), "its folder is gone"
    assert not processes_of(folder), "its processes are gone"
