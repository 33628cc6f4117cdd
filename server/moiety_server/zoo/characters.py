"""A language model of characters that ships with the package: a small causal transformer, trained on the docstrings of
Python's own library.

It reads the 64 characters before a place, as ids, and scores the character at it.
"""

import json
from collections.abc import Iterable

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from moiety_server.zoo import docstrings
from moiety_server.zoo.schedule import OneCycle

NAME = "gpt-characters"
DESCRIPTION = "a small GPT: 64 characters of Python's docstrings are its context, the next one its answer"
LENGTH = 64
"""Characters of a context."""
ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""The id of a character is its place. The rest of Unicode has that of a space."""
BEFORE = "Return the value that was given, or None if there is no value.\n\n"
"""What stands before a text that is shorter than a context: a docstring, so that the model knows such contexts."""
HELD_OUT = ("difflib.py", "fractions.py", "heapq.py", "statistics.py", "textwrap.py")
"""Files that training leaves out."""
SHOWN = ("argparse.py", "pathlib.py", "random.py", "string.py")
"""Files whose docstrings calibrate the shipped model."""
_BLANK, _SPACE = ALPHABET.index("\n"), ALPHABET.index(" ")
_BATCH, _PEAK = 32, 0.003


class Block(nn.Module):
    """A layer of GPT: causal attention and a feed-forward network, with a norm in front of each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, last: bool = False) -> Tensor:
        """Map x (n, length, width) to the same shape or, with `last`, to its last place alone, (n, 1, width)."""
        z = self.norm1(x)
        asking, x = (z[:, -1:], x[:, -1:]) if last else (z, x)
        query, key, value = (
            one.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for one in (self.query(asking), self.key(z), self.value(z))
        )
        read = functional.scaled_dot_product_attention(query, key, value, is_causal=not last)
        x = x + self.out(read.transpose(1, 2).flatten(2))
        y: Tensor = x + self.narrow(functional.gelu(self.wide(self.norm2(x))))
        return y


class CharacterGPT(nn.Module):
    """Three layers of width 96 with four heads. It takes ids (n, 64)."""

    def __init__(self, width: int = 96, heads: int = 4, layers: int = 3) -> None:
        super().__init__()
        self.characters = nn.Embedding(len(ALPHABET), width)
        self.positions = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(ALPHABET))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores of the next character, (n, 96)."""
        x = self.characters(ids) + self.positions
        for block in self.blocks[:-1]:
            x = block(x)
        scores: Tensor = self.head(self.norm(self.blocks[-1](x, last=True)))
        return scores[:, 0]

    def everywhere(self, ids: Tensor) -> Tensor:
        """Return the scores of what follows each character, (n, 64, 96), as training wants them."""
        x = self.characters(ids) + self.positions
        for block in self.blocks:
            x = block(x)
        scores: Tensor = self.head(self.norm(x))
        return scores


def text_of(files: Iterable[str] = ()) -> Tensor:
    """Return the ids of all docstrings in files of Python's library, (characters,).

    `files` are names such as random.py. By default they are all, but those of HELD_OUT and of tests. Raises
    FileNotFoundError if the running Python came without its source files.
    """
    chosen = tuple(files)
    found = [
        text
        for path, texts in docstrings.read(chosen)
        for text in texts
        if chosen or path.rpartition("/")[2] not in HELD_OUT
    ]
    return ids_of("\n\n".join(dict.fromkeys(found)))


def ids_of(text: str) -> Tensor:
    """Return the id of each character, (characters,)."""
    codes = torch.frombuffer(bytearray(text, "utf-32-le"), dtype=torch.int32).long()
    ids = torch.where((codes > 31) & (codes < 127), codes - 31, _SPACE)
    return torch.where(codes == ord("\n"), _BLANK, ids)


def contexts(ids: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return as many contexts (count, 64) that lie evenly in a text, and the character that follows each, (count,)."""
    starts = torch.linspace(0, len(ids) - LENGTH - 1, count).long()
    windows = ids.unfold(0, LENGTH + 1, 1)[starts]
    return windows[:, :-1], windows[:, -1]


def train(ids: Tensor, *, epochs: int = 3, seed: int = 0) -> CharacterGPT:
    """Train with AdamW on windows of a text, in batches of 32. Shows its progress on stderr.

    Some windows begin with line ends in place of other text, so that the model does not lean on all of a context. The
    weights that it returns fit into float16.
    """
    torch.manual_seed(seed)
    model = CharacterGPT()
    each = (len(ids) - LENGTH - 1) // LENGTH
    batches = -(-each // _BATCH)
    training = OneCycle(model, _PEAK, 0.01, epochs * batches)
    windows = ids.unfold(0, LENGTH + 1, 1)
    for _ in track(range(epochs), description=f"training {NAME}"):
        starts = torch.randperm(each) * LENGTH + int(torch.randint(LENGTH, ()))
        for batch in torch.split(starts, _BATCH):
            taken = _shortened(windows[batch])
            scores = model.everywhere(taken[:, :-1])
            loss = functional.cross_entropy(scores.flatten(0, 1), taken[:, 1:].flatten())
            training.step(loss)
    return model.half().float().eval()


def _shortened(windows: Tensor) -> Tensor:
    """Let a quarter of the windows begin with line ends, in place of up to all of their context."""
    begins = torch.randint(LENGTH, (len(windows), 1)) * (torch.rand(len(windows), 1) < 0.25)
    return torch.where(torch.arange(LENGTH + 1) < begins, _BLANK, windows)


@torch.inference_mode()
def accuracy(model: nn.Module, given: Tensor, following: Tensor) -> float:
    """Return for which part of the contexts the likeliest character is the one that follows."""
    guesses = [model(some).argmax(1) for some in torch.split(given, 256)]
    return float((torch.cat(guesses) == following).float().mean())


def tokenizer() -> bytes:
    """Return the tokenizer.json with which clients make ids of a text: its last 64 characters, after BEFORE."""
    vocabulary = {character: at for at, character in enumerate(ALPHABET)}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": {"direction": "Left", "max_length": LENGTH, "strategy": "LongestFirst", "stride": 0},
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "Prepend", "prepend": BEFORE},
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"[\s\S]"},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": " "},
        }
    ).encode()
