"""What ships with the package: the trained MNIST network and a few hundred of MNIST's test images."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from moiety_server import network
from moiety_server.compile import Compiled, compile_model
from moiety_server.publish import Publisher
from moiety_shared.catalogue import Preprocessing, SignedEntry

FOLDER = Path(__file__).parent / "models"
LOW, HIGH = (0 - network.MEAN) / network.STD, (1 - network.MEAN) / network.STD


def images() -> tuple[Tensor, Tensor]:
    """Real MNIST test images, uint8 (n, 28, 28), and their labels, uint8 (n,)."""
    tensors = load_file(str(FOLDER / "mnist_sample.safetensors"))
    return tensors["images"], tensors["labels"]


def compile_mnist(weights: Path | None = None) -> Compiled:
    """The network compiled for pixels from black to white; calibrated on the sample images."""
    pixels, _ = images()
    model = network.load(weights or FOLDER / "mnist.safetensors")
    return compile_model(model, network.normalise(pixels).to(torch.float32), low=LOW, high=HIGH)


def publish_mnist(
    publisher: Publisher, name: str, weights: Path | None, progress: Callable[[str], None]
) -> SignedEntry:
    compiled = compile_mnist(weights)
    progress(f"expected error of a logit: {compiled.error:.4f}")
    return publisher.publish(
        name,
        compiled,
        preprocessing=Preprocessing(channels=1, size=(28, 28), mean=(network.MEAN,), std=(network.STD,)),
        classes=tuple(str(digit) for digit in range(10)),
        description="Handwritten digits: 784-500-10, trained on MNIST",
        progress=progress,
    )
