"""Where the torch front end refuses a model, it says where and why."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.trace import trace
from tests.compiler.tracing import refused


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if x.sum() > 0:
            return x
        return -x


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


def within(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.ModuleDict({"inner": layer})["inner"])


REFUSED: dict[str, tuple[Any, tuple[int, ...], list[str]]] = {
    "local response norm": (nn.LocalResponseNorm(2), (4, 3, 3), ["LocalResponseNorm", "the power 0.75"]),
    "batch statistics": (nn.BatchNorm2d(4, track_running_stats=False), (4, 3, 3), ["running statistics"]),
    "number in the model": (lambda x: x.reshape(2, 2, -1), (4,), ["does not start with the batch"]),
    "complex": (lambda x: torch.fft.fft(x).real, (4,), ["before it sends it"]),
    "branch": (Branching(), (3,), ["Branching", "test_trace_refused.py:", "if x.sum() > 0:", "control flow"]),
    "two inputs": (Two(), (3,), ["Two", "several inputs (x, y)"]),
    "no tensor": (lambda x: None, (3,), ["output"]),
    "constant output": (lambda x: torch.ones(1), (3,), ["does not depend"]),
    "state": (Counting(), (3,), ["changes its buffer calls"]),
    "active dropout": (lambda x: F.dropout(x), (3,), ["training=self.training"]),
    "noise": (lambda x: x + torch.randn_like(x), (3,), ["random", "tracing.py:"]),
    "3d": (nn.ConvTranspose3d(1, 1, 2), (1, 3, 3, 3), ["ConvTranspose3d", "not supported"]),
    "no batch": (nn.Conv2d(2, 3, 1), (5, 5), ["Conv2d", "the shape that the model takes, with the batch first"]),
    "features": (nn.Linear(4, 2), (3,), ["Linear", "the shape that the model takes"]),
    "fixed batch": (lambda x: x.view(1, 3) + 1, (3,), ["view", "do not write the batch size"]),
    "batch flattened": (lambda x: x.flatten(), (3,), ["its output output mixes up the batch", "batch alone"]),
    "batch summed": (lambda x: x.transpose(0, 1).sum(1).unsqueeze(0), (3,), ["across the batch"]),
    "batch averaged": (lambda x: x - x.mean(0, keepdim=True), (3,), ["mean"]),
    "batch sliced": (lambda x: x[:1] + x, (3,), ["slice"]),
    "batch picked": (lambda x: x[0] + x, (3,), ["select", "start with the batch"]),
    "batch in a constant": (lambda x: x + torch.arange(6.0).view(2, 3), (3,), ["batch"]),
    "batch concatenated": (lambda x: torch.cat([x, x]), (3,), ["cat"]),
    "argmax": (lambda x: 2 * x.argmax(1), (3,), ["argmax", "--reveal labels"]),
    "whole numbers": (lambda x: (3 * x).long() + x, (3,), ["to_copy yields torch.int64", "keep floats to the end"]),
    "sorted": (lambda x: x.sort(1)[0], (3,), ["sort", "by secret values"]),
    "assignment into the batch": (lambda x: (y := x + 1, y[:1].fill_(3.0), y)[-1], (3,), ["batch"]),
    "a choice of values": (lambda x: 2 * x[x > 0], (3,), ["index gives as many values as the input", "torch.where"]),
    "the places of values": (
        lambda x: 1.0 * (x > 0).nonzero(),
        (3,),
        ["nonzero gives as many values as", "torch.where"],
    ),
    "an uneven power": (lambda x: x**0.3, (3,), ["power 0.3", "multiples of one half"]),
    "a norm of another order": (lambda x: x.norm(p=3, dim=1), (3,), ["3-norm", "1, 2 and the largest"]),
    "indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1] * 1.0, (1, 4, 4), ["second result"]),
    "a matrix of the batch": (lambda x: x @ x.T, (3,), ["batch"]),
    "dimensions": (lambda x: x.unsqueeze(1) + x, (3,), ["different dimensions", "unsqueeze"]),
    "the batch's size": (lambda x: x * x.size(0), (3,), ["when other inputs are beside it", "x.size(0)"]),
    "the batch's size in a shape": (
        lambda x: F.pad(x, (0, x.size(0)))[:, : x.size(0)],
        (3,),
        ["when other inputs are beside it"],
    ),
    "too short for a batch": (lambda x: x, (), ["put a batch first"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    model, shape, fragments = REFUSED[name]
    message = refused(model, *shape)
    assert all(fragment in message for fragment in fragments), message


def test_only_floats_and_plain_modules_come_in() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2))
    with pytest.raises(NotServable, match=r"nn\.Module that it was made from"):
        trace(script, torch.ones(1, 2))
    with pytest.raises(NotServable, match=r"torch\.int64.*Embedding"):
        trace(nn.Embedding(5, 3), torch.zeros(1, 4, dtype=torch.int64))
