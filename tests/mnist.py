"""The MNIST network's plan and some digits, as files: for tests in an environment that has no PyTorch to make them.

python -m tests.mnist FOLDER
"""

import io
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from moiety_server import sources
from moiety_server.zoo import samples


def _plan() -> bytes:
    return sources.load("mnist").compile().plan.model_dump_json().encode()


def _digits() -> bytes:
    images, labels = samples.images()
    np.savez(into := io.BytesIO(), images=images.numpy(), labels=labels.numpy())
    return into.getvalue()


FILES: Mapping[str, Callable[[], bytes]] = {"plan.json": _plan, "digits.npz": _digits}


if __name__ == "__main__":
    for name, made in FILES.items():
        (Path(sys.argv[1]) / name).write_bytes(made())
