"""The suite `transformers`: one sequence through BERT-tiny and five real processes, beside one LeNet image in the same
run."""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from benchmarks.measurement import Row, timed
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_shared.crypto.prg import Stream

_TOKENS, _WIDTH, _HEADS, _LAYERS = 128, 128, 2, 2  # BERT-tiny's
_REACH = 4.0  # of an embedding's values
_ERRORS = 4  # sequences that are compared with float inference


class _Block(nn.Module):
    """A layer of BERT: attention, then two matrices with a GELU between them, each with a norm behind it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.given, self.made = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.attended, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        heads = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.given(x).chunk(3, -1))
        x = self.attended(x + self.made(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)))
        made: Tensor = self.norm(x + self.narrow(F.gelu(self.wide(x))))
        return made


class Bert(nn.Module):
    """BERT as a classifier of two classes, behind its embeddings (n, tokens, width)."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(torch.tanh(self.pooler(self.blocks(self.norm(x))[:, 0])))
        return made


def bert_tiny() -> nn.Module:
    """The model that the suite publishes, with the weights of its initialisation."""
    torch.manual_seed(0)
    return Bert(_WIDTH, _HEADS, _LAYERS).train(False)


def uniform(reach: float, *shape: int) -> Tensor:
    """Numbers between -reach and reach, always the same."""
    words = Stream(bytes(32), "sequences").words("values", shape, np.int16)
    return torch.from_numpy(words).float() * (reach / (1 << 15))


def measure(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """The rows of the table, in order."""
    rows = uniform(_REACH, 8 + _ERRORS, _TOKENS, _WIDTH).numpy()
    with Deployment(root / "roles") as deployment:
        np.save(root / "calibration.npy", rows[:8])
        deployment.publish(
            "benchmarks.transformers:bert_tiny",
            "--name", "bert-tiny",
            "--calibration", str(root / "calibration.npy"),
            "--low", str(-_REACH), "--high", str(_REACH),
        )  # fmt: skip
        with deployment.client(timeout=120) as client:
            uploads = [client.model("bert-tiny").upload_id]
            deployment.wait_full(uploads[0], 300)
            state = deployment.party_state("bob", uploads[0])  # while bob has rows of no other model
            deployment.publish("lenet")
            uploads.append(client.model("lenet").upload_id)
            calls: list[float] = []
            images: list[float] = []
            for _ in range(5):
                for upload in uploads:
                    deployment.wait_full(upload, 300)
                time.sleep(0.2)
                for _ in range(2):  # a pool holds few rows of this size
                    calls.append(timed(lambda: client.predict("bert-tiny", rows[8:9])))
                    images.append(timed(lambda: client.predict("lenet", pixels[:1])))
            deployment.wait_full(uploads[0], 300)
            answer = client.predict("bert-tiny", rows[8:])
    call, image = statistics.median(calls[2:]), statistics.median(images[2:])
    console.print(f"[dim]BERT-tiny, one sequence {call * 1e3:.0f} ms; LeNet, one image {image * 1e3:.1f} ms[/]")
    provided = float(str(state["bundle_bytes"])) / int(str(state["bundle_rows"]))
    with torch.inference_mode():
        exact = bert_tiny()(torch.from_numpy(rows)).numpy()
    error = float(np.abs(answer.outputs - exact[8:]).max()) / float(exact.std())
    yield Row.at_most("BERT-tiny, 128 tokens, rounds: at most", answer.rounds, 90)
    yield Row.at_most("BERT-tiny, provider megabytes a sequence: at most", provided / 1e6, 40)
    yield Row.at_most(
        "BERT-tiny, online megabytes, each party, a sequence: at most", answer.online_bytes / _ERRORS / 1e6, 8
    )
    yield Row.at_most("BERT-tiny, one sequence / one LeNet image: at most", call / image, 20)
    yield Row.at_most("BERT-tiny, largest error of an output / their spread: at most", error, 0.02)
