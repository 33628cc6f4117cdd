"""Attention as torch has it in one operation, and as people write it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tests.compiler.tracing import check, refused

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
TOKENS = 6


class Attention(nn.Module):
    """Two heads of 16. One matrix gives queries, keys and values."""

    def __init__(self, attend: Attend) -> None:
        super().__init__()
        self.attend, self.given, self.made = attend, nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (2, 16)).transpose(1, 2) for part in self.given(x).chunk(3, -1))
        made: Tensor = self.made(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return made


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(0.25).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


ATTENTION: dict[str, Attend] = {
    "one operation": F.scaled_dot_product_attention,
    "another scale": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.5),
    "a bias of each score": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.ones(TOKENS, TOKENS).tril()),
    "heads that share keys": lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
    "fewer queries": lambda q, k, v: F.scaled_dot_product_attention(q[:, :, :1], k, v).expand(-1, -1, 3, -1),
    "by hand": lambda q, k, v: F.dropout(F.softmax(q @ k.transpose(-2, -1) / 4, -1), 0.1, training=False) @ v,
    "by einsum": by_einsum,
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_read(name: str) -> None:
    check(Attention(ATTENTION[name]), TOKENS, 32)


def test_attention_that_draws_is_refused() -> None:
    assert "at random" in refused(
        Attention(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.1)), TOKENS, 32
    )


def test_an_infinite_constant_that_no_softmax_reads_is_refused() -> None:
    mask = torch.eye(3) > 0
    assert "infinite constant" in refused(lambda x: x.masked_fill(mask, -torch.inf).amax(2), 3, 3)


def test_a_finite_one_is_served() -> None:
    mask = torch.eye(3) > 0
    check(lambda x: x.masked_fill(mask, -1e4).amax(2), 3, 3)
