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


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0][:, -1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


def within(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.ModuleDict({"inner": layer})["inner"])


REFUSED: dict[str, tuple[Any, tuple[int, ...], list[str]]] = {
    "group norm": (within(nn.GroupNorm(2, 4)), (4, 3, 3), ["1 (GroupNorm)", "use BatchNorm"]),
    "layer norm": (within(nn.LayerNorm(3)), (4, 3, 3), ["1 (LayerNorm)", "use BatchNorm"]),
    "instance norm": (within(nn.InstanceNorm2d(4)), (4, 3, 3), ["1 (InstanceNorm2d)", "use BatchNorm"]),
    "rms norm": (within(nn.RMSNorm(3)), (4, 3), ["RMSNorm", "use BatchNorm"]),
    "local response norm": (within(nn.LocalResponseNorm(2)), (4, 3, 3), ["LocalResponseNorm", "use BatchNorm"]),
    "batch statistics": (nn.BatchNorm2d(4, track_running_stats=False), (4, 3, 3), ["running ones"]),
    "attention": (Attention(), (5, 8), ["attention (MultiheadAttention)", "serve a convolutional"]),
    "lstm": (Recurrent(), (5, 3), ["lstm (LSTM)", "recurrent"]),
    "number in the model": (lambda x: x.reshape(2, 2, -1), (4,), ["does not start with the batch"]),
    "complex": (lambda x: torch.fft.fft(x).real, (4,), ["before it is sent"]),
    "branch": (Branching(), (3,), ["Branching", "test_trace_refused.py:", "if x.sum() > 0:", "control flow"]),
    "two inputs": (Two(), (3,), ["Two", "several inputs (x, y)"]),
    "two outputs": (lambda x: (x, x + 1), (3,), ["2 outputs"]),
    "no tensor": (lambda x: None, (3,), ["output"]),
    "constant output": (lambda x: torch.ones(1), (3,), ["does not depend"]),
    "state": (Counting(), (3,), ["changes its buffer calls"]),
    "active dropout": (lambda x: F.dropout(x), (3,), ["training=self.training"]),
    "noise": (lambda x: x + torch.randn_like(x), (3,), ["random", "tracing.py:"]),
    "softmax inside": (lambda x: x.softmax(1) * 2, (3,), ["softmax", "last operation"]),
    "softmax elsewhere": (lambda x: x.softmax(2), (3, 3), ["softmax", "last operation"]),
    "3d": (nn.Conv3d(1, 1, 1), (1, 2, 2, 2), ["Conv3d", "only 1-d and 2-d"]),
    "no batch": (nn.Conv2d(2, 3, 1), (5, 5), ["Conv2d", "the shape the model was made for, its batch first"]),
    "features": (nn.Linear(4, 2), (3,), ["Linear", "the shape the model was made for"]),
    "fixed batch": (lambda x: x.view(1, 3) + 1, (3,), ["view", "do not write the batch size"]),
    "batch flattened": (lambda x: x.flatten(), (3,), ["does not start with the batch", "x.flatten(1)"]),
    "batch moved": (lambda x: x.transpose(0, 1).relu().transpose(0, 1), (3,), ["transpose"]),
    "batch averaged": (lambda x: x - x.mean(0, keepdim=True), (3,), ["mean"]),
    "batch sliced": (lambda x: x[:1] + x, (3,), ["slice"]),
    "batch picked": (lambda x: x[0] + x, (3,), ["select", "start with the batch"]),
    "batch in a constant": (lambda x: x + torch.arange(6.0).view(2, 3), (3,), ["batch"]),
    "batch concatenated": (lambda x: torch.cat([x, x]), (3,), ["cat"]),
    "divide by a wire": (lambda x: x / (x.abs() + 1), (3,), ["abs"]),
    "divide by a sigmoid": (lambda x: 2 / x.sigmoid(), (3,), ["reciprocal", "divide by numbers"]),
    "compare": (lambda x: torch.where(x > 0, x, 2 * x), (3,), ["gt", "secret values"]),
    "erf": (lambda x: torch.erf(x) * x, (3,), ["erf", "gelu"]),
    "argmax": (lambda x: x.argmax(1), (3,), ["argmax", "secret values"]),
    "sqrt": (lambda x: x.sqrt(), (3,), ["sqrt", "divide by numbers"]),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (1, 3, 3), ["mode='nearest'"]),
    "uneven upsampling": (lambda x: F.interpolate(x, size=(4, 4)), (1, 3, 3), ["whole factor"]),
    "reflection": (nn.ReflectionPad2d(1), (1, 3, 3), ["pad with zeros"]),
    "circular": (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), (1, 3, 3), ["pad with zeros"]),
    "indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[1] * 1.0, (1, 4, 4), ["second result"]),
    "two secrets": (lambda x: x @ x.transpose(1, 2), (3, 3), ["a matrix computed from the input"]),
    "dimensions": (lambda x: x.unsqueeze(1) + x, (3,), ["different dimensions", "unsqueeze"]),
    "clamp to a tensor": (lambda x: x.clamp(min=x * 0.5), (3,), ["clamp"]),
    "assignment": (lambda x: (y := x + 1, y[:, 0].fill_(3.0), y)[-1], (3,), ["torch.cat"]),
    "power": (lambda x: x**0.5 + x**-1, (3,), ["power"]),
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
    with pytest.raises(NotServable, match=r"nn\.Module it was made from"):
        trace(script, torch.ones(1, 2))
    with pytest.raises(NotServable, match=r"torch\.int64.*embedding"):
        trace(nn.Embedding(5, 3), torch.zeros(1, 4, dtype=torch.int64))
