"""Samples that ship with the package: trained MNIST networks and a few hundred of MNIST's test images."""

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).parent / "models"


def images() -> tuple[Tensor, Tensor]:
    """Return real MNIST test images, uint8 (n, 28, 28), and their labels, uint8 (n,)."""
    tensors = load_file(str(FOLDER / "mnist_sample.safetensors"))
    return tensors["images"], tensors["labels"]
