"""`moiety up | demo`: run all roles on this machine."""

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
    app.command("demo", rich_help_panel=_PANEL, epilog=example("moiety demo", "moiety demo --images 512 --json"))(demo)


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
