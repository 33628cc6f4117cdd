"""Transformers of torch, of torchvision and as people write them, small: their graphs compute what they do."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

from moiety_server.compiler.compilation import compile_model, encode_rows
from tests.compiler.tracing import check
from tests.protocols.running import Run

TOKENS, WIDTH = 5, 8


class Bert(nn.Module):
    """Positions that are learnt, one layer that is normalised behind each sum, and a pooler of the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, 2 * TOKENS, WIDTH))
        self.query, self.key, self.value, self.made, self.pooler = (nn.Linear(WIDTH, WIDTH) for _ in range(5))
        self.wide, self.narrow, self.last = nn.Linear(WIDTH, 16), nn.Linear(16, WIDTH), nn.Linear(WIDTH, 3)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        x = self.norms[0](x + self.places[:, :tokens])

        def heads(y: Tensor) -> Tensor:
            return y.view(batch, tokens, 2, width // 2).permute(0, 2, 1, 3)

        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        weights = torch.matmul(q, k.transpose(-1, -2)).div(2).softmax(-1)
        y = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous().view(batch, tokens, width)
        x = self.norms[1](x + self.made(y))
        x = self.norms[2](x + self.narrow(F.gelu(self.wide(x))))
        return self.last(torch.tanh(self.pooler(x[:, 0])))


class Merged(nn.Module):
    """Attention as it was written before batches had four axes: heads are merged into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.made = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            part.reshape(batch, tokens, 2, width // 2).transpose(1, 2).reshape(batch * 2, tokens, width // 2)
            for part in self.given(x).split(width, 2)
        )
        weights = torch.softmax(torch.einsum("bid,bjd->bij", q, k) / 2, 2)
        y = torch.bmm(weights, v).view(batch, 2, tokens, width // 2)
        return self.made(torch.stack(y.unbind(1), 2).flatten(2))


class Gpt(nn.Module):
    """Tokens see those before them, by a mask that is cut to their number. The last one is asked what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.norm = nn.Embedding(2 * TOKENS, WIDTH), nn.LayerNorm(WIDTH)
        self.given, self.made, self.last = (nn.Linear(WIDTH, n * WIDTH) for n in (3, 1, 2))
        self.register_buffer("seen", torch.tril(torch.ones(2 * TOKENS, 2 * TOKENS)).view(1, 1, 2 * TOKENS, -1))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        x = x + self.places(torch.arange(0, tokens).unsqueeze(0))
        q, k, v = (
            part.view(batch, tokens, 2, width // 2).transpose(1, 2)
            for part in self.given(self.norm(x)).split(width, dim=2)
        )
        scores = (q @ k.transpose(-2, -1)) * (1.0 / k.size(-1) ** 0.5)
        scores = scores.masked_fill(self.seen[:, :, :tokens, :tokens] == 0, float("-inf"))
        y = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(batch, tokens, width)
        return self.last(x + self.made(y))[:, -1]


class Causal(nn.Module):
    """An encoder whose tokens see those before them, by a mask of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.TransformerEncoder(layer(first=False, norm_first=True), 1, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x, mask=self.mask)
        return y


class Tokens(nn.Module):
    """Runs a layer of torch on tokens, which come second or first."""

    def __init__(self, layer: nn.Module, *, first: bool) -> None:
        super().__init__()
        self.layer, self.first = layer, first

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1) if self.first else x
        y = self.layer(x, x, x, need_weights=self.first)[0] if isinstance(self.layer, nn.MultiheadAttention) else (
            self.layer(x)
        )  # fmt: skip
        return y.transpose(0, 1) if self.first else y


def layer(*, first: bool, norm_first: bool = False) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=not first, norm_first=norm_first, activation="gelu")


def swin(**options: object) -> nn.Module:
    return SwinTransformer([2, 2], 4, [1, 2], [1, 2], [4, 4], 2.0, num_classes=3, **options)  # type: ignore[arg-type]


ON_TOKENS: dict[str, Callable[[], nn.Module]] = {
    "bert": Bert,
    "gpt": Gpt,
    "causal encoder": Causal,
    "heads merged into the batch": Merged,
    "attention": lambda: Tokens(nn.MultiheadAttention(WIDTH, 2, batch_first=True), first=False),
    "attention, tokens first": lambda: Tokens(nn.MultiheadAttention(WIDTH, 2), first=True),
    "encoder": lambda: nn.TransformerEncoder(layer(first=False), 2, enable_nested_tensor=False),
    "encoder, tokens first": lambda: Tokens(
        nn.TransformerEncoder(layer(first=True, norm_first=True), 1, enable_nested_tensor=False), first=True
    ),
}
ON_PICTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "vit": (lambda: VisionTransformer(32, 8, 1, 2, 8, 16, num_classes=3), (32, 32)),
    "convnext": (lambda: ConvNeXt([CNBlockConfig(4, 8, 1), CNBlockConfig(8, None, 1)], num_classes=3), (16, 16)),
    "swin": (swin, (16, 16)),
    "swin, with padded windows": (swin, (12, 14)),
    "swin of version 2": (lambda: swin(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2), (16, 16)),
    "maxvit": (lambda: MaxVit((32, 32), 4, 4, [8], [2], 4, 0.0, num_classes=3), (32, 32)),
}


def drawn(model: nn.Module) -> nn.Module:
    """With numbers where torch begins with zeros: an answer of zeros would show nothing."""
    for parameter in model.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("name", ON_TOKENS)
def test_a_transformer_of_tokens_is_read(name: str) -> None:
    torch.manual_seed(0)
    check(drawn(ON_TOKENS[name]()), TOKENS, WIDTH)


@pytest.mark.parametrize("name", ON_PICTURES)
def test_a_transformer_of_pictures_is_read(name: str) -> None:
    torch.manual_seed(0)
    build, size = ON_PICTURES[name]
    check(drawn(build()), 3, *size)


PRIVATE = [
    *("bert", "gpt", "attention, tokens first", "causal encoder", "heads merged into the batch"),
    *("vit", "swin", "convnext"),
]


@pytest.mark.parametrize("name", PRIVATE)
def test_a_transformer_runs_privately_as_in_float(name: str) -> None:
    torch.manual_seed(0)
    build, shape = (ON_TOKENS[name], (TOKENS, WIDTH)) if name in ON_TOKENS else (
        ON_PICTURES[name][0], (3, *ON_PICTURES[name][1])
    )  # fmt: skip
    model, x = drawn(build()).train(False), torch.rand(8, *shape) * 2 - 1
    compiled = compile_model(model, x, low=-1, high=1)
    run = Run(compiled.plan, compiled.weights)
    got = run.assert_bit_exact(encode_rows(compiled.plan, x)) * compiled.plan.output.scale
    with torch.inference_mode():
        exact = model(x).double().numpy()
    error = np.abs(got.reshape(exact.shape) - exact).max() / (exact - exact.mean(axis=0)).std()
    print(f"{name}: {error:.3%} of the spread of a class")
    assert error < 0.02
