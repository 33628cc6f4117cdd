"""Whole models of torchvision, with random weights and at a small resolution."""

import pytest
import torch
import torchvision
from torch import nn

from moiety_server.compiler.trace import trace
from tests.compiler.tracing import kinds, settled

DEFAULT_ZOO = ["resnet18", "mobilenet_v3_small"]
WHOLE_ZOO = [
    *(
        "googlenet",
        "resnet50",
        "squeezenet1_1",
        "vgg16",
        "vgg11_bn",
        "alexnet",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "densenet121",
    ),
    *("efficientnet_b0", "efficientnet_v2_s", "shufflenet_v2_x1_0", "mnasnet1_0", "regnet_y_400mf", "regnet_x_400mf"),
    *("inception_v3", "resnext50_32x4d", "wide_resnet50_2"),
]


def check_zoo(name: str) -> None:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    side = 96 if name == "inception_v3" else 64
    model = settled(torchvision.models.get_model(name, weights=None, **options))
    graph = trace(model, torch.randn(1, 3, side, side))
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = model(x)
    values = graph.run(x)
    assert (values[graph.output] - expected).abs().max() < 1e-4 * expected.abs().max()
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    layers = sum(isinstance(module, nn.Conv2d) for module in model.modules())
    assert norms == 0 or name == "densenet121" or kinds(graph).count("Conv") <= layers
    assert all(values[node.name].shape[1:] == node.shape for node in graph.nodes)


@pytest.mark.parametrize("name", DEFAULT_ZOO)
def test_torchvision(name: str) -> None:
    check_zoo(name)


@pytest.mark.zoo
@pytest.mark.parametrize("name", WHOLE_ZOO)
def test_more_of_torchvision(name: str) -> None:
    check_zoo(name)
