"""Attention as torch has it in one operation, and as people write it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from moiety_server.compiler import ir
from moiety_server.compiler.attention import MatMulNode
from moiety_server.compiler.compilation import compile_model, encode_rows
from moiety_server.compiler.softmax import SoftmaxNode
from tests.compiler.tracing import check, refused
from tests.protocols.running import Run

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
TOKENS = 8
SEEN = torch.ones(TOKENS, TOKENS).tril() > 0


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


def rotated(x: Tensor) -> Tensor:
    """Rotary positions as GPT-NeoX and Llama have them: the halves of a head are real and imaginary parts."""
    angles = torch.arange(TOKENS)[:, None] * 100.0 ** (-torch.arange(8) / 8)
    real, imaginary = x.chunk(2, -1)
    turned = torch.cat([-imaginary, real], -1)
    return x * angles.cos().repeat(1, 2) + turned * angles.sin().repeat(1, 2)


def rotated_by_pairs(x: Tensor) -> Tensor:
    """As GPT-J and RoFormer have them: neighbours are real and imaginary parts."""
    angles = torch.arange(TOKENS)[:, None] * 100.0 ** (-torch.arange(8) / 8)
    real, imaginary = x[..., ::2], x[..., 1::2]
    turned = (real * angles.cos() - imaginary * angles.sin(), real * angles.sin() + imaginary * angles.cos())
    return torch.stack(turned, -1).flatten(-2)


def alibi(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A bias that falls with the distance, in each head by another slope, and no key behind the query."""
    slopes = 2.0 ** -torch.tensor([4.0, 8.0])[:, None, None]
    distance = torch.arange(TOKENS) - torch.arange(TOKENS)[:, None]
    return F.scaled_dot_product_attention(q, k, v, (slopes * distance).masked_fill(~SEEN, -torch.inf))


ATTENTION: dict[str, Attend] = {
    "one operation": F.scaled_dot_product_attention,
    "another scale": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.5),
    "a bias of each score": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, torch.ones(TOKENS, TOKENS).tril()),
    "heads that share keys": lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
    "fewer queries": lambda q, k, v: F.scaled_dot_product_attention(q[:, :, :1], k, v).expand(-1, -1, 3, -1),
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "a mask of booleans": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=SEEN),
    "a mask of -infinity and a bias": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.where(SEEN, 0.5, -torch.inf)
    ),
    "masked_fill": lambda q, k, v: (q @ k.mT / 4).masked_fill(~SEEN[None, None], -torch.inf).softmax(-1) @ v,
    "where": lambda q, k, v: torch.where(SEEN, q @ k.mT / 4, -1e9).softmax(-1) @ v,
    "a mask that is added": lambda q, k, v: (q @ k.mT / 4 + (~SEEN).float() * torch.finfo().min).softmax(-1) @ v,
    "by hand": lambda q, k, v: F.dropout(F.softmax(q @ k.transpose(-2, -1) / 4, -1), 0.1, training=False) @ v,
    "by einsum": by_einsum,
    "rotary": lambda q, k, v: F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True),
    "rotary by pairs": lambda q, k, v: F.scaled_dot_product_attention(rotated_by_pairs(q), rotated_by_pairs(k), v),
    "alibi": alibi,
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_is_read(name: str) -> None:
    check(Attention(ATTENTION[name]), TOKENS, 32)


MASKED = ("causal", "a mask of booleans", "masked_fill", "where", "a mask that is added", "rotary")


@pytest.mark.parametrize("name", MASKED)
def test_what_masks_becomes_the_keys_of_a_softmax(name: str) -> None:
    """In the plan it takes no multiplication, and no number as low as that."""
    found = [node.keys for node in check(Attention(ATTENTION[name]), TOKENS, 32).nodes if isinstance(node, SoftmaxNode)]
    assert len(found) == 1 and found[0] is not None and torch.equal(found[0].bool().reshape(SEEN.shape), SEEN)


def test_a_row_without_keys_is_refused() -> None:
    mask = SEEN & (torch.arange(TOKENS) > 0)
    attend = Attention(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert "of a row" in refused(attend, TOKENS, 32)


class Crossing(nn.Module):
    """A decoder's layer, whose second attention has keys of another sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(32, 2, 64, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layer(x[:, :4], x[:, 4:])
        return made


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, **options)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: Attention(F.scaled_dot_product_attention),
    "causal attention": lambda: Attention(ATTENTION["causal"]),
    "rotary attention": lambda: Attention(ATTENTION["rotary"]),
    "alibi attention": lambda: Attention(alibi),
    "encoder layer": encoder,
    "encoder layer, norm first, GELU": lambda: encoder(norm_first=True, activation="gelu"),
    "encoder of two layers": lambda: nn.TransformerEncoder(encoder(), 2),
    "decoder layer": Crossing,
}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_are_bit_exact_and_near_the_model(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(MODELS[name](), nn.Flatten(), nn.Linear(128 if name == "decoder layer" else 256, 3)).eval()
    rows = torch.randn(48, 8, 32).clamp(-4, 4)
    made = compile_model(model, rows[:40], low=-4, high=4)
    assert made.plan.ring_bits == 64 and made.relative_error < 0.01
    run = Run(made.plan, made.weights)
    got = run.assert_bit_exact(encode_rows(made.plan, rows[40:])).astype(np.float64) * made.plan.output.scale
    with torch.inference_mode():
        exact = model(rows[40:]).numpy()
    assert np.abs(got.reshape(exact.shape) - exact).max() < 0.01 * exact.std()


def test_what_attention_gives_lies_among_its_values() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Attention(F.scaled_dot_product_attention), nn.Linear(32, 3)).eval()
    made = compile_model(model, torch.randn(8, TOKENS, 32).clamp(-4, 4), low=-4, high=4)
    *_, mean = (node for node in made.graph.nodes if isinstance(node, MatMulNode))
    wire, values = made.wires[mean.name], made.wires[mean.inputs[1]]
    assert (wire.low, wire.high) == (values.low, values.high)


NORMED: dict[str, tuple[Callable[[Tensor, nn.Module, nn.Module], Tensor], int]] = {
    "one matrix": (lambda x, one, other: one(x), 0),
    "two matrices": (lambda x, one, other: one(x) + other(x), 0),
    "one token of it": (lambda x, one, other: one(x[:, 0]), 0),
    "two tokens, and all": (lambda x, one, other: one(x) + other(x[:, :2]).repeat(1, 4, 1), 0),
    "a sum beside the matrix": (lambda x, one, other: one(x) + x, 1),
    "the output": (lambda x, one, other: x, 1),
}


class Normed(nn.Module):
    """A norm with a scale and a shift, and what reads it."""

    def __init__(self, read: Callable[[Tensor, nn.Module, nn.Module], Tensor]) -> None:
        super().__init__()
        self.read, self.norm, self.one, self.other = read, nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 32)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.norm(x), self.one, self.other)


@pytest.mark.parametrize("name", NORMED)
def test_scales_of_norms_are_folded_into_the_matrices_that_alone_read_them(name: str) -> None:
    read, left = NORMED[name]
    assert sum(isinstance(node, ir.ConvNode) for node in check(Normed(read), TOKENS, 32).nodes) == left


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
