"""The MNIST network of PySyft's tutorial part 11, in plain PyTorch: Linear(784, 500), ReLU, Linear(500, 10)."""

from collections.abc import Iterable
from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MEAN, STD = 0.1307, 0.3081


def build() -> nn.Sequential:
    return nn.Sequential(nn.Linear(784, 500), nn.ReLU(), nn.Linear(500, 10))


def normalise(pixels: Tensor) -> Tensor:
    """uint8 (n, 28, 28) to the network's input, float32 (n, 784)."""
    return (pixels.reshape(-1, 784).to(torch.float32) / 255 - MEAN) / STD


def read_mnist(data_dir: Path, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Pixels uint8 (n, 28, 28) and labels int64 (n,). Raises FileNotFoundError with a hint when they are not there."""
    from torchvision import datasets  # the extra `train`; publishing does without

    try:
        data = datasets.MNIST(str(data_dir), train=train, download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"MNIST is not in {data_dir}: set MOIETY_SERVER_MNIST_DIR to a folder with MNIST/raw, or allow the download"
        ) from error
    return data.data, data.targets


def train(pixels: Tensor, labels: Tensor, *, epochs: int, seed: int = 0) -> nn.Sequential:
    """Adam, learning rate 0.001, batches of 64. Shows its progress on stderr."""
    torch.manual_seed(seed)
    model = build()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.001)
    inputs = normalise(pixels)
    steps: Iterable[int] = range(epochs)
    for _ in track(steps, description="training"):
        for batch in torch.split(torch.randperm(len(inputs)), 64):
            loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    return float((model(normalise(pixels)).argmax(dim=1) == labels).float().mean())


def save(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), str(path))


def load(path: Path) -> nn.Sequential:
    model = build()
    model.load_state_dict(load_file(str(path)))
    return model.eval()
