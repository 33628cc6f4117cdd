"""Architectures of torchvision's, privately and in float: each kind of block small, whole ones by `make test-zoo`."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    inception,
    maxvit,
    mnasnet,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    squeezenet,
    swin_transformer,
)
from torchvision.models.googlenet import Inception
from torchvision.ops import Permute
from torchvision.ops.misc import SqueezeExcitation

from docs.tools import costs
from moiety_server.compiler.compilation import compile_model, encode_rows, outputs_of
from moiety_server.compiler.threads import one_thread
from moiety_server.sources import torchvision_model
from tests.protocols.running import Run

_ASKED = 8  # of the 32 inputs that ranges and statistics are measured on


class Headed(nn.Module):
    """A block on 8 channels with a stem in front and a classifier behind."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = block
        self.head = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x)).mean(dim=(2, 3)))


def _v3(kind: str) -> nn.Module:
    config = mobilenetv3.InvertedResidualConfig(8, 3, 16, 8, True, kind, 1, 1, 1.0)
    return mobilenetv3.InvertedResidual(config, nn.BatchNorm2d)


def _mbconv() -> nn.Module:
    config = efficientnet.MBConvConfig(4, 3, 1, 8, 8, 1)
    return efficientnet.MBConv(config, 0.0, nn.BatchNorm2d, SqueezeExcitation)


def _fused() -> nn.Module:
    return efficientnet.FusedMBConv(efficientnet.FusedMBConvConfig(2, 3, 1, 8, 8, 1), 0.0, nn.BatchNorm2d)


def _regnet_y() -> nn.Module:
    return regnet.ResBottleneckBlock(8, 8, 1, nn.BatchNorm2d, nn.ReLU, 4, 1.0, 0.25)


def _swin() -> nn.Module:
    """Windows of 3 x 3 on 7 x 7 places, so that these are padded; windows are shifted, so that they are masked."""
    block = swin_transformer.SwinTransformerBlock(8, 2, [3, 3], [1, 1], 2.0, stochastic_depth_prob=0.0)
    return nn.Sequential(Permute([0, 2, 3, 1]), block, Permute([0, 3, 1, 2]))


def _maxvit() -> nn.Module:
    more = (0.25, 2, 2, nn.BatchNorm2d, nn.GELU, 4, 2, 0.0, 0.0, 0.0)
    return maxvit.MaxVitLayer(8, 8, *more, partition_size=2, grid_size=(4, 4))


BLOCKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "basic": (lambda: resnet.BasicBlock(8, 8), 8),
    "bottleneck": (lambda: resnet.Bottleneck(8, 4, 2, nn.Sequential(nn.Conv2d(8, 16, 1, 2), nn.BatchNorm2d(16))), 16),
    "dense": (lambda: densenet._DenseBlock(2, 8, 2, 4, 0.0), 16),
    "transition": (lambda: densenet._Transition(8, 4), 4),
    "inverted residual": (lambda: mobilenetv2.InvertedResidual(8, 8, 1, 3), 8),
    "squeeze and excitation, relu": (lambda: _v3("RE"), 8),
    "squeeze and excitation, hardswish": (lambda: _v3("HS"), 8),
    "mbconv, silu": (_mbconv, 8),
    "fused mbconv, silu": (_fused, 8),
    "mnasnet": (lambda: mnasnet._InvertedResidual(8, 8, 3, 1, 2), 8),
    "regnet y": (_regnet_y, 8),
    "swin, shifted windows": (_swin, 8),
    "maxvit": (_maxvit, 8),
    "inception v3": (lambda: inception.InceptionA(8, 4), 228),
    "inception": (lambda: Inception(8, 4, 4, 4, 4, 4, 4), 16),
    "fire": (lambda: squeezenet.Fire(8, 4, 6, 6), 12),
    "convnext": (lambda: convnext.CNBlock(8, 0.5, 0.0), 8),
    "convnext, between stages": (lambda: nn.Sequential(convnext.LayerNorm2d(8), nn.Conv2d(8, 12, 2, 2)), 12),
    "shuffle": (lambda: shufflenetv2.InvertedResidual(8, 8, 1), 8),
}


@torch.no_grad()
def with_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """Batch norms as after training: their means and variances are those of real activations."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    model(x)
    return model.train(False)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_kind_of_block_runs_privately_as_in_float(name: str) -> None:
    torch.manual_seed(0)
    build, channels = BLOCKS[name]
    x = torch.rand(32, 3, 14, 14) * 2 - 1
    model = with_statistics(Headed(build(), channels).train(False), x)
    compiled = compile_model(model, x, low=-1, high=1)
    run = Run(compiled.plan, compiled.weights)
    got = run.assert_bit_exact(encode_rows(compiled.plan, x[:_ASKED])) * compiled.plan.output.scale
    with torch.inference_mode():
        exact = model(x[:_ASKED]).double().numpy()
    assert np.abs(got - exact).max() < 0.02 * exact.std()


ARCHITECTURES = [
    "resnet18",
    "resnet50",
    "vgg16",
    "alexnet",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "regnet_y_400mf",
    "inception_v3",
    "convnext_tiny",
    "efficientnet_v2_s",
    "swin_t",
    "maxvit_t",
]
_LARGE = {"convnext_tiny", "efficientnet_v2_s", "swin_t", "maxvit_t"}
"""Of which one picture runs privately: that takes minutes and gigabytes."""


def pictured(name: str) -> tuple[nn.Module, Tensor]:
    """An architecture with its own initialisation, and 24 random pictures of 224 x 224; the same ones each time."""
    torch.manual_seed(0)
    model = torchvision_model(name)
    x = torch.randn(24, 3, 224, 224).clamp(-2.5, 2.5)
    if name.startswith(("efficientnet", "maxvit")):  # without statistics their outputs vanish: 1e-14
        with one_thread():  # so that they are the same ones on every machine
            model = with_statistics(model, x[:8])
    return model, x


@pytest.mark.zoo
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_runs_privately_as_in_float(name: str, request: pytest.FixtureRequest) -> None:
    """20 random pictures: the same label, and outputs within 2 % of their spread; at the cost that is documented."""
    model, x = pictured(name)
    compiled = compile_model(model, x[:4], low=-2.5, high=2.5)
    if request.config.getoption("--rewrite"):
        costs.rewrite(name, compiled.plan)
    assert costs.line(name, compiled.plan) in costs.whole(), "run pytest -m zoo tests/compiler/test_zoo.py --rewrite"
    run = Run(compiled.plan, compiled.weights)
    pictures = x[4:]
    with torch.inference_mode():
        exact = torch.cat([model(picture[None]) for picture in pictures]).double().numpy()
    rows = encode_rows(compiled.plan, pictures)
    if name in _LARGE:  # what a private run gives, but for how it rounds
        run.assert_bit_exact(rows[:1])
        got = np.concatenate([outputs_of(compiled, picture[None]) for picture in pictures])
    else:
        got = np.concatenate([run.outputs(row[None]) for row in rows]) * compiled.plan.output.scale
    error = np.abs(got - exact).max() / exact.std()
    print(f"{name}: ring {compiled.plan.ring_bits}, largest error {error:.3%} of the spread")
    assert (got.argmax(axis=1) == exact.argmax(axis=1)).all()
    assert error < 0.02
