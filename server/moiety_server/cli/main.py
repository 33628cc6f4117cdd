"""`moiety server | train | publish | inspect | count`. `management.py` holds the commands for published versions and
tokens."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moiety_server.cli import management
from moiety_server.cli.management import PANEL
from moiety_server.cli.model_options import ModelOptions, with_model_options
from moiety_service.cli.steps import steps
from moiety_service.cli.terminal import Exit, Json, console, ended, example, line, say

if TYPE_CHECKING:
    from torch import nn

    from moiety_server.assessment import Assessment
    from moiety_server.compiler.compilation import Compiled
    from moiety_server.source import ModelSource
    from moiety_service.cli.diagnosis import Patient


_PUBLISH = (
    "moiety publish mnist",
    "moiety publish lenet --reveal labels --name digits",
    "moiety publish gpt-characters --open",
    "moiety publish mnist --auditable",
    "moiety publish torchvision:resnet18 --pretrained --calibration inputs.npy",
    "moiety publish mypackage.models:build --calibration inputs.npy",
    "moiety publish churn.onnx --calibration customers.csv --target churn",
    "moiety publish mymodule:model --calibration customers.csv --target churn",
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
    network: Annotated[
        str,
        typer.Option(
            help="Network to train: mnist, mnist-deep, lenet, mobile, rows, docstring-topics or gpt-characters."
        ),
    ] = "mnist",
    out: Annotated[
        Path | None, typer.Option(help="File for the weights. Default: the network's name with .safetensors.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=20,
            help="Passes over the training data. Default: 10 over MNIST's images, 12 over docstrings, 3 over "
            "their characters.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder that holds MNIST/raw. Default: MOIETY_SERVER_MNIST_DIR.")
    ] = None,
    download: Annotated[bool, typer.Option(help="Let torchvision download MNIST if the folder lacks it.")] = True,
    as_json: Json = False,
) -> None:
    """Train one of the shipped networks with plain PyTorch and write its weights.

    Those of pictures learn from MNIST, docstring-topics and gpt-characters from the docstrings of the running Python's
    library.
    """
    from moiety_server import shipped
    from moiety_server.settings import ServerSettings
    from moiety_server.zoo import characters, topics
    from moiety_server.zoo import network as zoo

    if network not in shipped.NAMES:
        raise typer.BadParameter(f"choose one of {', '.join(shipped.NAMES)}", param_hint="--network")
    model: nn.Module
    path = out or Path(f"{network}.safetensors")
    if network == topics.NAME:
        seen, held_out = (list(topics.texts(held_out=each)) for each in (False, True))
        known = topics.vocabulary(text for text, _ in seen)
        encoder = topics.train(seen, known, epochs=epochs or 12)
        accuracy = topics.accuracy(encoder, held_out, known)
        told = f"{len(held_out)} docstrings that it never saw got their topic"
        topics.save(encoder, known, path)
    elif network == characters.NAME:
        model = characters.train(characters.text_of(), epochs=epochs or 3)
        accuracy = characters.accuracy(model, *characters.contexts(characters.text_of(characters.HELD_OUT), 10_000))
        told = "10,000 characters of files that it never saw were its first guess"
        zoo.save(model.half(), path)
    else:
        folder = data or ServerSettings().mnist_dir
        model = zoo.train(network, *zoo.read_mnist(folder, train=True, download=download), epochs=epochs or 10)
        accuracy = zoo.accuracy(model, *zoo.read_mnist(folder, train=False, download=download), network)
        told = "the 10,000 test images labelled correctly"
        zoo.save(model, path)
    if as_json:
        line({"file": str(path), "network": network, "accuracy": accuracy})
    else:
        print(f"{path}: {accuracy:.2%} of {told}")


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


PolarityOfPictures = Annotated[
    str | None,
    typer.Option(
        "--polarity",
        help="Of grey pictures that the model was trained on: light-on-dark or dark-on-light. Clients invert pictures "
        "of the other one. Default: what a shipped model declares, else clients take pictures as they are.",
    ),
]


@with_model_options
def publish(
    chosen: ModelOptions,
    polarity: PolarityOfPictures = None,
    name: Annotated[str, typer.Option(help="Name of the model in the catalogue. Default: its own name.")] = "",
    open_to_all: Annotated[bool, typer.Option("--open", help="Serve every client, without tokens or quotas.")] = False,
    activate: Annotated[
        bool, typer.Option(help="Let clients have this version at once, or later, with `moiety activate`.")
    ] = True,
    valid_days: Annotated[
        int,
        typer.Option(
            min=1,
            max=3650,
            help="Days for which clients accept the entry. After half of them the catalogue's service signs it again. "
            "If the service lacks the signing key, run `moiety refresh`.",
        ),
    ] = 90,
    accept_error: Annotated[
        bool,
        typer.Option(
            "--accept-error",
            help="Publish the model even if its plan errs by over 5 % of the outputs' spread.",
        ),
    ] = False,
    auditable: Annotated[
        bool,
        typer.Option(
            "--auditable",
            help="Have alice and bob sign what they send in each run, and keep what `moiety audit` needs to find out "
            "who lied: a file as large as the weights.",
        ),
    ] = False,
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="Do nothing if the catalogue has an active version already.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compile a model, share its weights between alice and bob, and publish its signed catalogue entry.

    Prints the entry's name, version and the owner's public key, which clients pin.
    """
    from moiety_server.compiler.ir import Inaccurate, NotServable
    from moiety_server.publication import publish as put

    try:
        source = chosen.source().polarised(polarity)
        if if_missing and management.is_published(name or source.name):
            say(f"{name or source.name} is already published")
            return
        with steps() as tell:
            tell(f"compiling {source.name}", 0, 0)
            compiled = chosen.compiled(source)
        say(
            f"the ring has {compiled.plan.ring_bits} bits; the expected error of an output is {compiled.error:.2g}, "
            f"{compiled.relative_error:.2%} of the outputs' spread"
        )
        found = _assessed(source, compiled)
        with management.owner() as owner, steps() as tell:
            signed = put(
                owner,
                name or source.name,
                compiled,
                preprocessing=source.preprocessing,
                attached=source.attached,
                classes=source.classes,
                description=source.description,
                access="open" if open_to_all else "token",
                activate=activate,
                valid_days=valid_days,
                accept_error=accept_error,
                auditable=auditable,
                progress=tell,
            )
    except NotServable as error:
        raise ended(Exit.INACCURATE if isinstance(error, Inaccurate) else Exit.FAILED, error) from None
    if as_json:
        told = {"name": signed.entry.name, "version": signed.entry.version, "owner_key": signed.owner_key}
        line({**told, "assessment": asdict(found)} if found else told)
    else:
        print(f"{signed.entry.name} {signed.entry.version} {signed.owner_key}")


def count(
    model: Annotated[str, typer.Argument(help="The model's name in the catalogue.")],
    files: Annotated[
        list[Path], typer.Argument(help="Files from clients, each with the `for_owner` of one evaluation.")
    ],
    as_json: Json = False,
) -> None:
    """Open the number that only the owner may read: how many labels were right in private evaluations."""
    from moiety_server.counts import counted_model, open_count
    from moiety_service.files import TooLarge, content
    from moiety_shared.messages.wire import OwnerCount

    with management.owner() as owner:
        try:
            counts = [OwnerCount.unpack(content(path, _COUNT)) for path in files]
        except OSError as error:
            raise ended(Exit.USAGE, f"{error.filename} cannot be read: {error.strerror}") from None
        except TooLarge as error:
            raise ended(Exit.USAGE, f"one of the files is not a count: it {error}") from None
        keyring, catalogue = owner.identity.keyring, owner.catalogue
        correct = sum(open_count(keyring, each, counted_model(catalogue, model, each)) for each in counts)
    if as_json:
        line({"model": model, "correct": correct})
    else:
        print(correct)


@with_model_options
def inspect(
    chosen: ModelOptions,
    chart: Annotated[Path | None, typer.Option(help="File for a chart of the layers' costs (PNG).")] = None,
    write_columns: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With a CSV file: write what its columns are to this file, for you to edit."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict what a model will cost: rounds, bytes and work of each layer, and how long a call takes. Nothing is
    shared.

    Ends with a code of its own where the plan answers too inexactly to be published."""
    from moiety_server.compiler import inspection
    from moiety_server.compiler.ir import NotServable

    try:
        if write_columns is not None:
            _write_columns(chosen, write_columns)
        source = chosen.source()
        compiled = chosen.compiled(source)
        assessed = _assessed(source, compiled)
    except NotServable as error:
        raise ended(Exit.FAILED, error) from None
    found = inspection.inspect(source.name, compiled)
    if chart is not None:
        inspection.draw(found, chart)
        say(f"chart: {chart}")
    if as_json:
        line({**asdict(found), "assessment": asdict(assessed)} if assessed else asdict(found))
    else:
        inspection.show(found, console())
    if not compiled.is_accurate:
        raise ended(Exit.INACCURATE, compiled.inaccuracy)


def _assessed(source: "ModelSource", compiled: "Compiled") -> "Assessment | None":
    """Assess a model of a table, and say what was found: its columns as clients will see them, and what they tell.
    Of any other model, say what everybody learns of its weights.

    Raises NotServable.
    """
    from moiety_server import assessment
    from moiety_server.calibration import described
    from moiety_shared.messages.table import Tabular

    if not isinstance(source.preprocessing, Tabular):
        for sentence in source.tells:
            say(sentence)
        return None
    found = assessment.assess(source, compiled)
    say("columns, as clients will see them:")
    for name, what in described(source.preprocessing.columns):
        say(f"  {name}: {what}")
    for sentence in assessment.sentences(source, compiled, found):
        say(sentence)
    return found


def _write_columns(chosen: ModelOptions, path: Path) -> None:
    """Write what the rows of a CSV file show of its columns, or what the owner declares. Raises NotServable."""
    from moiety_server import calibration

    if chosen.calibration is None:
        raise typer.BadParameter("needs the rows of a CSV file: --calibration FILE.csv", param_hint="--write-columns")
    rows = calibration.CalibrationRows.read(chosen.calibration, chosen.target)
    try:
        calibration.write_columns(path, calibration.read_columns(chosen.columns) if chosen.columns else rows.guessed())
    except OSError as error:
        raise ended(Exit.USAGE, f"{path} cannot be written: {error.strerror}") from None
    say(f"columns: {path}")
