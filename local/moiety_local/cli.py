"""`moiety up | demo`: run all roles on this machine. `moiety audit`: the owner is a client of the own model."""

from pathlib import Path
from typing import Annotated

import typer

from moiety_service.cli.terminal import Json, example

_PANEL = "All roles on this machine"
_FRESH = (
    "Folder for the data. The command first deletes what an earlier run made there. If anything else is there, it "
    "deletes nothing and stops."
)


def register(app: typer.Typer) -> None:
    app.command("up", rich_help_panel=_PANEL, epilog=example("moiety up", "moiety up --base-port 8800"))(up)
    shown = example("moiety audit mnist", "moiety audit mnist --runs 100 --evidence runs.jsonl")
    app.command("audit", rich_help_panel="Model owner", epilog=shown)(audit)
    app.command("demo", rich_help_panel=_PANEL, epilog=example("moiety demo", "moiety demo --images 512 --json"))(demo)


def audit(
    name: Annotated[str, typer.Argument(help="The model's name in the catalogue.")],
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Requests to send, of one input each.")] = 20,
    access: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Access file to ask with, such as one of a client that the parties know. Default: a new token.",
        ),
    ] = None,
    evidence: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File for what alice and bob signed of each run, as JSON lines."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask your own model as a client, and find out whether alice or bob lied. Publish it with --auditable first.

    The requests look like any client's. When all are answered, you ask alice and bob for what they signed of these
    runs, compute again all that they had to send, and compare. Whoever lied is named, and an honest party never is.
    Of a verified model that holds of a run whose check failed, too: audit it before `moiety rekey`.

    A party that lies in a fraction f of its runs passes n audited runs with probability (1 - f)^n. It may behave while
    it knows who asks, so ask from where clients ask, at times when they do.
    """
    from moiety_local.audit import run

    raise typer.Exit(run(name, runs, access, evidence, as_json))


def up(
    root: Annotated[Path, typer.Option(help="Folder for the roles' data, one subfolder each.")] = Path(".moiety"),
    base_port: Annotated[
        int, typer.Option(min=1, max=65_500, help="First of five ports. The metrics ports are ten higher.")
    ] = 7700,
) -> None:
    """Start all five roles on this machine. Ctrl-C stops them."""
    from moiety_local.up import run

    raise typer.Exit(run(root, base_port))


def demo(
    images: Annotated[int, typer.Option(min=1, max=10_000, help="Number of MNIST test images.")] = 256,
    batch: Annotated[int, typer.Option(min=1, max=512, help="Images in one request.")] = 32,
    data: Annotated[
        Path | None, typer.Option(help="Folder with MNIST/raw. Only more images than moiety ships need it.")
    ] = None,
    root: Annotated[Path, typer.Option(help=_FRESH)] = Path(".moiety/demo"),
    as_json: Json = False,
) -> None:
    """Run the main job from start to end: five processes, a shared network, private predictions, a report."""
    from moiety_local.demo import run

    raise typer.Exit(run(images, batch, data, root, as_json))
