"""The torch front end: every layer it takes computes what torch computes; what it refuses, it says where and why."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler import ir
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.trace import trace

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
quick = settings(max_examples=6, deadline=None)
small = st.integers(1, 3)


class Fn(nn.Module):
    """A function as a model; tensors given with it are its parameters."""

    def __init__(self, function: Callable[..., Any], *parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.held = nn.ParameterList(parameters)

    def forward(self, x: Tensor) -> Any:
        return self.function(x, *self.held)


def settled(model: nn.Module) -> nn.Module:
    """In inference mode, with statistics as if trained."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.train(False)


def check(
    model: nn.Module | Callable[..., Any], *shape: int, batch: int = 1, example: Tensor | None = None
) -> ir.Graph:
    """Traced with a batch of one size, run with another."""
    model = settled(model if isinstance(model, nn.Module) else Fn(model))
    graph = trace(model, torch.randn(batch, *shape))
    x = torch.randn(3, *shape)
    with torch.no_grad():
        expected = model(x.clone())
    values = graph.run(x)
    torch.testing.assert_close(values[graph.output], expected, rtol=1e-4, atol=1e-4)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) and all(NAME.fullmatch(name) for name in names)
    assert type(graph.nodes[0]) is ir.Input
    for i, node in enumerate(graph.nodes):
        assert type(node).__module__ == "moiety_server.compiler.ir"
        assert values[node.name].shape[1:] == node.shape, node
        assert values[node.name].dtype == torch.float32
        assert set(node.inputs) <= set(names[:i])
    read = {name for node in graph.nodes for name in node.inputs} | {graph.output}
    assert set(names[1:]) <= read, "dead nodes"
    return graph


def kinds(graph: ir.Graph) -> list[str]:
    return [type(node).__name__ for node in graph.nodes[1:]]


def refused(model: nn.Module | Callable[..., Any], *shape: int) -> str:
    model = settled(model if isinstance(model, nn.Module) else Fn(model))
    with pytest.raises(NotServable) as caught:
        trace(model, torch.randn(1, *shape))
    message = str(caught.value)
    assert "/" not in message.replace("a / b", ""), message
    return message


# Layers, over all their attributes.


@quick
@given(data=st.data(), groups=st.sampled_from([1, 2, 4]), bias=st.booleans(), norm=st.booleans(), one=st.booleans())
def test_convolutions(data: st.DataObject, groups: int, bias: bool, norm: bool, one: bool) -> None:
    pair = small if one else st.tuples(small, small)
    kernel, dilation, stride = data.draw(pair), data.draw(pair), data.draw(pair)
    padding = data.draw(st.sampled_from(["same", "valid", 0, 1, 2] if not one else ["same", "valid", 0, 2]))
    if padding == "same":
        stride = 1
    if not one and isinstance(padding, int):
        padding = (padding, data.draw(st.integers(0, 2)))
    outputs = groups * data.draw(small)
    kind, norms = (nn.Conv1d, nn.BatchNorm1d) if one else (nn.Conv2d, nn.BatchNorm2d)
    layers = [kind(4, outputs, kernel, stride, padding, dilation, groups, bias)]
    layers += [norms(outputs)] * norm
    shape = (4, data.draw(st.integers(7, 11))) if one else (4, data.draw(st.integers(7, 11)), 9)
    graph = check(nn.Sequential(*layers), *shape)
    assert kinds(graph).count("Conv") == 1 and not {"Bias", "Scale", "Mul"} & set(kinds(graph))


@quick
@given(data=st.data(), groups=st.sampled_from([1, 2]), bias=st.booleans(), norm=st.booleans(), one=st.booleans())
def test_transposed_convolutions(data: st.DataObject, groups: int, bias: bool, norm: bool, one: bool) -> None:
    pair = small if one else st.tuples(small, small)
    kernel, stride, dilation = data.draw(pair), data.draw(pair), data.draw(pair)
    extra = data.draw(st.integers(0, 1))
    assume(all(extra < max(s, d) for s, d in zip(*(v if not one else (v,) for v in (stride, dilation)), strict=True)))
    kind, norms = (nn.ConvTranspose1d, nn.BatchNorm1d) if one else (nn.ConvTranspose2d, nn.BatchNorm2d)
    layer = kind(4, 6, kernel, stride, data.draw(st.integers(0, 1)), extra, groups, bias, dilation)
    graph = check(nn.Sequential(layer, *([norms(6)] * norm)), 4, *((7,) if one else (7, 5)))
    assert kinds(graph).count("Conv") == 1


@quick
@given(data=st.data(), ceil=st.booleans(), one=st.booleans(), n=st.integers(6, 12))
def test_max_pools(data: st.DataObject, ceil: bool, one: bool, n: int) -> None:
    kernel = data.draw(st.integers(2, 4))
    args = (kernel, data.draw(st.none() | small), data.draw(st.integers(0, kernel // 2)), data.draw(st.integers(1, 2)))
    model = (nn.MaxPool1d if one else nn.MaxPool2d)(*args, ceil_mode=ceil)
    graph = check(model, 3, *((n,) if one else (n, 7)))
    assert kinds(graph).count("MaxPool") == 1


@quick
@given(data=st.data(), ceil=st.booleans(), counted=st.booleans(), one=st.booleans(), n=st.integers(6, 12))
def test_average_pools(data: st.DataObject, ceil: bool, counted: bool, one: bool, n: int) -> None:
    kernel = data.draw(st.integers(2, 4))
    args = (kernel, data.draw(st.none() | small), data.draw(st.integers(0, kernel // 2)), ceil, counted)
    divisor = () if one else (data.draw(st.none() | st.integers(1, 7)),)
    model = (nn.AvgPool1d if one else nn.AvgPool2d)(*args, *divisor)
    graph = check(model, 3, *((n,) if one else (n, 7)))
    if args[2] == 0 and not ceil:
        assert kinds(graph)[:2] == ["SumPool", "Scale"] or one


@quick
@given(n=st.integers(1, 12), m=st.integers(1, 12), o=st.integers(1, 7), p=st.integers(1, 7), largest=st.booleans())
def test_adaptive_pools(n: int, m: int, o: int, p: int, largest: bool) -> None:
    check((nn.AdaptiveMaxPool2d if largest else nn.AdaptiveAvgPool2d)((o, p)), 2, n, m)
    check((nn.AdaptiveMaxPool1d if largest else nn.AdaptiveAvgPool1d)(o), 2, n)


def test_global_pools() -> None:
    assert kinds(check(nn.AdaptiveAvgPool2d(1), 3, 7, 5)) == ["Sum", "Scale", "Reshape"]
    assert kinds(check(nn.AdaptiveAvgPool2d((None, 5)), 3, 7, 5)) == []
    assert kinds(check(nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten()), 3, 6, 9)) == [
        "SumPool",
        "Scale",
        "Reshape",
    ]
    assert kinds(check(nn.AdaptiveMaxPool2d(1), 3, 7, 5)) == ["MaxPool"]
    assert kinds(check(nn.AdaptiveAvgPool2d(6), 3, 1, 1)) == ["Upsample"]


@quick
@given(sizes=st.lists(st.integers(1, 6), max_size=2), bias=st.booleans(), norm=st.booleans())
def test_linear(sizes: list[int], bias: bool, norm: bool) -> None:
    norm = norm and not sizes
    graph = check(nn.Sequential(nn.Linear(5, 4, bias), *[nn.BatchNorm1d(4)] * norm), *sizes, 5)
    assert kinds(graph) == ["Linear"]


ACTIVATIONS = [
    *(nn.ReLU(), nn.ReLU6(), nn.Hardtanh(), nn.Hardtanh(-2, 0.5), nn.LeakyReLU(), nn.LeakyReLU(0.3), nn.PReLU()),
    *(nn.PReLU(4), nn.Hardsigmoid(), nn.Hardswish(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.GELU(), nn.GELU("tanh")),
    *(nn.ELU(), nn.ELU(0.5), nn.SELU(), nn.CELU(0.7), nn.Softplus(), nn.Softplus(2.0), nn.Mish(), nn.LogSigmoid()),
    *(nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.SiLU(inplace=True), nn.LeakyReLU(0.1, inplace=True)),
    *(nn.Hardsigmoid(inplace=True), nn.ELU(inplace=True), nn.ReLU6(inplace=True), nn.Identity(), nn.Dropout(0.5)),
    *(
        nn.Dropout2d(),
        nn.AlphaDropout(),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.GLU(1),
        nn.ChannelShuffle(2),
    ),
]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=lambda layer: str(layer).lower())
def test_activations(layer: nn.Module) -> None:
    check(nn.Sequential(nn.Conv2d(2, 4, 3), layer, nn.Flatten()), 2, 5, 6)


def test_what_overwrites_its_input() -> None:
    check(nn.ReLU(inplace=True), 4)


def test_a_hard_swish_and_a_leaky_relu_compare_no_more_than_they_must() -> None:
    assert kinds(check(nn.Hardswish(), 4)) == ["Bias", "Clamp", "Scale", "Mul"]
    assert kinds(check(nn.LeakyReLU(), 4)).count("Clamp") == 1
    graph = check(nn.PReLU(4), 4, 3, 3)
    assert kinds(graph) == ["Clamp", "Add", "Conv", "Add"]
    assert isinstance(graph.nodes[3], ir.Conv) and graph.nodes[3].bias is None and graph.nodes[3].groups == 4


W = torch.linspace(-1.0, 2.0, 4)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.relu() + torch.relu(x) + F.relu(x),
    "relu in place": lambda x: (x * 1.5).relu_(),
    "an alias sees what happens in place": lambda x: (y := x * 2.0, z := y.flatten(1), F.relu_(y), z + y.flatten(1))[
        -1
    ],
    "add in place": lambda x: (y := x + 1, y.add_(x), y.mul_(2.0), y.sub_(x, alpha=0.5), y.clamp_(-1, 1), y)[-1],
    "clamp": lambda x: x.clamp(-0.5, 0.5) + x.clamp_min(0.1) + x.clamp_max(0.2) + torch.clip(x, max=0.3),
    "two clamps": lambda x: F.relu6(F.relu(x)),
    "numbers": lambda x: 1 - (3 * x + 2) / 4 - x * 0.5,
    "neg, sub, alpha": lambda x: torch.sub(-x, x * x, alpha=3) + torch.add(x, x**2, alpha=0.25),
    "powers": lambda x: x**2 + x.pow(3) + torch.square(x) + x**4 + x**1,
    "flatten": lambda x: torch.flatten(x, 1),
    "view": lambda x: x.view(x.size(0), -1),
    "view by -1": lambda x: x.view(-1, 60).reshape(-1, 4, 15).unflatten(2, (3, 5)).contiguous().view_as(x),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1).unsqueeze(-1).squeeze(),
    "permute": lambda x: x.permute(0, 2, 3, 1).transpose(1, 2),
    "shuffle": lambda x: x.view(x.shape[0], 2, 2, 3, 5).transpose(1, 2).contiguous().view(x.shape),
    "mean": lambda x: x.mean((2, 3)),
    "mean kept": lambda x: x - x.mean((2, 3), keepdim=True),
    "mean of the last": lambda x: x.mean(-1).sum(1, keepdim=True),
    "squeeze and excitation": lambda x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)),
    "cat": lambda x: torch.cat([x, x * 2, x[:, :2]], 1),
    "stack": lambda x: torch.stack([x, x + 1], 2).flatten(1, 2) + torch.stack([x, x], -1).sum(-1).repeat(1, 2, 1, 1),
    "split": lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1) + torch.cat(x.chunk(3, 1), dim=1),
    "split by size": lambda x: torch.cat([part.relu() for part in torch.split(x, 2, dim=3)], 3),
    "slices": lambda x: x[:, 1:3, ::2, -3:],
    "ellipsis": lambda x: x[..., 1:] + x[..., :-1],
    "select": lambda x: x[:, 3] + x[:, -1] + x.select(1, 0) + x.narrow(1, 1, 1).squeeze(1),
    "unbind": lambda x: x.unbind(2)[1],
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad with ones, and cut": lambda x: F.pad(x, (-1, 2, 0, 1, 1, 0), value=1.0),
    "upsample": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, size=(6, 10), mode="nearest-exact"),
    "expand": lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1).expand_as(x),
    "max pool": lambda x: F.max_pool2d(x, 2, stride=1, return_indices=True)[0] + torch.max_pool2d(x, 2, 1),
    "softplus": lambda x: F.softplus(x) + x.exp() + F.gelu(x, approximate="tanh") + F.silu(x),
    "dropout": lambda x: F.dropout(x, training=False),
    "no grad": lambda x: x.detach().clone().float(),
    "a constant": lambda x: x + torch.arange(4.0).view(4, 1, 1) * torch.ones(1, 4, 1, 1),
    "a sigmoid at the end": lambda x: torch.sigmoid(x.flatten(1)),
    "pixels": lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2),
    "aliases": lambda x: (
        torch.concat([x.multiply(2).subtract(x).divide(3), x.negative()], 1).swapaxes(1, 2).movedim(1, 3)
    ),
    "largest": lambda x: x.amax((2, 3), keepdim=True) + x.max(dim=2, keepdim=True)[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_methods(name: str) -> None:
    check(FUNCTIONS[name], 4, 3, 5, batch=len(name) % 2 + 1)


PARAMETERS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], list[str]]] = {
    "add": (lambda x, w: x + w, (4,), ["Bias"]),
    "add of each": (lambda x, w: w + x, (1, 4, 3, 4), ["Bias"]),
    "subtract": (lambda x, w: x - 2 * w, (4, 1, 1), ["Bias"]),
    "subtract from": (lambda x, w: w - x, (1, 4, 1, 1), ["Scale", "Bias"]),
    "multiply": (lambda x, w: x * w, (4, 1, 1), ["Conv"]),
    "multiply by one": (lambda x, w: x * w, (1,), ["Conv"]),
    "multiply each": (lambda x, w: x.mul(w), (4, 3, 4), ["Reshape", "Conv", "Reshape"]),
    "multiply the last": (lambda x, w: x * w, (4,), ["Reshape", "Conv", "Reshape"]),
    "scale and shift": (lambda x, w: x * w + w, (4, 1, 1), ["Conv"]),
    "divide": (lambda x, w: x / (w + 3), (4, 1, 1), ["Conv"]),
    "matmul": (lambda x, w: x @ w, (4, 6), ["Linear"]),
    "vector": (lambda x, w: x @ w, (4,), ["Linear", "Reshape"]),
    "linear": (lambda x, w: F.linear(x, w, w[:, 0]), (5, 4), ["Linear"]),
    "grow": (lambda x, w: x.mean(1, keepdim=True) + w, (4, 1, 1), ["Sum", "Scale", "Reshape", "Concat", "Bias"]),
    "layer scale": (lambda x, w: F.conv2d(x, w[:, :, None, None]) * w[:1].view(4, 1, 1), (4, 4), ["Conv"]),
    "addmm": (lambda x, w: torch.addmm(w[0], x.flatten(1)[:, :4], w, beta=2, alpha=0.5), (4, 4), []),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    function, shape, expected = PARAMETERS[name]
    graph = check(Fn(function, torch.randn(shape)), 4, 3, 4)
    assert not expected or kinds(graph) == expected


# What is made smaller.


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
        r"Layer1\.0\.act \(ReLU\), test_trace\.py:\d+: out = self\.act\(self\.bn1\(self\.conv1\(x\)\)\)", origin
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
    assert kinds(check(FUNCTIONS["two clamps"], 4, 3)) == ["Clamp"]
    assert kinds(check(lambda x: x.flatten(1).view(-1, 4, 3).flatten(1) * 1 + 0, 4, 3)) == ["Reshape"]
    assert kinds(check(lambda x: (x.relu(), x.unsqueeze(1) @ torch.ones(3, 3), x * 2)[2], 3)) == ["Scale"]
    assert kinds(check(lambda x: x * torch.sigmoid(x), 3)) == ["Smooth"]
    assert kinds(check(lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), 3)) == ["Smooth"]


@pytest.mark.parametrize(("layer", "final"), [(nn.Softmax(1), "softmax"), (nn.LogSoftmax(-1), "log_softmax")])
def test_a_last_softmax_is_left_to_the_client(layer: nn.Module, final: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.Identity())
    graph = trace(model, torch.randn(1, 3))
    assert graph.final == final and kinds(graph) == ["Linear"]
    assert "last operation" in refused(nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)), 3)


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


# What is refused.


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
    "branch": (Branching(), (3,), ["Branching", "test_trace.py:", "if x.sum() > 0:", "control flow"]),
    "two inputs": (Two(), (3,), ["Two", "several inputs (x, y)"]),
    "two outputs": (lambda x: (x, x + 1), (3,), ["2 outputs"]),
    "no tensor": (lambda x: None, (3,), ["output"]),
    "constant output": (lambda x: torch.ones(1), (3,), ["does not depend"]),
    "state": (Counting(), (3,), ["changes its buffer calls"]),
    "active dropout": (lambda x: F.dropout(x), (3,), ["training=self.training"]),
    "noise": (lambda x: x + torch.randn_like(x), (3,), ["random", "test_trace.py:"]),
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


# Whole models, with random weights, at a small resolution.

DEFAULT_ZOO = ["resnet18", "mobilenet_v3_small", "googlenet"]
WHOLE_ZOO = [
    *("resnet50", "squeezenet1_1", "vgg16", "vgg11_bn", "alexnet", "mobilenet_v2", "mobilenet_v3_large", "densenet121"),
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
