"""Operators that are made of others: what the compiler builds computes what torch does, and its plan does too."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler.compilation import compile_model, outputs_of
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.trace import trace
from tests.compiler.tracing import Fn, check

X = torch.rand(200, 3, 4, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1

# Of an input (n, 3, 4, 6) between -1 and 1, and a parameter w of shape (3, 4, 6).
OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "abs": lambda x, w: (x + w).abs(),
    "sign": lambda x, w: x.sign() * w,
    "maximum": lambda x, w: torch.maximum(x * w, x),
    "minimum": lambda x, w: torch.minimum(x, w),
    "max of a number": lambda x, w: torch.clamp(x * w, min=0.25),
    "clip by parameters": lambda x, w: x.clamp(w - 0.5, w.abs() + 0.5),
    "where": lambda x, w: torch.where(x > w, x * w, x - w),
    "where of numbers": lambda x, w: torch.where(x * w < 0.1, x, torch.zeros_like(x)),
    "where like a ReLU": lambda x, w: torch.where(x > 0, x, 0.0) * w,
    "mask": lambda x, w: x * (x >= w).float() + ((x <= 0) & (x > w)).float(),
    "either": lambda x, w: ((x > 0.5) | (x < -0.5)).float() * w,
    "not": lambda x, w: (~(x > 0.2)).float() * w,
    "masked_fill": lambda x, w: x.masked_fill(torch.ones(4, 6).tril().bool(), 0.5) * w,
    "hardshrink": lambda x, w: F.hardshrink(x * w, 0.3),
    "softshrink": lambda x, w: F.softshrink(x * w, 0.3),
    "threshold": lambda x, w: F.threshold(x * w, 0.2, 0.2),
    "sqrt": lambda x, w: (x * x + 0.5).sqrt() * w,
    "rsqrt": lambda x, w: (x * x + 0.5).rsqrt() * w,
    "reciprocal": lambda x, w: (x + 1.5).reciprocal() * w,
    "quotient": lambda x, w: (x * w) / (2 + x),
    "number by a wire": lambda x, w: 1 / (3 - x) + w,
    "power of a half": lambda x, w: (x + 1.5) ** 1.5 * w,
    "negative power": lambda x, w: (x + 2) ** -2 * w,
    "fifth power": lambda x, w: x**5 + w,
    "base of a power": lambda x, w: 2**x * w,
    "log": lambda x, w: torch.log(x + 1.5) + torch.log1p(x * x) * w,
    "angles": lambda x, w: torch.sin(3 * x) + torch.cos(2 * x) * w,
    "arctangent": lambda x, w: torch.atan(2 * x) * w,
    "hyperbolic": lambda x, w: torch.cosh(x) + torch.asinh(x * w),
    "erf": lambda x, w: torch.erf(x * w),
    "GELU of another order": lambda x, w: 0.5 * (x * w) * (torch.erf(x * w * 0.70710678) + 1),
    "softsign": lambda x, w: F.softsign(x * w),
    "softmax": lambda x, w: (x * w).softmax(-1) * 2,
    "log_softmax": lambda x, w: (x * w).log_softmax(2) * 2,
    "logsumexp": lambda x, w: (x * w).logsumexp(-1),
    "unit length": lambda x, w: F.normalize(x * 0.5 + 1.5, dim=2) * w,
    "norms": lambda x, w: torch.linalg.vector_norm(x + 2, dim=3) + (x * w).norm(p=1, dim=3),
    "deviation": lambda x, w: (x + torch.tensor([3.0, -3.0]).repeat(3)).std(3) * w[..., 0],
    "variance": lambda x, w: (x * w).var(3, correction=0),
    "layer norm": lambda x, w: F.layer_norm(x + torch.tensor([3.0, -3.0]).repeat(3), [6]) * w,
    "smallest": lambda x, w: (x * w).amin(2),
    "product": lambda x, w: (x + w).prod(2),
    "cumulated": lambda x, w: (x * w).cumsum(3),
    "flip": lambda x, w: (x * w).flip(1, 3),
    "roll": lambda x, w: torch.roll(x * w, (1, -2), (2, 3)),
    "index_select": lambda x, w: (x * w).index_select(3, torch.tensor([5, 0, 0, 3])),
    "index": lambda x, w: (x * w)[:, :, torch.tensor([3, 1]), torch.tensor([0, 5])],
    "masked places": lambda x, w: (x * w)[:, torch.tensor([True, False, True])],
    "step backwards": lambda x, w: (x * w).flip(3)[..., ::2],
    "windows": lambda x, w: (x * w).unfold(3, 3, 2),
    "triangles": lambda x, w: (x * w).triu(1) + x.tril(-1),
    "pixel shuffle": lambda x, w: F.pixel_unshuffle(x * w, 2),
    "reflected": lambda x, w: F.pad(x * w, (2, 1, 1, 3), mode="reflect"),
    "replicated": lambda x, w: F.pad(x * w, (2, 1, 1, 3), mode="replicate"),
    "circular": lambda x, w: F.pad(x * w, (2, 1, 1, 3), mode="circular"),
    "with a constant": lambda x, w: torch.cat([w[None, :, :1].expand(x.shape[0], -1, -1, -1), x * w], 2),
    "stacked with zeros": lambda x, w: torch.stack([torch.zeros_like(x), x * w], 1),
    "einsum": lambda x, w: torch.einsum("nchw,wk->nchk", x, w[0].T),
}


def weight() -> Tensor:
    return torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(2)) + 0.25


class Behind(nn.Module):
    """A function with a Linear layer behind."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.w = function, nn.Parameter(weight())
        size = math.prod(function(X[:2], self.w).shape[1:])
        self.behind = nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.function(x, self.w).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_served(name: str) -> None:
    torch.manual_seed(0)
    model = Behind(OPERATORS[name]).eval()
    compiled = compile_model(model, X, low=-1, high=1)
    with torch.no_grad():
        expected = model(X)
    torch.testing.assert_close(compiled.graph.run(X)[compiled.graph.output], expected, rtol=1e-4, atol=1e-4)
    # A comparison jumps: a value that lies as near to its limit as the plan's step may be found on the other side.
    assert compiled.relative_error < 0.02 or ("where" in name and compiled.agreement > 0.97), compiled.relative_error


@example(size=(2, 1), mode="bilinear", corners=False, smoothed=True)
@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    mode=st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic"]),
    corners=st.booleans(),
    smoothed=st.booleans(),
)
def test_resizing_by_any_factor(size: tuple[int, int], mode: str, corners: bool, smoothed: bool) -> None:
    smooth = mode.startswith("bi")
    flags = {"align_corners": corners, "antialias": smoothed and not corners} if smooth else {}
    resized = Fn(lambda x: F.interpolate(x, size=size, mode=mode, **flags))
    if flags.get("antialias") and size[1] == 1 < size[0]:
        with pytest.raises(NotServable, match="mixes up rows and channels"):
            check(resized, 2, 3, 5)
    else:
        check(resized, 2, 3, 5)


@settings(max_examples=15, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
)
def test_windows_as_columns(kernel: tuple[int, int], dilation: int, padding: int, stride: tuple[int, int]) -> None:
    check(nn.Unfold(kernel, dilation, padding, stride), 2, 5, 6)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_assignment_to_constant_places(data: st.DataObject) -> None:
    start, step = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 3))
    stop = data.draw(st.integers(start + 1, 6))
    picked = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)))
    kind = data.draw(st.sampled_from(["slice", "select", "places", "constant", "one place", "into zeros"]))

    def assign(x: Tensor) -> Tensor:
        y = torch.zeros_like(x) if kind == "into zeros" else x.clone()
        match kind:
            case "slice" | "into zeros":
                y[:, :, start:stop:step] = 2 * x[:, :, : len(range(start, stop, step))]
            case "select":
                y[:, :, start] = x[:, :, 5]
            case "places":
                y[:, :, picked] = x[:, :, : len(picked)] * 3
            case "constant":
                y[:, 1, start:stop] = 0.5
            case "one place":  # which torch fills
                y[:, 1, start : start + 1] = 0.5
        return y

    check(Fn(assign), 3, 6)


# What each of these says only holds of numbers that a trace cannot see, or of one batch.
MISREAD: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "numbers as decisions": ("reads numbers", lambda x: torch.logical_not(x).float() * x),
    "numbers and decisions": ("reads numbers", lambda x: torch.logical_and(x, x > 0).float() * x),
    "CELU that turns": ("alpha -1.5", lambda x: F.celu(x, -1.5)),
    "a power of two wires": ("one computed number to another", lambda x: (x.abs() + 1) ** x),
    "the size of the batch": ("when other inputs are beside it", lambda x: x * torch.ones_like(x).sum()),
    "lists apart": ("index", lambda x: x[:, torch.tensor([0, 1]), :, torch.tensor([2, 3])].flatten(1)),
    "as many lists as rows": (
        "a whole dimension between",
        lambda x: x[:, torch.arange(13) % 3, :, torch.arange(13) % 4].flatten(1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISREAD)
def test_what_would_be_misread_is_refused(name: str) -> None:
    reason, function = MISREAD[name]
    with pytest.raises(NotServable, match=rf"{reason}.*Instead: "):
        trace(Fn(function), torch.randn(2, 3, 2, 4))


def test_two_example_inputs_are_no_other_axis_of_two() -> None:
    """A batch of two looks like any other axis of two, so a model is traced with more rows."""
    for function in (lambda x: x.view(2, -1), lambda x: torch.cat([x[:2] * 2, x[2:]])):
        with pytest.raises(NotServable):
            trace(Fn(function), torch.randn(2, 6))


def test_decisions_and_constants_are_combined() -> None:
    kept = torch.tensor([True, False, True])
    for combine in (torch.logical_and, torch.logical_or):
        check(Fn(lambda x, c=combine: c(x > 0.1, kept).float() + x), 3)


def test_what_no_calibration_input_shows_is_still_right() -> None:
    """A decision that is never taken on the calibration data is 0 there, with all that is made of it."""
    torch.manual_seed(0)
    model = Fn(lambda x, w: (((x > 0.9).float() * x**4).tanh() * x) @ w, torch.randn(4, 3))
    compiled = compile_model(model, torch.rand(64, 4) * 1.5 - 1, low=-1, high=1)
    x = torch.rand(64, 4) * 2 - 1
    with torch.no_grad():
        expected = model(x)
    assert expected.abs().max() > 0.1
    assert np.abs(outputs_of(compiled, x) - expected.numpy()).max() < 0.005


def test_a_table_that_does_not_meet_its_function_is_refused() -> None:
    """Roots, quotients and logarithms of what may be 0 are not served, whatever the calibration data shows."""
    for function in (lambda x: x.abs().sqrt(), lambda x: 1 / x, lambda x: (x + 1).log()):
        made = Fn(lambda x, w, f=function: f(x) @ w, torch.randn(6, 2))
        with pytest.raises(NotServable, match=r"as far as it is proved.*Instead: .*normalise its inputs"):
            compile_model(made, torch.rand(50, 6) * 0.2 + 0.7, low=-1, high=1)
