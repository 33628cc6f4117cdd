"""The suite `large`: BERT-base and ViT-B/16 through five real processes, each beside torch's float32 on one thread.

Both have the weights of their initialisation. The inputs are random: a plan takes the same steps whatever they are.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models import vit_b_16

from benchmarks.measurement import Row, timed
from benchmarks.memory import peak_megabytes
from benchmarks.transformers import Bert, uniform
from moiety_local.deployment import Deployment

_CALIBRATION = 4  # inputs
_TIMEOUT = 1800.0  # seconds, of a call and of a pool that fills, on a busy machine
_TOKENS, _WIDTH = 128, 768
_REACH = 4.0  # of an embedding's values
_BRIGHT = 2.5  # of a normalised pixel's


@dataclass(frozen=True)
class _Limits:
    """What is asked: rounds, and the crypto provider's megabytes for one input."""

    rounds: int
    dealt: int


def bert_base() -> nn.Module:
    """BERT-base with a classifier of two classes, behind its embeddings."""
    torch.manual_seed(0)
    return Bert(_WIDTH, 12, 12).train(False)


def vit() -> nn.Module:
    """ViT-B/16. torchvision leaves its last matrix at zero: it gets torch's own initialisation here."""
    torch.manual_seed(0)
    model: nn.Module = vit_b_16().train(False)
    head = model.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)  # noqa: S101  torchvision's
    head.reset_parameters()
    return model


_MODELS: dict[str, Callable[[], nn.Module]] = {"bert-base": bert_base, "vit-b-16": vit}


def pictures(count: int) -> Tensor:
    """Random pictures (count, 3, 224, 224) of patches of different sizes, between -_BRIGHT and _BRIGHT."""
    sizes = (7, 14, 28, 56)
    layers = [uniform(_BRIGHT, len(sizes) * count, 3, size, size)[at :: len(sizes)] for at, size in enumerate(sizes)]
    return torch.stack([F.interpolate(layers[at % len(sizes)], 224)[at] for at in range(count)])


def measure(root: Path, console: Console) -> Iterator[Row]:
    """The rows of the table, in order."""
    torch.set_num_threads(1)
    rows = uniform(_REACH, _CALIBRATION + 4, _TOKENS, _WIDTH)
    yield from _served(root, console, "bert-base", rows, _REACH, _Limits(450, 1500))
    rows = pictures(_CALIBRATION + 20)
    yield from _served(root, console, "vit-b-16", rows, _BRIGHT, None)


def _served(
    root: Path, console: Console, name: str, rows: Tensor, reach: float, limits: _Limits | None
) -> Iterator[Row]:
    model = _MODELS[name]()
    calibration, asked = rows[:_CALIBRATION], rows[_CALIBRATION:]
    busy = {"RUN_SECONDS": str(_TIMEOUT)}
    calls: list[float] = []
    floats: list[float] = []
    with Deployment(root / name, extra={"alice": busy, "bob": busy}) as deployment:
        np.save(root / f"{name}.npy", calibration.numpy())
        published = timed(
            lambda: deployment.publish(
                f"benchmarks.large:{_MODELS[name].__name__}",
                "--name", name,
                "--calibration", str(root / f"{name}.npy"),
                "--low", str(-reach), "--high", str(reach),
            )
        )  # fmt: skip
        with torch.inference_mode(), deployment.client(timeout=_TIMEOUT) as client:
            upload, outputs = client.model(name).upload_id, []
            for at in track(range(len(asked)), name, console=console):
                deployment.wait_full(upload, _TIMEOUT)
                one = asked[at : at + 1]
                calls.append(timed(lambda: outputs.append(client.predict(name, one.numpy()))))  # noqa: B023
                floats.append(timed(lambda: model(one)))  # noqa: B023
            exact = model(asked).double().numpy()
        state = deployment.party_state("bob", upload)
        peaks = {role: peak_megabytes(process.pid) for role, process in deployment.processes.items()}
    got = np.concatenate([answer.outputs for answer in outputs])
    online = outputs[0].online_bytes / 1e6
    dealt = float(str(state["bundle_bytes"])) / int(str(state["bundle_rows"])) / 1e6
    memory = ", ".join(f"{role} {peak:.0f}" for role, peak in peaks.items())
    call, plain = statistics.median(calls), statistics.median(floats)
    console.print(
        f"[dim]{name}: published in {published:.0f} s, one input {call:.1f} s, torch float32 {plain:.2f} s; "
        f"{outputs[0].rounds} rounds, {dealt:.0f} MB from the provider, "
        f"{online:.0f} MB online, each party; peak MB: {memory}[/]"
    )
    equal = float((got.argmax(axis=1) == exact.argmax(axis=1)).mean() * 100)
    if limits is not None:
        yield Row.at_most(f"{name}, rounds: at most", outputs[0].rounds, limits.rounds)
        yield Row.at_most(f"{name}, provider megabytes an input: at most", dealt, limits.dealt)
    yield Row.at_least(f"{name}, labels equal to float, {len(asked)} inputs, %: at least", equal, 100)
    error = float(np.abs(got - exact).max() / exact.std())
    yield Row.at_most(f"{name}, largest error of an output / their spread: at most", error, 0.01)
    yield Row.at_most(f"{name}, peak megabytes of the largest of five processes: at most", max(peaks.values()), 6000)
    yield Row.at_most(f"{name}, one input online / torch float32 on one thread: at most", call / plain, 40)
