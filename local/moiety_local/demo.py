"""`moiety demo`: starts all roles, publishes a network, predicts, reports, and stops the roles."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from moiety_client import inputs
from moiety_client.errors import MoietyError
from moiety_client.exchange import Sealer
from moiety_local import mnist
from moiety_local.deployment import Deployment
from moiety_local.folder import DeploymentError, fresh
from moiety_local.picture import draw_shares
from moiety_local.shell import program


def run(count: int, batch: int, data: Path | None, root: Path, as_json: bool) -> int:
    console = Console(stderr=True)
    try:
        pixels, truth = mnist.test_images(count, data)
        with fresh(root, console.print), Deployment(root / "roles") as deployment:
            console.print("five processes are up: owner, client, alice, bob, crypto provider")
            with console.status("sharing the network between alice and bob"):
                deployment.publish("--name", "mnist")
            report = _predict(deployment, pixels, truth, batch, root / "shares.png", console)
    except (DeploymentError, MoietyError, mnist.DataMissing) as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    _show(report, root / "shares.png", console)
    if as_json:
        print(json.dumps(report))
    return 0


def _predict(
    deployment: Deployment,
    pixels: mnist.Pixels,
    truth: mnist.Labels,
    batch: int,
    picture: Path,
    console: Console,
) -> dict[str, float]:
    with deployment.client() as client:
        entry = client.model("mnist")
        deployment.wait_full(entry.upload_id)
        client.predict("mnist", pixels[:1])  # opens the connections
        labels, milliseconds, sent = [], [], 0
        rounds = 0
        for at in track(range(0, len(pixels), batch), "private predictions", console=console):
            started = time.perf_counter()
            answer = client.predict("mnist", pixels[at : at + batch])
            milliseconds.append((time.perf_counter() - started) * 1e3)
            labels.append(answer.labels)
            sent += answer.online_bytes
            rounds = max(rounds, answer.rounds)
        state = deployment.party_state("bob", entry.upload_id)
        call = Sealer(entry).call(inputs.encode(entry, pixels[:1]))
    private = np.concatenate(labels)
    draw_shares(pixels[0], call.alice_share, call.bob_share(), str(private[0]), picture)
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {
        "images": len(pixels),
        "correct": int((private == truth).sum()),
        "agree": int((private == mnist.float_outputs(pixels).argmax(axis=1)).sum()),
        "latency_ms_p50": round(float(p50), 3),
        "latency_ms_p95": round(float(p95), 3),
        "rounds": rounds,
        "online_bytes_per_image_per_party": round(sent / len(pixels), 1),
        "offline_bytes_per_image": round(float(str(state["bundle_bytes"])) / int(str(state["bundle_rows"])), 1),
    }


def _show(report: dict[str, float], picture: Path, console: Console) -> None:
    images = int(report["images"])
    table = Table(title="Private predictions", show_header=False)
    table.add_row("images", f"{images}")
    table.add_row("right", f"{int(report['correct'])} ({report['correct'] / images:.2%})")
    table.add_row("same label as float inference", f"{int(report['agree'])} ({report['agree'] / images:.2%})")
    table.add_row("a request took", f"{report['latency_ms_p50']:.2f} ms (p50), {report['latency_ms_p95']:.2f} ms (p95)")
    table.add_row("rounds between alice and bob", f"{int(report['rounds'])}")
    table.add_row("each party sent, an image", f"{report['online_bytes_per_image_per_party']:,.0f} bytes")
    table.add_row("the crypto provider sent, an image", f"{report['offline_bytes_per_image']:,.0f} bytes")
    table.add_row("what alice and bob saw", str(picture))
    shown = console if not sys.stdout.isatty() else Console()
    shown.print(table)
    shown.print(f"What to try next:  [bold]{escape(program())} up[/]", soft_wrap=True)  # unwrapped: people copy it
    shown.print(
        "It runs the five roles until Ctrl-C, and prints how to publish this network and how to get predictions."
    )
