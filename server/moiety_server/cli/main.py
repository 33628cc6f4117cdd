"""`moiety server | train | publish | inspect | count`. `management.py` holds the commands for published versions and
tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moiety_server.cli import management
from moiety_server.cli.management import PANEL
from moiety_service.cli.terminal import Exit, Json, console, ended, example, line, say

if TYPE_CHECKING:
    from moiety_server.compiler.compilation import Reveal as RevealKind
    from moiety_service.cli.diagnosis import Patient


_PUBLISH = (
    "moiety publish mnist",
    "moiety publish lenet --reveal labels --name digits",
    "moiety publish torchvision:resnet18 --pretrained --calibration inputs.npy",
    "moiety publish mypackage.models:build --calibration inputs.npy",
)
_COUNT = 1 << 16  # most bytes of what a client hands on: two envelopes of some thousand bytes
_INSPECT = ("moiety inspect lenet", "moiety inspect model.onnx --calibration inputs.npy --json")


def register(app: typer.Typer) -> None:
    app.command("server", rich_help_panel="Roles", epilog=example("moiety server"))(server)
    app.command("train", rich_help_panel=PANEL, epilog=example("moiety train --network lenet --data DIR"))(train)
    app.command("publish", rich_help_panel=PANEL, epilog=example(*_PUBLISH))(publish)
    app.command("count", rich_help_panel=PANEL, epilog=example("moiety count lenet-count counts/*"))(count)
    app.command("inspect", rich_help_panel=PANEL, epilog=example(*_INSPECT))(inspect)
    management.register(app)


def server() -> None:
    """Run the model owner's catalogue. Settings: MOIETY_SERVER_* (see docs/settings.md)."""
    from moiety_server.app import build
    from moiety_server.settings import ServerSettings
    from moiety_service import service

    service.run("server", ServerSettings, build)


def train(
    network: Annotated[str, typer.Option(help="Which: mnist, mnist-deep, lenet or mobile.")] = "mnist",
    out: Annotated[
        Path | None, typer.Option(help="Where to write the weights; default: the network's name with .safetensors.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=20, help="Passes over the 60,000 training images.")] = 10,
    data: Annotated[Path | None, typer.Option(help="Folder with MNIST/raw; default MOIETY_SERVER_MNIST_DIR.")] = None,
    download: Annotated[bool, typer.Option(help="Let torchvision download MNIST if it is not there.")] = True,
    as_json: Json = False,
) -> None:
    """Train one of the MNIST networks with plain PyTorch and write its weights."""
    from moiety_server.settings import ServerSettings
    from moiety_server.zoo import network as zoo

    if network not in zoo.NETWORKS:
        raise typer.BadParameter(f"there are {', '.join(zoo.NETWORKS)}", param_hint="--network")
    folder = data or ServerSettings().mnist_dir
    model = zoo.train(network, *zoo.read_mnist(folder, train=True, download=download), epochs=epochs)
    accuracy = zoo.accuracy(model, *zoo.read_mnist(folder, train=False, download=download), network)
    path = out or Path(f"{network}.safetensors")
    zoo.save(model, path)
    if as_json:
        line({"file": str(path), "network": network, "accuracy": accuracy})
    else:
        print(f"{path}: {accuracy:.2%} of the 10,000 test images right")


def patients() -> list["Patient"]:
    """The owner's checks, for `moiety doctor`."""
    from moiety_server.settings import ServerSettings
    from moiety_service.cli.diagnosis import Finding, Patient, Service
    from moiety_service.security.identity import BadIdentity, Identity

    def provider_key(settings: ServerSettings) -> Iterator[Finding]:
        """What the owner needs of the crypto provider, whom it never calls."""
        try:
            key = Identity.load(settings.keys_dir / "server", "server").provider_key
            yield Finding("server", "provider.pub", "ok", f"the crypto provider's sealing key, {key.key_id}")
        except BadIdentity as error:
            found, _, fix = str(error).partition(": ")
            yield Finding("server", "provider.pub", "wrong", found, fix)

    def calls(settings: ServerSettings) -> list[Service]:
        ca = settings.keys_dir / "server" / "tls" / "ca.pem"
        trusted = ca if ca.exists() else None
        return [
            Service(name, title, url, trusted, f"MOIETY_SERVER_{setting}", start)
            for name, title, url, setting, start in (
                ("alice", "moiety party alice", settings.alice_url, "ALICE_URL", "moiety party alice"),
                ("bob", "moiety party bob", settings.bob_url, "BOB_URL", "moiety party bob"),
                ("catalogue", "moiety model owner", settings.url, "URL", "moiety server"),
            )
        ]

    return [
        Patient(
            role="server",
            title="moiety model owner",
            extra="server",
            start="moiety server",
            settings=ServerSettings,
            keys=lambda settings: settings.keys_dir / "server",
            present=lambda settings: (settings.keys_dir / "server").is_dir(),
            calls=calls,
            own=provider_key,
        )
    ]


Model = Annotated[
    str,
    typer.Argument(
        help="mnist, mnist-deep, lenet or mobile (shipped, trained); torchvision:NAME; FILE.onnx; or module:function, "
        "your own function that returns a torch.nn.Module."
    ),
]
Weights = Annotated[Path | None, typer.Option(help="The model's weights (safetensors).")]
Pretrained = Annotated[bool, typer.Option(help="torchvision: download its weights.")]
Calibration = Annotated[
    Path | None, typer.Option(help="Real inputs (n, ...), .npy or .safetensors: scales are chosen on them.")
]
Low = Annotated[float | None, typer.Option(help="Least value an input may have. Default: what the data shows.")]
High = Annotated[float | None, typer.Option(help="Largest value an input may have.")]
Reveal = Annotated[
    str, typer.Option(help="What clients get: logits, labels (the --top likeliest and nothing else), or count.")
]
Top = Annotated[int, typer.Option(min=1, max=255, help="With --reveal labels: how many, in order.")]
RingBits = Annotated[int | None, typer.Option("--ring", help="32 or 64 bits. Default: 32 if that is fine enough.")]
Headroom = Annotated[
    float,
    typer.Option(min=1, help="How far beyond the calibration data a wire may go where no bound can be proved."),
]


def publish(
    model: Model = "mnist",
    weights: Weights = None,
    pretrained: Pretrained = False,
    calibration: Calibration = None,
    low: Low = None,
    high: High = None,
    reveal: Reveal = "logits",
    top: Top = 1,
    ring: RingBits = None,
    headroom: Headroom = 4.0,
    name: Annotated[str, typer.Option(help="What clients call the model. Default: its own name.")] = "",
    open_to_all: Annotated[bool, typer.Option("--open", help="Serve everybody, without tokens and quotas.")] = False,
    activate: Annotated[
        bool, typer.Option(help="Let clients have this version at once; or later, with `moiety activate`.")
    ] = True,
    valid_days: Annotated[
        int,
        typer.Option(
            min=1,
            max=3650,
            help="How long clients may use the entry. It is signed anew when half of that is over: by the catalogue's "
            "service, or by moiety refresh where that does not hold the signing key.",
        ),
    ] = 90,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Do nothing where clients have a version of it already.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compile a model, share its weights between alice and bob, and publish its signed catalogue entry.

    Prints the entry's name, version and the owner's public key, which clients pin.
    """
    from moiety_server import sources
    from moiety_server.compiler.ir import NotServable
    from moiety_server.publication import publish as put

    try:
        source = sources.load(
            model, weights=weights, pretrained=pretrained, calibration=calibration, low=low, high=high
        )
        if if_missing and management.is_published(name or source.name):
            say(f"{name or source.name} is published already")
            return
        say(f"compiling {source.name}")
        compiled = source.compile(reveal=_reveal(reveal), top=top, ring_bits=ring, headroom=headroom)
        say(
            f"ring of {compiled.plan.ring_bits} bits; expected error of an output {compiled.error:.2g}, "
            f"{compiled.error / max(compiled.spread, 1e-12):.2%} of their spread"
        )
        with management.owner() as owner:
            signed = put(
                owner,
                name or source.name,
                compiled,
                preprocessing=source.preprocessing,
                classes=source.classes,
                description=source.description,
                access="open" if open_to_all else "token",
                activate=activate,
                valid_days=valid_days,
                progress=say,
            )
    except NotServable as error:
        raise ended(Exit.FAILED, error) from None
    if as_json:
        line({"name": signed.entry.name, "version": signed.entry.version, "owner_key": signed.owner_key})
    else:
        print(f"{signed.entry.name} {signed.entry.version} {signed.owner_key}")


def count(
    model: Annotated[str, typer.Argument(help="The model's name in the catalogue.")],
    files: Annotated[list[Path], typer.Argument(help="What clients handed on: Evaluation.for_owner, a file each.")],
    as_json: Json = False,
) -> None:
    """Open the number that only the owner may read: how many labels were right in private evaluations."""
    from moiety_server.publication import open_count
    from moiety_service.files import TooLarge, content

    with management.owner() as owner:
        bits = owner.catalogue.get(model).entry.plan.ring_bits
        try:
            tokens = [content(path, _COUNT) for path in files]
        except OSError as error:
            raise ended(Exit.USAGE, f"{error.filename} cannot be read: {error.strerror}") from None
        except TooLarge as error:
            raise ended(Exit.USAGE, f"one of the files is no count: it {error}") from None
        correct = sum(open_count(owner.identity.keyring, token, bits) for token in tokens)
    if as_json:
        line({"model": model, "correct": correct})
    else:
        print(correct)


def inspect(
    model: Model = "mnist",
    weights: Weights = None,
    pretrained: Pretrained = False,
    calibration: Calibration = None,
    low: Low = None,
    high: High = None,
    reveal: Reveal = "logits",
    top: Top = 1,
    ring: RingBits = None,
    headroom: Headroom = 4.0,
    chart: Annotated[Path | None, typer.Option(help="Write a chart of the layers' costs here (PNG).")] = None,
    as_json: Json = False,
) -> None:
    """Predict what a model will cost: rounds, bytes and work of each layer, and how long a call takes. Nothing is
    shared."""
    from dataclasses import asdict

    from moiety_server import sources
    from moiety_server.compiler import inspection
    from moiety_server.compiler.ir import NotServable

    try:
        source = sources.load(
            model, weights=weights, pretrained=pretrained, calibration=calibration, low=low, high=high
        )
        compiled = source.compile(reveal=_reveal(reveal), top=top, ring_bits=ring, headroom=headroom)
    except NotServable as error:
        raise ended(Exit.FAILED, error) from None
    found = inspection.inspect(source.name, compiled)
    if chart is not None:
        inspection.draw(found, chart)
        say(f"chart: {chart}")
    if as_json:
        line(asdict(found))
    else:
        inspection.show(found, console())


def _reveal(text: str) -> "RevealKind":
    if text not in ("logits", "labels", "count"):
        raise typer.BadParameter("logits, labels or count", param_hint="--reveal")
    return text  # type: ignore[return-value]
