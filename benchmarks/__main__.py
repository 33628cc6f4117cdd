"""`python -m benchmarks`: measures this machine, as ratios taken in one run, beside what was asked."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import comparison, hostile, large, load, mnist, page, sidecar, tabular, transformers, verified, vision
from benchmarks.measurement import Row
from moiety_local.folder import DeploymentError, fresh
from moiety_local.mnist import DataMissing, Pixels, test_images
from moiety_service.cli.terminal import Exit, Json

_FRESH = (
    "Folder for the data. The command first deletes what an earlier run made there. If anything else is there, it "
    "deletes nothing and stops."
)

Pictures = Callable[[], Pixels]
"""Reads MNIST's test images. Raises DataMissing; a suite that needs none does not call it."""
Suite = Callable[[Path, Pictures, float, Console], Iterator[Row]]
SUITES: dict[str, tuple[str, Suite]] = {
    "mnist": (
        "one image, batches of 128, bytes, memory",
        lambda root, pixels, *rest: mnist.measure(root, pixels(), *rest),
    ),
    "vision": ("LeNet, ResNet-18, label-only output", lambda root, pixels, _, say: vision.measure(root, pixels(), say)),
    "transformers": (
        "BERT-tiny beside one LeNet image",
        lambda root, pixels, _, say: transformers.measure(root, pixels(), say),
    ),
    "large": (
        "BERT-base and ViT-B/16: minutes to an hour",
        lambda root, _, __, say: large.measure(root, say),
    ),
    "tabular": (
        "trees beside one image, tables' answers",
        lambda root, pixels, _, say: tabular.measure(root, pixels(), say),
    ),
    "verified": (
        "runs whose parties check each other, beside the same without",
        lambda root, pixels, _, say: verified.measure(root, pixels(), say),
    ),
    "sidecar": ("the client's REST interface", lambda root, pixels, _, say: sidecar.measure(root, pixels(), say)),
    "page": (
        "the owner's public page in Chromium, beside the Python client",
        lambda root, pixels, _, say: page.measure(root, pixels(), say),
    ),
    "load": (
        "64 clients of one image each, at the same time",
        lambda root, pixels, *rest: load.measure(root, pixels(), *rest),
    ),
    "hostile": (
        "junk of one token, then 1,000 hostile connections",
        lambda root, pixels, _, say: hostile.measure(root, pixels(), say),
    ),
}
_WHAT = "; ".join(f"{name}: {what}" for name, (what, _) in SUITES.items())


def bench(
    suite: Annotated[str, typer.Option(help=_WHAT)] = "mnist",
    data: Annotated[Path | None, typer.Option(help="Folder with MNIST/raw. Default: MOIETY_SERVER_MNIST_DIR.")] = None,
    seconds: Annotated[float, typer.Option(help="Seconds that the sustained load lasts.")] = 30.0,
    root: Annotated[Path, typer.Option(help=_FRESH)] = Path(".moiety/bench"),
    against: Annotated[
        str,
        typer.Option(help="A commit, tag or branch to compare this tree with. The benchmark measures them in turn."),
    ] = "",
    runs: Annotated[int, typer.Option(min=1, help="With --against: how often the benchmark measures each tree.")] = 5,
    as_json: Json = False,
) -> None:
    """Measure this machine, as ratios taken in one run, and show them beside what was asked.

    With --against, measure this tree and another commit in turn, and compare them row by row. `python -m
    benchmarks.peers` measures other engines beside this one.
    """
    console = Console(stderr=True)
    if suite not in SUITES:
        raise typer.BadParameter(f"choose from {', '.join(SUITES)}", param_hint="--suite")
    data = data or Path(os.environ.get("MOIETY_SERVER_MNIST_DIR", "data"))
    try:
        with fresh(root, console.print):
            if against:
                comparison.compare(against, suite, data, seconds, runs, root, console, as_json)
            else:
                _show(
                    list(SUITES[suite][1](root, lambda: test_images(10_000, data)[0], seconds, console)),
                    console,
                    as_json,
                )
    except DataMissing as error:
        console.print(f"[red]{error}[/]: pass --data DIR")
        raise typer.Exit(Exit.FAILED) from None
    except DeploymentError as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        raise typer.Exit(Exit.FAILED) from None


def _show(rows: list[Row], console: Console, as_json: bool) -> None:
    table = Table("what", "value", "asked", "holds", title="moiety on this machine")
    for row in rows:
        table.add_row(row.what, f"{row.value:g}", f"{row.asked:g}", "yes" if row.holds else "[red]no[/]")
    console.print(table)
    if as_json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    typer.run(bench)
