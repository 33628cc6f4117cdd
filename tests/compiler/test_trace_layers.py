"""Every layer, function and method that the torch front end takes computes what torch computes."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler import ir
from tests.compiler.tracing import Fn, check, kinds

quick = settings(max_examples=6, deadline=None)
small = st.integers(1, 3)


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
    assume(args[3] * (kernel - 1) < n + 2 * args[2])  # torch refuses a kernel that is larger than its input
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
    assert kinds(check(nn.Hardswish(), 4)) == ["Clamp", "Mul", "Scale"]
    assert kinds(check(nn.LeakyReLU(), 4)).count("Clamp") == 1
    graph = check(nn.PReLU(4), 4, 3, 3)
    assert kinds(graph) == ["Clamp", "Add", "Conv", "Add"]
    assert isinstance(graph.nodes[3], ir.ConvNode) and graph.nodes[3].bias is None and graph.nodes[3].groups == 4


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
