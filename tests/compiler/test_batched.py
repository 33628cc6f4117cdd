"""Tensors whose batch is not the first axis alone: what is computed of them is what torch computes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tests.compiler.tracing import check, refused

W = torch.linspace(-1.0, 2.0, 6)
# Each takes (n, 4, 5, 6) and gives the batch back as the first axis.
MOVED: dict[str, Callable[[Tensor], Tensor]] = {
    "the time first": lambda x: (x.transpose(0, 1) * W + x.transpose(0, 1).mean(-1, keepdim=True)).transpose(0, 1),
    "behind all": lambda x: (x.permute(1, 2, 3, 0)[1:] + 2).amax(1).permute(2, 0, 1),
    "merged behind": lambda x: x.reshape(-1, 5, 6).softmax(-1).sum(1).view(-1, 4, 6),
    "merged before": lambda x: F.linear(x.transpose(0, 1).reshape(-1, 30), W.repeat(2, 5)).view(4, -1, 2).mean(0),
    "merged on both sides": lambda x: (
        (x.permute(1, 0, 2, 3).reshape(-1, 6) * W).view(4, -1, 5, 6).permute(1, 0, 2, 3).roll(2, 3)
    ),
    "heads": lambda x: (
        x.flatten(2).transpose(0, 1).reshape(4, -1, 10).transpose(0, 1).cumsum(1).transpose(0, 1).reshape(4, -1, 30)
    ).transpose(0, 1),
    "windows": lambda x: (
        x.view(-1, 2, 2, 5, 6)
        .permute(0, 1, 3, 2, 4)
        .reshape(-1, 5, 12)
        .flip(1)
        .view(-1, 2, 5, 2, 6)
        .permute(0, 1, 3, 2, 4)
    ).reshape(-1, 4, 5, 6),
    "a constant for each window": lambda x: (x.view(-1, 5, 6) + W).view(-1, 4, 5, 6) + torch.arange(4.0).view(4, 1, 1),
    "a constant along the batch": lambda x: (
        x.view(-1, 5, 6) * torch.arange(4.0).view(1, 4, 1, 1).expand(len(x), 4, 1, 1).reshape(-1, 1, 1)
    ).view(x.shape),
    "put together": lambda x: (
        torch.cat([x.view(-1, 5, 6), x.view(-1, 5, 6)[:, :2], W.expand(4 * len(x), 1, 6)], 1)
        .view(-1, 4, 8, 6)
        .unbind(1)[2]
    ),
    "put together with the time first": lambda x: torch.cat(
        [W[:5].view(1, 1, 5, 1).expand(1, len(x), 5, 6), x.transpose(0, 1)]
    ).transpose(0, 1),
    "parts": lambda x: sum(x.view(-1, 5, 3, 2).permute(2, 0, 1, 3).chunk(3)).squeeze(0).view(-1, 4, 5, 2),
    "chosen": lambda x: torch.where(x.view(-1, 5, 6) > 0.5, x.view(-1, 5, 6), W).masked_fill(W < 0, 2.0).view(x.shape),
    "a new axis before the batch": lambda x: (
        x.mean((1, 2)).expand(3, -1, -1) * torch.arange(3.0).view(3, 1, 1)
    ).transpose(0, 1),
    "normed": lambda x: F.layer_norm(x.transpose(0, 1) + 3 * W, (6,)).transpose(0, 1),
    "stacked": lambda x: torch.stack([(y := x.transpose(0, 1))[0], y[1] * 2, y[2].relu()], 1).transpose(0, 1).sum(0),
    "stacked before the batch": lambda x: torch.stack([x.view(-1, 5, 6), x.view(-1, 5, 6) * W]).amax(0).view(x.shape),
    "padded": lambda x: F.pad(x.view(-1, 5, 6), (1, 2, -1, 0)).view(-1, 4, 4, 9),
    "padded with the time first": lambda x: F.pad(x.transpose(0, 1), (0, 1, 2, 0, 0, 0, 1, 0)).transpose(0, 1),
    "picked": lambda x: x.view(-1, 5, 6)[:, :, torch.tensor([5, 0, 0])].view(-1, 4, 5, 3),
    "repeated": lambda x: x.transpose(0, 1).repeat(2, 1, 1, 1).transpose(0, 1),
    "norms": lambda x: ((y := x.view(-1, 5, 6)).norm(dim=2) + y.var(-1) + y.prod(2)).view(-1, 4, 5),
    "an einsum that moves it": lambda x: torch.einsum("nabc,cd->anbd", x, W.view(6, 1)).transpose(0, 1),
    "an einsum of windows": lambda x: torch.einsum("nbc,dc->nbd", x.view(-1, 5, 6), W.view(1, 6)).view(-1, 4, 5),
    "zeros like it": lambda x: (torch.cat([x.view(-1, 5, 6), torch.zeros_like(x.view(-1, 5, 6)) + 1], 2)).view(
        -1, 4, 5, 12
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_what_is_computed_where_the_batch_is_elsewhere(name: str) -> None:
    check(MOVED[name], 4, 5, 6)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "summed with the windows": (lambda x: x.view(-1, 30).sum(0), "across the batch"),
    "normalised over the heads": (lambda x: x.view(-1, 5, 6).softmax(0).view(x.shape), "across the batch"),
    "two places": (lambda x: x.transpose(0, 1) + x.transpose(0, 1).transpose(0, 1)[:1], "batch"),
    "a constant for each input": (
        lambda x: x.view(-1, 5, 6) * torch.arange(float(4 * len(x))).view(-1, 1, 1),
        "differs along the batch",
    ),
    "multiplied along the batch": (lambda x: x.permute(1, 2, 3, 0) @ torch.ones(13, 2), "across the batch"),
    "padded along the batch": (
        lambda x: F.pad(x.transpose(0, 1), (0, 0, 0, 0, 0, 1)).transpose(0, 1),
        "pads the batch",
    ),
    "padded with the batch behind": (
        lambda x: F.pad(x.permute(1, 2, 3, 0), (1, 0))[..., 1:].permute(3, 0, 1, 2) + 1,
        "pads the batch",
    ),
    "repeated along the batch": (lambda x: x.transpose(0, 1).repeat(1, 2, 1, 1).transpose(0, 1), "repeats the batch"),
    "merged at the end": (lambda x: x.view(-1, 30), "its output output mixes up the batch"),
    "mixed up": (lambda x: x.permute(1, 0, 2, 3).reshape(-1, 4, 5, 6) + 1, "does not start with the batch"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_up_the_batch_is_refused(name: str) -> None:
    function, text = REFUSED[name]
    assert text in refused(function, 4, 5, 6)
