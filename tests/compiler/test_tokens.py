"""Models of token ids: what of them is a table that is looked up, and that the rest computes the same."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moiety_server.compiler.compilation import outputs_of
from moiety_server.compiler.ir import NotServable
from moiety_server.compiler.tokens import IdTable
from moiety_server.compiler.trace import trace_ids
from moiety_server.texts import of_module

WORDS, LENGTH, PAD = 40, 6, 0


def ids(rows: int = 8) -> Tensor:
    """Ids of texts of all lengths, padded."""
    made = 1 + torch.arange(rows * LENGTH).reshape(rows, LENGTH) * 7 % (WORDS - 1)
    return made * (torch.arange(LENGTH) < 1 + torch.arange(rows)[:, None] % LENGTH)


class Mean(nn.Module):
    """The mean of embeddings with their positions, of what is no padding."""

    def __init__(self, size: int = 5, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.word, self.position = nn.Embedding(WORDS, size), nn.Embedding(LENGTH, size)
        self.word.weight.data *= scale
        self.last = nn.Linear(size, 3)

    def embedded(self, ids: Tensor) -> Tensor:
        return self.word(ids) * 2 + self.position(torch.arange(ids.shape[1]))

    def forward(self, ids: Tensor) -> Tensor:
        kept = (ids != PAD).float().unsqueeze(-1)
        return self.last((self.embedded(ids) * kept).sum(1) / LENGTH)


class Masked(Mean):
    """The same, of a mask as an input of its own."""

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:  # type: ignore[override]
        away = (1.0 - attention_mask) * -4.0
        kept = torch.relu(self.embedded(ids) + away[:, :, None])
        return self.last(kept.sum(1))


class Convolution(Mean):
    def __init__(self) -> None:
        super().__init__()
        self.across = nn.Conv1d(5, 5, 3, padding=1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.across(self.word(ids).transpose(1, 2)).relu().amax(2))


def exact(model: nn.Module, *inputs: Tensor, within: float = 1e-5) -> IdTable:
    """Trace a model, and check that its graph computes of looked-up ids what the model does."""
    names = ("ids", "attention_mask")
    given = dict(zip(names, inputs, strict=False))
    graph, table = trace_ids(model.eval(), given, names[1] if len(inputs) > 1 else "", PAD)
    found = next(wire for name, wire in graph.wires(table.values[inputs[0]].float()) if name == graph.output)
    assert torch.allclose(found, model(*inputs), atol=within)
    return table


def test_an_embedding_is_looked_up_and_positions_stay_secret() -> None:
    table = exact(Mean(), ids())
    assert table.values.shape == (WORDS, 6), "five values of each word, and whether it is padding"
    model = Mean()
    assert torch.equal(table.values[:, :5], model.word.weight.double() * 2) or torch.equal(
        table.values[:, 1:], model.word.weight.double() * 2
    )


def test_a_mask_is_a_column() -> None:
    words = ids()
    table = exact(Masked(), words, (words != PAD).float())
    assert table.values.shape == (WORDS, 6)


def test_a_convolution_reads_it() -> None:
    assert exact(Convolution(), ids()).values.shape == (WORDS, 5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_mask_takes_no_bits_of_the_embedding(scale: float) -> None:
    values = exact(Mean(scale=scale), ids()).values
    reach = values.abs().amax(0)
    assert float(reach.max() / reach.min()) < 8


class Attending(Mean):
    """Attention that leaves padding out."""

    def __init__(self) -> None:
        super().__init__(8)
        self.across = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedded(ids)
        return self.last(self.across(x, x, x, key_padding_mask=ids == PAD, need_weights=False)[0][:, 0])


def test_padding_is_left_out_of_attention_in_secret() -> None:
    words = ids()
    table = exact(Attending(), words, within=1e-4).values
    bias = table[:, ((table[1:] == 0).all(0)) & (table[0] != 0)]
    assert bias.shape == (WORDS, 1) and float(bias[0, 0]) < 0, "a bias of padding alone"
    source = of_module("attending", Attending().eval(), words)
    compiled = source.compile()
    answers = outputs_of(compiled, source.calibration)  # type: ignore[arg-type]
    model = Attending().eval()(words).detach().numpy()
    assert np.abs(answers - model).max() < 0.01 * model.std()


def test_a_table_that_is_too_coarse_is_refused() -> None:
    model = Mean().eval()
    model.word.weight.data[7] = 1e6
    few = ids().clamp(max=6)
    with pytest.raises(NotServable, match="answers otherwise when its table of ids has 16 bits"):
        of_module("coarse", model, few)


class Sums(Mean):
    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.word(ids).mean(1) + ids.sum(1, keepdim=True))


class Reversed(Mean):
    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.word(ids.flip(1)).mean(1))


class Bare(Mean):
    def forward(self, ids: Tensor) -> Tensor:
        return self.last((ids != PAD).float()[:, :5])


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Sums, "computes with token ids. Instead: read ids by nn.Embedding"),
        (Reversed, "takes whole numbers and looks none up"),
        (Bare, "takes whole numbers and looks none up"),
    ],
)
def test_what_is_not_of_each_id_alone_is_refused(kind: type[Mean], text: str) -> None:
    with pytest.raises(NotServable, match=re.escape(text)):
        trace_ids(kind().eval(), {"ids": ids()}, "", PAD)
