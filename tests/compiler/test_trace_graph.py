"""What a traced graph looks like: names, layers that are folded or swapped, and a model that stays as it was."""

import re
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler.trace import trace
from tests.compiler.tracing import check, kinds, settled


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out += x
        return self.act(out)


def test_names_come_from_the_modules() -> None:
    model = nn.Sequential()
    model.add_module("Layer1", nn.Sequential(Block(), Block()))
    model.add_module("x" * 70, nn.Flatten())
    graph = check(model, 4, 5, 5)
    names = [node.name for node in graph.nodes]
    assert names[:5] == ["input", "layer1.0.conv1", "layer1.0.act", "layer1.0.add", "layer1.0.act-2"]
    origin = next(node.origin for node in graph.nodes if node.name == "layer1.0.act")
    assert re.fullmatch(
        r"Layer1\.0\.act \(ReLU\), test_trace_graph\.py:\d+: out = self\.act\(self\.bn1\(self\.conv1\(x\)\)\)", origin
    )
    assert len(kinds(graph)) == 9


def test_a_batch_norm_with_another_reader_before_it_stays() -> None:
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv, norm

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y + self.norm(y)

    assert kinds(check(Two(), 3, 5, 5)) == ["Conv", "Conv", "Add"]
    assert kinds(check(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), 3, 4, 4)) == ["Clamp", "Conv"]
    assert kinds(check(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), 3)) == ["Clamp", "Reshape", "Conv", "Reshape"]


def test_relu_and_max_pool_are_swapped() -> None:
    graph = check(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2)), 1, 8, 8)
    assert kinds(graph) == ["Conv", "MaxPool", "Clamp"]
    assert graph.nodes[-1].shape == (2, 3, 3) and graph.output == graph.nodes[-1].name
    one = nn.Sequential(nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.MaxPool1d(3, 2, 1, ceil_mode=True))
    assert kinds(check(one, 1, 8)) == ["Reshape", "Conv", "MaxPool", "Clamp", "Reshape"]
    assert kinds(check(lambda x: F.max_pool2d(y := F.relu(x), 3, 1, 1) + y, 1, 8, 8)) == ["Clamp", "MaxPool", "Add"]


def test_small_things_vanish() -> None:
    assert kinds(check(lambda x: F.relu6(F.relu(x)), 4, 3)) == ["Clamp"]
    assert kinds(check(lambda x: x.flatten(1).view(-1, 4, 3).flatten(1) * 1 + 0, 4, 3)) == ["Reshape"]
    assert kinds(check(lambda x: (x.relu(), x.unsqueeze(1) @ torch.ones(3, 3), x * 2)[2], 3)) == ["Scale"]
    assert kinds(check(lambda x: x * torch.sigmoid(x), 3)) == ["Smooth"]
    assert kinds(check(lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), 3)) == ["Smooth"]


@pytest.mark.parametrize(("layer", "final"), [(nn.Softmax(1), "softmax"), (nn.LogSoftmax(-1), "log_softmax")])
def test_a_last_softmax_is_left_to_the_client(layer: nn.Module, final: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Identity())
    graph = trace(model, torch.randn(1, 3))
    assert graph.final == final and kinds(graph) == ["Linear"]
    inside = check(nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)), 3)
    assert inside.final == "none", "one inside of a network is a part of it"


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(Block(), nn.Dropout(), Block())
    model[2].train(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trace(model, torch.randn(2, 4, 5, 5))
    assert not caught
    assert model[0].training and model[1].training and not model[2].training and not model[2].bn1.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_weights_of_any_float_become_float32(dtype: torch.dtype) -> None:
    model = settled(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten())).to(dtype)
    graph = trace(model, torch.randn(1, 2, 5, 5, dtype=dtype))
    x = torch.randn(2, 2, 5, 5)
    torch.testing.assert_close(graph.run(x)[graph.output], model.float()(x), rtol=1e-4, atol=1e-4)
