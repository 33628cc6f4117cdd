"""Digits for the demo, for `up` and for the benchmarks, and the float inference that they compare with."""

import importlib.resources
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]

MEAN, STD = np.float32(0.1307), np.float32(0.3081)
_SHIPPED = 512


class DataMissing(FileNotFoundError):
    """The caller wants more images than moiety ships, and no folder has them."""


def test_images(count: int, data: Path | None) -> tuple[Pixels, Labels]:
    """The first `count` test images (n, 28, 28) and their labels (n,)."""
    if data is not None:
        raw = data / "MNIST" / "raw"
        try:
            images = _idx(raw / "t10k-images-idx3-ubyte", 16).reshape(-1, 28, 28)
            labels = _idx(raw / "t10k-labels-idx1-ubyte", 8)
        except OSError as error:
            raise DataMissing(f"{raw} holds no MNIST test images") from error
    elif count <= _SHIPPED:
        from safetensors.numpy import load_file

        sample = load_file(str(model_folder() / "mnist_sample.safetensors"))
        images, labels = sample["images"], sample["labels"]
    else:
        raise DataMissing(f"moiety ships only {_SHIPPED} images: for more, pass --data DIR, a folder with MNIST/raw")
    return images[:count], labels[:count]


def float_outputs(pixels: Pixels) -> npt.NDArray[np.float32]:
    """The trained network in float32, as its owner would run it: (n, 10)."""
    from safetensors.numpy import load_file

    w = load_file(str(model_folder() / "mnist.safetensors"))
    x = (pixels.reshape(len(pixels), -1).astype(np.float32) / np.float32(255) - MEAN) / STD
    hidden = np.maximum(x @ w["0.weight"].T + w["0.bias"], 0)
    outputs: npt.NDArray[np.float32] = hidden @ w["2.weight"].T + w["2.bias"]
    return outputs


def model_folder() -> Path:
    # Data files of the owner's package. Its code is not imported.
    return Path(str(importlib.resources.files("moiety_server"))) / "zoo" / "models"


def drawn_digits() -> Path:
    """The folder of ten pictures, `0.png` to `9.png`, that the client's package contains."""
    return Path(str(importlib.resources.files("moiety_client"))) / "sidecar" / "web" / "digits"


def _idx(path: Path, header: int) -> npt.NDArray[np.uint8]:
    raw = path.read_bytes()
    (count,) = struct.unpack_from(">I", raw, 4)
    body = np.frombuffer(raw, dtype=np.uint8, offset=header)
    if len(body) % count:
        raise DataMissing(f"{path} is incomplete")
    return body
