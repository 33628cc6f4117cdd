"""The networks that ship with the package, in plain PyTorch: their architectures, and how to train, read and measure
them.

"mnist" is the network of PySyft's tutorial part 11. All take MNIST's pictures, normalised with MEAN and STD. Every
function that takes a network also takes its name.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MEAN, STD = 0.1307, 0.3081
_BATCH = 64


@dataclass(frozen=True)
class Network:
    """An architecture and how it is trained.

    `peak` is the highest learning rate of a one-cycle schedule with weight decay; None is plain Adam at 0.001.
    `shift` moves each training picture at random by up to so many pixels.
    """

    name: str
    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    description: str
    peak: float | None = None
    shift: int = 0


def _mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _lenet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * 4 * 4, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    )


def _inverted(inputs: int, hidden: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """1x1 expand, 3x3 depthwise, 1x1 project, each with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU6(),
        nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ReLU6(),
        nn.Conv2d(hidden, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.block = _inverted(channels, hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.block(x)
        return y


class Mobile(nn.Module):
    """MobileNetV2 in small: a strided stem, two residual blocks, one strided block, global average pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.first = InvertedResidual(16, 48)
        self.second = InvertedResidual(16, 48)
        self.down = _inverted(16, 64, 32, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.stem(x)))
        x = self.pool(self.down(x))
        logits: Tensor = self.head(torch.flatten(x, 1))
        return logits


class RowTransformer(nn.Module):
    """A transformer of the encoder's kind: the 28 rows of a picture are its tokens, each one linear map and a position.

    The norms stand in front of attention and of the feed-forward network, and the mean over the rows is classified.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(28, 32)
        self.positions = nn.Parameter(torch.randn(28, 32) * 0.1)
        self.first = _block(32)
        self.second = _block(32)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(torch.flatten(x, 1, 2)) + self.positions
        x = self.second(self.first(x))
        logits: Tensor = self.head(self.norm(x.mean(dim=1)))
        return logits


def _block(width: int) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(
        width, 2, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


_ALL = (
    Network("mnist", lambda: _mlp(784, 500, 10), (784,), "784-500-10"),
    Network("mnist-deep", lambda: _mlp(784, 128, 128, 10), (784,), "784-128-128-10", peak=0.003, shift=1),
    Network("lenet", _lenet, (1, 28, 28), "LeNet: two convolutions with max pooling, 500, 10", peak=0.003, shift=2),
    Network("mobile", Mobile, (1, 28, 28), "a small MobileNetV2: depthwise, residual, ReLU6", peak=0.01, shift=2),
    Network("rows", RowTransformer, (1, 28, 28), "a small transformer: rows are tokens", peak=0.003, shift=1),
)
NETWORKS: dict[str, Network] = {network.name: network for network in _ALL}


def named(network: Network | str) -> Network:
    """Return the network of that name. Raises KeyError with the names there are."""
    if isinstance(network, Network):
        return network
    if network not in NETWORKS:
        raise KeyError(f"there is no network {network!r}, only {', '.join(NETWORKS)}")
    return NETWORKS[network]


def build(network: Network | str = "mnist") -> nn.Module:
    return named(network).build()


def normalise(pixels: Tensor, network: Network | str = "mnist") -> Tensor:
    """Turn uint8 (n, 28, 28) into the network's input, float32 (n, 784) or (n, 1, 28, 28)."""
    return (pixels.reshape(-1, *named(network).input_shape).to(torch.float32) / 255 - MEAN) / STD


def read_mnist(data_dir: Path, *, train: bool, download: bool) -> tuple[Tensor, Tensor]:
    """Read pixels uint8 (n, 28, 28) and labels int64 (n,). Raises FileNotFoundError, with a hint, when they are not
    there."""
    from torchvision import datasets  # the extra `train`; publishing does without

    try:
        data = datasets.MNIST(str(data_dir), train=train, download=download)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"MNIST is not in {data_dir}: set MOIETY_SERVER_MNIST_DIR to a folder with MNIST/raw, or allow the download"
        ) from error
    return data.data, data.targets


def _shifted(pixels: Tensor, most: int) -> Tensor:
    """Move each picture at random by up to `most` pixels along both axes. The pixels that come in are black."""
    n, height, width = pixels.shape
    padded = nn.functional.pad(pixels, (most,) * 4)
    down, right = torch.randint(2 * most + 1, (2, n, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def train(network: Network | str, pixels: Tensor, labels: Tensor, *, epochs: int = 10, seed: int = 0) -> nn.Module:
    """Train with Adam in batches of 64, as the network says. Shows its progress on stderr."""
    network = named(network)
    torch.manual_seed(seed)
    model = network.build()
    decay = 0.0 if network.peak is None else 0.05
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=decay)
    schedule = None
    if network.peak is not None:
        total = epochs * -(-len(pixels) // _BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, network.peak, total_steps=total)
    steps: Iterable[int] = range(epochs)
    for _ in track(steps, description=f"training {network.name}"):
        for batch in torch.split(torch.randperm(len(pixels)), _BATCH):
            pictures = _shifted(pixels[batch], network.shift) if network.shift else pixels[batch]
            loss = nn.functional.cross_entropy(model(normalise(pictures, network)), labels[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if schedule is not None:
                schedule.step()
    return model.eval()


@torch.inference_mode()
def accuracy(model: nn.Module, pixels: Tensor, labels: Tensor, network: Network | str = "mnist") -> float:
    guesses = [model(normalise(some, network)).argmax(dim=1) for some in torch.split(pixels, 1000)]
    return float((torch.cat(guesses) == labels).float().mean())


def save(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), str(path))


def load(path: Path, network: Network | str = "mnist") -> nn.Module:
    model = build(network)
    model.load_state_dict(load_file(str(path)))
    return model.eval()
