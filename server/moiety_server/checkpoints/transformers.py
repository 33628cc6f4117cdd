"""The transformers of saved folders as torch modules: BERT and DistilBERT for texts, ViT for pictures.

They answer as Hugging Face's classes of these names do when they predict, without their library.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"]
_AWAY = -1e4  # of a score: padding has no weight


class TransformerLayer(nn.Module):
    """Attention and a feed-forward network, each with a norm: behind the sum of both branches, or, with `norms_first`,
    in front of the branch."""

    def __init__(self, shape: "EncoderShape", *, norms_first: bool, bias: bool) -> None:
        """`bias` is of queries, keys and values."""
        super().__init__()
        width, self.heads, self.activation, self.norms_first = shape.width, shape.heads, shape.activation, norms_first
        self.query, self.key, self.value = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.norm1, self.norm2 = shape.norm(), shape.norm()
        self.wide, self.narrow = nn.Linear(width, shape.hidden), nn.Linear(shape.hidden, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map x (n, length, width) to the same shape. `bias` (n, 1, 1, length) is added to the scores."""
        if self.norms_first:
            x = x + self._attended(self.norm1(x), bias)
            return x + self._fed(self.norm2(x))
        x = self.norm1(x + self._attended(x, bias))
        y: Tensor = self.norm2(x + self._fed(x))
        return y

    def _attended(self, x: Tensor, bias: Tensor | None) -> Tensor:
        query, key, value = (
            one(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for one in (self.query, self.key, self.value)
        )
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        y: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return y

    def _fed(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(_activated(self.wide(x), self.activation))
        return y


@dataclass(frozen=True)
class EncoderShape:
    """What all layers of a saved transformer share. `hidden` is the width between a layer's last two matrices, and
    `epsilon` what norms add to a variance."""

    width: int
    heads: int
    hidden: int
    layers: int
    activation: Activation
    epsilon: float

    def norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(self.width, self.epsilon)

    def build(self, *, norms_first: bool, bias: bool = True) -> nn.ModuleList:
        return nn.ModuleList([TransformerLayer(self, norms_first=norms_first, bias=bias) for _ in range(self.layers)])


def _activated(x: Tensor, activation: Activation) -> Tensor:
    match activation:
        case "gelu":
            return functional.gelu(x)
        case "relu":
            return functional.relu(x)
        case "silu" | "swish":
            return functional.silu(x)
        case "gelu_new" | "gelu_pytorch_tanh":
            return functional.gelu(x, approximate="tanh")


class TextClassifier(nn.Module):
    """BERT or DistilBERT with a classifier on its first place. It takes ids (n, length), and leaves padding out."""

    def __init__(
        self, shape: EncoderShape, *, words: int, positions: int, types: int, classes: int, pad_id: int
    ) -> None:
        """`types` is how many kinds of tokens BERT tells apart; 0 is DistilBERT's, whose pooler ends in a ReLU."""
        super().__init__()
        width, self.pad_id = shape.width, pad_id
        self.words = nn.Embedding(words, width, padding_idx=pad_id)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(types, width) if types else None
        self.norm, self.layers = shape.norm(), shape.build(norms_first=False)
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Return scores (n, classes). Without types, all tokens are of the first one."""
        x = self.words(input_ids)
        if self.types is not None and token_type_ids is not None:
            x = x + self.types(token_type_ids)
        placed = self.positions.weight[: input_ids.shape[1]]
        if self.types is not None and token_type_ids is None:
            placed = placed + self.types.weight[0]
        x = self.norm(x + placed)
        bias = (input_ids == self.pad_id).float() * _AWAY
        for layer in self.layers:
            x = layer(x, bias[:, None, None, :])
        pooled = self.pooler(x[:, 0])
        scores: Tensor = self.classifier(torch.relu(pooled) if self.types is None else torch.tanh(pooled))
        return scores


class PictureClassifier(nn.Module):
    """ViT with a classifier on its class token. It takes pictures (n, channels, height, width)."""

    def __init__(self, shape: EncoderShape, *, side: int, patch: int, channels: int, classes: int, bias: bool) -> None:
        """`bias` is of queries, keys and values."""
        super().__init__()
        width = shape.width
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (side // patch) ** 2 + 1, width))
        self.layers, self.norm = shape.build(norms_first=True, bias=bias), shape.norm()
        self.classifier = nn.Linear(width, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return scores (n, classes)."""
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.classifier(self.norm(x)[:, 0])
        return scores
