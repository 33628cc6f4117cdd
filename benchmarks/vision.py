"""The suite `vision`: convolutional networks through five real processes, as ratios taken in one run."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

from benchmarks.measurement import Row, echo_server, timed, torch_forward
from moiety_client import inputs
from moiety_client.client import Client
from moiety_client.exchange import Sealer
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_service.http import clients

_BATCH = 32


def measure(root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """The rows of the table, in order."""
    with Deployment(root / "roles") as deployment:
        deployment.publish("lenet")
        with deployment.client(timeout=120) as client:
            lenet = _LeNet(deployment, client, pixels, console)
            yield from lenet.single()
            yield from lenet.batch()
            yield from lenet.accuracy()
            yield from lenet.labels()
    with Deployment(root / "large") as deployment:
        yield from _resnet(deployment, root, pixels, console)


class _LeNet:
    def __init__(self, deployment: Deployment, client: Client, pixels: mnist.Pixels, console: Console) -> None:
        self.deployment, self.client, self.pixels, self.console = deployment, client, pixels, console
        self.forward = torch_forward("lenet")
        self.upload_id = client.model("lenet").upload_id

    def warm(self) -> None:
        self.deployment.wait_full(self.upload_id)
        time.sleep(0.2)

    def single(self) -> Iterator[Row]:
        """One image and one POST of the same bytes, measured in turn."""
        one = self.pixels[:1]
        sealer = Sealer(self.client.model("lenet"))
        body = sealer.call(inputs.encode(sealer.entry, one)).body
        with echo_server() as url, clients.client(url) as echo:
            calls: list[float] = []
            posts: list[float] = []
            for _ in range(5):
                self.warm()
                for _ in range(20):
                    calls.append(timed(lambda: self.client.predict("lenet", one)))
                    posts.append(timed(lambda: echo.post("/echo", content=body)))
        call, post = statistics.median(calls[10:]), statistics.median(posts[10:])
        self._say(f"LeNet, one image {call * 1e3:.2f} ms, one POST {post * 1e3:.2f} ms")
        yield Row.at_most("LeNet, one image / one httpx POST of the same bytes: at most", call / post, 20)

    def batch(self) -> Iterator[Row]:
        """32 images, compared with torch's forward pass of them and with the prediction of `moiety inspect`."""
        images = self.pixels[:_BATCH]
        calls: list[float] = []
        floats: list[float] = []
        for _ in range(6):
            self.warm()
            self.client.predict("lenet", images)  # the first call after a pause finds cold caches
            calls.extend(timed(lambda: self.client.predict("lenet", images)) for _ in range(4))
            floats.extend(timed(lambda: self.forward(images)) for _ in range(20))
        answer = self.client.predict("lenet", images)
        call, plain = statistics.median(calls), statistics.median(floats)
        self._say(f"LeNet, batch of 32 {call * 1e3:.2f} ms, torch float32 {plain * 1e3:.2f} ms")
        state = self.deployment.party_state("bob", self.upload_id)
        provided = float(str(state["bundle_bytes"])) / int(str(state["bundle_rows"]))
        yield Row.at_most("LeNet, 32 images / torch float32 on one thread: at most", call / plain, 20)
        yield Row.at_most("LeNet, online bytes, each party, per image: at most", answer.online_bytes / _BATCH, 120_000)
        yield Row.at_most("LeNet, provider bytes per image: at most", provided, 800_000)
        foretold = inspected("lenet")["loopback"][str(_BATCH)]
        self._say(f"moiety inspect foretold {foretold * 1e3:.2f} ms")
        yield Row.at_most("LeNet, 32 images / what moiety inspect foretold: at most", call / foretold, 2)
        yield Row.at_least("LeNet, 32 images / what moiety inspect foretold: at least", call / foretold, 0.5)

    def accuracy(self) -> Iterator[Row]:
        """All test images through the processes, compared with float inference."""
        expected = self.forward(self.pixels)
        got = np.concatenate(
            [
                self.client.predict("lenet", self.pixels[at : at + _BATCH]).labels
                for at in track(range(0, len(self.pixels), _BATCH), "10,000 images", console=self.console)
            ]
        )
        agree = float((got == expected.argmax(axis=1)).mean() * 100)
        yield Row.at_least("LeNet, labels equal to float, 10,000 images, %: at least", agree, 99.9)

    def labels(self) -> Iterator[Row]:
        """The rounds of a run that reveals the label alone, compared with one that reveals all outputs."""
        self.deployment.publish("lenet", "--reveal", "labels", "--name", "lenet-labels")
        one = self.pixels[:1]
        extra = self.client.predict("lenet-labels", one).rounds - self.client.predict("lenet", one).rounds
        yield Row.at_most("label only, 10 classes, extra rounds: at most", extra, 4)

    def _say(self, text: str) -> None:
        self.console.print(f"[dim]{text}[/]")


def _resnet(deployment: Deployment, root: Path, pixels: mnist.Pixels, console: Console) -> Iterator[Row]:
    """One picture of 224 x 224, an enlarged digit, through ResNet-18 with the weights of its initialisation."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = resnet18().train(False)
    enlarged = pixels[:12].repeat(8, axis=1).repeat(8, axis=2)
    images = np.stack([enlarged, enlarged.transpose(0, 2, 1), 255 - enlarged], axis=-1)  # three channels
    mean, std = (torch.tensor(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pictures = ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    save_file({"inputs": pictures[:8].contiguous()}, str(root / "calibration.safetensors"))
    save_file(model.state_dict(), str(root / "resnet18.safetensors"))
    deployment.publish(
        "torchvision:resnet18",
        "--weights", str(root / "resnet18.safetensors"),
        "--calibration", str(root / "calibration.safetensors"),
    )  # fmt: skip
    calls: list[float] = []
    refills: list[float] = []
    floats: list[float] = []
    errors: list[float] = []
    with torch.inference_mode(), deployment.client(timeout=300) as client:
        upload = client.model("resnet18").upload_id
        exact = model(pictures).double().numpy()
        for index in range(len(pictures)):
            deployment.wait_full(upload, 300)
            time.sleep(0.3)
            picture = pictures[index : index + 1]
            started = time.perf_counter()
            answer = client.predict("resnet18", images[index])
            calls.append(time.perf_counter() - started)
            deployment.wait_full(upload, 300)
            refills.append(time.perf_counter() - started)  # includes the call, during which the next row is prepared
            floats.extend(timed(lambda: model(picture)) for _ in range(3))  # noqa: B023
            errors.append(float(np.abs(answer.outputs - exact[index]).max()))
    call, refill, plain = (statistics.median(times[2:]) for times in (calls, refills, floats))
    console.print(
        f"[dim]ResNet-18: {call * 1e3:.0f} ms online, {refill * 1e3:.0f} ms until the next row is ready, torch float32 "
        f"{plain * 1e3:.1f} ms, largest error {max(errors):.4f} of a spread of {exact.std():.3f}[/]"
    )
    yield Row.at_most("ResNet-18, one picture online / torch float32 on one thread: at most", call / plain, 20)
    yield Row.at_most("ResNet-18, provider and preparation / torch float32: at most", refill / plain, 60)
    yield Row.at_most("ResNet-18, largest error of an output / their spread: at most", max(errors) / exact.std(), 0.02)
    for role in ("crypto_provider", "alice", "bob"):
        used = psutil.Process(deployment.processes[role].pid).memory_info().rss / 1e6
        yield Row.at_most(f"ResNet-18, resident memory of {role}, MB: at most", used, 4000)


def inspected(*arguments: str) -> dict[str, dict[str, float]]:
    """`moiety inspect`'s predicted seconds, by link and batch."""
    command = [sys.executable, "-m", "moiety_service.cli.main", "inspect", *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds: dict[str, dict[str, float]] = json.loads(done.stdout)["seconds"]
    return seconds
