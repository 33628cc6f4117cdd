"""A classifier of texts that ships with the package: a small transformer encoder, which says what a docstring of
Python's own library is about.

It reads the first 32 words of a text. Of five docstrings one is held out of training.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from moiety_server.zoo import docstrings
from moiety_server.zoo.schedule import OneCycle

NAME = "docstring-topics"
DESCRIPTION = "a small transformer encoder: what a docstring of Python's library is about"
TOPICS = {
    "network": "email ftplib.py http imaplib.py ipaddress.py mailbox.py nntplib.py poplib.py smtplib.py socket.py "
    "socketserver.py ssl.py telnetlib.py urllib wsgiref xmlrpc",
    "files": "bz2.py fileinput.py filecmp.py fnmatch.py genericpath.py glob.py gzip.py lzma.py ntpath.py os.py pathlib "
    "pathlib.py posixpath.py shutil.py tarfile.py tempfile.py zipfile zipfile.py",
    "numbers": "_pydatetime.py _pydecimal.py calendar.py colorsys.py datetime.py fractions.py numbers.py random.py "
    "statistics.py",
    "concurrency": "_weakrefset.py asyncio concurrent contextlib.py multiprocessing queue.py sched.py selectors.py "
    "subprocess.py threading.py",
    "testing": "bdb.py cProfile.py doctest.py pdb.py profile.py pstats.py timeit.py trace.py tracemalloc.py unittest "
    "warnings.py",
    "code": "_py_abc.py ast.py collections dataclasses.py dis.py enum.py functools.py importlib inspect.py "
    "modulefinder.py pickle.py pickletools.py pydoc.py symtable.py tokenize.py types.py typing.py",
    "windows": "curses tkinter turtle.py",
}
"""The files and packages of each topic."""
SHOWN = ("doctest.py", "functools.py", "queue.py", "random.py", "shutil.py", "smtplib.py", "turtle.py")
"""Files whose docstrings calibrate the shipped model: one of each topic."""
LENGTH = 32
"""Words of a text that are read."""
PADDING, UNKNOWN = 0, 1
_WORDS = 2048  # ids: the commonest words of training, behind padding and all others
_KEY = "words"  # of a file's metadata
_BATCH, _PEAK = 64, 0.004
_HELD_OUT = 5


class TopicEncoder(nn.Module):
    """Two layers of torch's TransformerEncoder of width 32 with two heads. It takes ids (n, 32)."""

    def __init__(self, words: int = _WORDS, width: int = 32, dropout: float = 0.2) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=PADDING)
        self.positions = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 2, 2 * width, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(TOPICS))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores of the topics, (n, 7)."""
        padding = ids == PADDING
        x = self.layers(self.words(ids) + self.positions, src_key_padding_mask=padding)
        kept = (ids != PADDING).float().unsqueeze(2)
        scores: Tensor = self.head(self.norm((x * kept).sum(1)))  # the norm makes a mean of the sum
        return scores


def texts(places: Collection[str] = (), *, held_out: bool) -> Iterator[tuple[str, int]]:
    """Yield docstrings with the numbers of their topics: those that training leaves out, or the others. `places` are
    the files and packages that are read: by default those of all topics.

    Raises FileNotFoundError if the running Python came without its source files.
    """
    topics = {place: number for number, places in enumerate(TOPICS.values()) for place in places.split()}
    seen = set[str]()
    for path, found in docstrings.read(places or topics):
        topic = topics[path.partition("/")[0]]
        for text in found:
            if text not in seen and (hashlib.sha256(text.encode()).digest()[0] % _HELD_OUT == 0) == held_out:
                seen.add(text)
                yield text, topic


def words_of(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def vocabulary(found: Iterable[str]) -> dict[str, int]:
    """Return the ids of the commonest words of texts, and of padding and of all other words."""
    counts = Counter(word for text in found for word in words_of(text))
    common = [word for word, _ in sorted(counts.most_common(_WORDS - 2), key=lambda each: (-each[1], each[0]))]
    return {word: number for number, word in enumerate(["[PAD]", "[UNK]", *common])}


def ids_of(text: str, known: dict[str, int]) -> list[int]:
    """Return the ids of a text's first 32 words, padded."""
    ids = [known.get(word, UNKNOWN) for word in islice(words_of(text), LENGTH)]
    return ids + [PADDING] * (LENGTH - len(ids))


def train(given: list[tuple[str, int]], known: dict[str, int], *, epochs: int = 12, seed: int = 0) -> TopicEncoder:
    """Train with AdamW on texts and the numbers of their topics. Shows its progress on stderr.

    The weights that it returns fit into float16.
    """
    torch.manual_seed(seed)
    model = TopicEncoder(len(known))
    ids = torch.tensor([ids_of(text, known) for text, _ in given])
    topics = torch.tensor([topic for _, topic in given])
    batches = -(-len(ids) // _BATCH)
    training = OneCycle(model, _PEAK, 0.05, epochs * batches)
    for _ in track(range(epochs), description=f"training {NAME}"):
        for batch in torch.split(torch.randperm(len(ids)), _BATCH):
            loss = functional.cross_entropy(model(ids[batch]), topics[batch])
            training.step(loss)
    return model.half().float().eval()


def save(model: TopicEncoder, known: dict[str, int], path: Path) -> None:
    """Write the weights, in float16, and the words in the order of their ids."""
    save_file(model.half().state_dict(), str(path), metadata={_KEY: " ".join(known)})


def words_in(path: Path) -> dict[str, int]:
    """Return the ids of the words that a file of weights names; of none if it names none."""
    with safe_open(str(path), "pt") as file:
        words = (file.metadata() or {}).get(_KEY, "")
    return {word: number for number, word in enumerate(words.split())}


@torch.inference_mode()
def accuracy(model: nn.Module, given: list[tuple[str, int]], known: dict[str, int]) -> float:
    """Return for which part of the texts the likeliest topic is right."""
    ids = torch.tensor([ids_of(text, known) for text, _ in given])
    guesses = torch.cat([model(some).argmax(1) for some in torch.split(ids, 256)])
    return float((guesses == torch.tensor([topic for _, topic in given])).float().mean())


def tokenizer(known: dict[str, int]) -> bytes:
    """Return the tokenizer.json with which clients make ids of a text: its first 32 words, in lower case."""
    return json.dumps(
        {
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": LENGTH, "strategy": "LongestFirst", "stride": 0},
            "padding": {
                "strategy": {"Fixed": LENGTH},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": PADDING,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
            "added_tokens": [],
            "normalizer": {"type": "Lowercase"},
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "[^a-z]+"},
                "behavior": "Removed",
                "invert": False,
            },
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": known, "unk_token": "[UNK]"},
        }
    ).encode()
