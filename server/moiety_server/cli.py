"""`moiety server`, `moiety train`, `moiety publish`."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("server", rich_help_panel="Roles")(server)
    app.command("train", rich_help_panel="Model owner")(train)
    app.command("publish", rich_help_panel="Model owner")(publish)


def server() -> None:
    """Run the model owner's catalogue. Settings: MOIETY_SERVER_* (see docs/settings.md)."""
    from moiety_server.catalogue import build
    from moiety_server.settings import ServerSettings
    from moiety_shared.service import app, logs

    settings = ServerSettings()
    logs.configure("server", settings.log_format)
    app.serve(build(settings), settings)


def train(
    out: Annotated[Path, typer.Option(help="Where to write the weights (safetensors).")] = Path("mnist.safetensors"),
    epochs: Annotated[int, typer.Option(min=1, max=20, help="Passes over the 60,000 training images.")] = 10,
    data: Annotated[Path | None, typer.Option(help="Folder with MNIST/raw; default MOIETY_SERVER_MNIST_DIR.")] = None,
    download: Annotated[bool, typer.Option(help="Let torchvision download MNIST if it is not there.")] = True,
) -> None:
    """Train the MNIST network with plain PyTorch and write its weights."""
    from moiety_server import network
    from moiety_server.settings import ServerSettings

    folder = data or ServerSettings().mnist_dir
    model = network.train(*network.read_mnist(folder, train=True, download=download), epochs=epochs)
    accuracy = network.accuracy(model, *network.read_mnist(folder, train=False, download=download))
    network.save(model, out)
    print(f"{out}: {accuracy:.2%} of the 10,000 test images right")


def publish(
    weights: Annotated[
        Path | None,
        typer.Option(help="The network's weights (safetensors); default: the trained ones we ship."),
    ] = None,
    name: Annotated[str, typer.Option(help="What clients call the model.")] = "mnist",
) -> None:
    """Share the MNIST network's weights between alice and bob, and publish its signed catalogue entry.

    Prints the entry's name, version and the owner's public key, which clients pin.
    """
    from moiety_server import samples
    from moiety_server.publish import Publisher
    from moiety_server.settings import ServerSettings
    from moiety_shared.problems import Problem

    try:
        signed = samples.publish_mnist(
            Publisher(ServerSettings()), name, weights, lambda step: print(step, file=sys.stderr)
        )
    except Problem as problem:
        print(f"{problem}\n{problem.kind.hint}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{signed.entry.name} {signed.entry.version} {signed.owner_key}")
