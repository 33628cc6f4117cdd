"""From torch to a plan: bounds that hold, scales that fit, models that are refused."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from moiety_server import network, samples
from moiety_server.compile import NotServable, compile_model
from moiety_server.ranges import chain_bounds
from moiety_shared.plan import Linear, ReLU


def chain(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("sizes", [(5, 7, 3), (4, 8, 8, 2), (6, 3)])
def test_no_input_of_the_range_exceeds_the_bounds(sizes: tuple[int, ...]) -> None:
    model = chain(*sizes)
    linears = [m for m in model if isinstance(m, nn.Linear)]
    affine = [(m.weight.detach().double(), m.bias.detach().double()) for m in linears]
    boxes = chain_bounds(affine, -1.0, 2.0)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 2.0], dtype=torch.float64)] * sizes[0]).reshape(-1, sizes[0])
    for value in (corners, torch.rand(4000, sizes[0], dtype=torch.float64) * 3 - 1):
        for (weight, bias), (lower, upper) in zip(affine, boxes, strict=True):
            value = value @ weight.t() + bias
            assert (value <= upper + 1e-9).all() and (value >= lower - 1e-9).all()
            value = value.clamp(min=0)
    first_lower, first_upper = boxes[0]
    reached = corners @ affine[0][0].t() + affine[0][1]
    assert torch.allclose(reached.max(0).values, first_upper) and torch.allclose(reached.min(0).values, first_lower)


def test_the_mnist_network_compiles_to_the_stated_plan() -> None:
    compiled = samples.compile_mnist()
    first, relu, second = compiled.plan.layers
    assert isinstance(first, Linear) and isinstance(relu, ReLU) and isinstance(second, Linear)
    assert (first.in_features, relu.size, second.out_features) == (784, 500, 10)
    assert compiled.error < 0.05
    cost = compiled.plan.cost(128)
    assert cost.rounds == 5 and cost.online_bytes / 128 < 8000 and cost.offline_bytes / 128 < 30_000


def test_the_shipped_weights_are_the_trained_network() -> None:
    pixels, labels = samples.images()
    assert network.accuracy(network.load(samples.FOLDER / "mnist.safetensors"), pixels, labels) > 0.97
    assert all(path.stat().st_size < 2_000_000 for path in samples.FOLDER.iterdir())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)), "Tanh"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), "Linear"),
        (nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), "ReLU"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "must end with a Linear"),
        (nn.Sequential(nn.Conv1d(1, 1, 1)), "Conv1d"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(NotServable, match=message):
        compile_model(model, torch.zeros(3, 4), low=-1, high=1)


def test_a_model_too_large_for_the_ring_is_refused_or_gets_more_bits() -> None:
    model = chain(4, 4, 2)
    with torch.no_grad():
        model[2].weight.mul_(1e8)
    rows = torch.rand(8, 4)
    with pytest.raises(NotServable, match="64-bit ring"):
        compile_model(model, rows, low=0, high=1)
    assert compile_model(model, rows, low=0, high=1, ring_bits=64).plan.ring_bits == 64


def test_more_bits_are_more_exact() -> None:
    model, rows = chain(20, 30, 5), torch.rand(50, 20)
    errors = [compile_model(model, rows, low=0, high=1, ring_bits=bits).error for bits in (32, 64)]
    assert errors[1] < errors[0] / 10 and errors[0] < 0.01
