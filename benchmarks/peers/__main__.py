"""`python -m benchmarks.peers`: the same networks through moiety and through other engines, in turn, in one run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from benchmarks.peers import results, turns
from moiety_local.folder import DeploymentError, fresh
from moiety_local.mnist import DataMissing, test_images
from moiety_service.cli.terminal import Exit

_IMAGES = max(case.batch for case in turns.CASES)


def peers(
    cache: Annotated[
        Path,
        typer.Option(help="Folder into which CrypTen and SPU are installed, once (2.4 GB)."),
    ] = Path("build/peers"),
    data: Annotated[
        Path | None, typer.Option(help="Folder with MNIST/raw. Default: the images that ship with moiety.")
    ] = None,
    turns_: Annotated[int, typer.Option("--turns", min=1, help="How often each engine's turn comes.")] = 5,
    root: Annotated[
        Path,
        typer.Option(help="Folder for moiety's data. The command first deletes what an earlier run made there."),
    ] = Path(".moiety/bench"),
    keep: Annotated[
        bool, typer.Option(help="Keep the results in the repository. `make docs-reference` then shows them in docs/.")
    ] = False,
) -> None:
    """Compare moiety with CrypTen and SPU: the same networks, weights and images, in turn, in one run.

    Each engine has one thread in each of its processes. The other engines are installed from their own packages, in
    environments of their own, and their labels are compared with float inference.
    """
    console = Console(stderr=True)
    try:
        with fresh(root, console.print):
            images = test_images(_IMAGES, data)[0]
            found = turns.measure(root, cache, images, turns_, lambda text: console.print(f"[dim]{escape(text)}[/]"))
    except (DataMissing, DeploymentError) as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        raise typer.Exit(Exit.FAILED) from None
    print(found.markdown())
    for row in found.rows():
        console.print(f"{row.what} {row.asked:g}: {row.value:.3g}, {'holds' if row.holds else '[red]does not hold[/]'}")
    if keep:
        results.KEPT.write_text(found.model_dump_json(indent=1) + "\n")


if __name__ == "__main__":
    typer.run(peers)
