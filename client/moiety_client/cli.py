"""`moiety sidecar | predict | status | up | demo | bench`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("sidecar", rich_help_panel="Roles")(sidecar)
    app.command("predict", rich_help_panel="Client")(predict)
    app.command("status", rich_help_panel="Client")(status)
    app.command("up", rich_help_panel="All roles on this machine")(up)
    app.command("demo", rich_help_panel="All roles on this machine")(demo)
    app.command("bench", rich_help_panel="All roles on this machine")(bench)


def sidecar() -> None:
    """Run the client's local REST sidecar. Settings: MOIETY_CLIENT_* (see docs/settings.md)."""
    from prometheus_client import CollectorRegistry

    from moiety_client.errors import AccessFileError
    from moiety_client.settings import ClientSettings
    from moiety_client.sidecar import ClientMetrics, Exposed, Upstream, build
    from moiety_shared.service import logs, serving, tracing

    settings, metrics = ClientSettings(), ClientMetrics(CollectorRegistry())
    logs.configure("client", settings.log_format, settings.log_level)
    with tracing.exporting("client") as tracer:
        try:
            telemetry = metrics.telemetry(tracer, settings.withhold_trace)
            upstream = Upstream.from_access(settings.access_file, timeout=settings.timeout, telemetry=telemetry)
            built = build(upstream, settings, metrics, tracer)
        except (AccessFileError, Exposed) as error:
            print(error, file=sys.stderr)
            raise typer.Exit(2) from None
        serving.serve(built, settings)


def predict(
    model: Annotated[str, typer.Argument(help="The model's name in the catalogue.")],
    image: Annotated[list[Path], typer.Argument(help="Picture files, of the size the model takes.")],
    access: Annotated[
        Path | None, typer.Option(help="The owner's access file. Default: MOIETY_CLIENT_ACCESS_FILE.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Private predictions for picture files: prints a label for each."""
    import numpy as np
    from PIL import Image

    from moiety_client.client import Client
    from moiety_client.errors import MoietyError
    from moiety_client.settings import ClientSettings
    from moiety_client.telemetry import Telemetry
    from moiety_shared.service import tracing

    settings = ClientSettings()
    file, seconds = access or settings.access_file, settings.timeout
    try:
        with (
            tracing.exporting("client") as tracer,
            Client.from_access(file, timeout=seconds, telemetry=Telemetry(tracer, settings.withhold_trace)) as client,
        ):
            how = client.model(model).preprocessing
            mode = "RGB" if how and how.channels == 3 else "L"
            pictures = np.stack([np.asarray(Image.open(path).convert(mode)) for path in image])
            names = client.predict(model, pictures).names
    except (MoietyError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps([{"file": str(p), "label": n} for p, n in zip(image, names, strict=True)]))
    else:
        for path, name in zip(image, names, strict=True):
            print(f"{path}: {name}")


def status(
    access: Annotated[
        Path | None, typer.Option(help="The owner's access file. Default: MOIETY_CLIENT_ACCESS_FILE.")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="Operators: a role's metrics address; may be given often. MOIETY_CLIENT_STATUS_METRICS."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, a line for each look.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """How all roles are that can be asked: health, versions, models, randomness in stock, problems, certificates.

    Exit code 0: all are ready; 1: one is not; 2: there is nobody to ask.
    """
    from moiety_client import screen
    from moiety_client.errors import AccessFileError
    from moiety_client.settings import ClientSettings
    from moiety_client.status import Observer

    settings = ClientSettings()
    file, addresses = access or settings.access_file, metrics or settings.status_metrics
    needed = access is not None or not addresses  # metrics alone will do
    try:
        observer = Observer(file if needed or file.exists() else None, f"http://127.0.0.1:{settings.port}", addresses)
    except AccessFileError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    with observer:
        well = screen.run(observer, as_json=as_json, watch=watch, rated=bool(addresses))
    raise typer.Exit(0 if well else 1)


def up(
    root: Annotated[Path, typer.Option(help="Folder for the roles' data, one subfolder each.")] = Path(".moiety"),
    base_port: Annotated[int, typer.Option(help="First of five ports; the metrics' are ten higher.")] = 7700,
) -> None:
    """Start all five roles on this machine; Ctrl-C stops them."""
    from moiety_client.local.up import run

    raise typer.Exit(run(root, base_port))


def demo(
    images: Annotated[int, typer.Option(min=1, max=10_000, help="How many MNIST test images.")] = 256,
    batch: Annotated[int, typer.Option(min=1, max=512, help="Images in one request.")] = 32,
    data: Annotated[
        Path | None, typer.Option(help="Folder with MNIST/raw; needed for more than the images we ship.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Folder for the demo's data; emptied first.")] = Path(".moiety/demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """The main job, start to end: five processes, a shared network, private predictions, a report."""
    from moiety_client.local.demo import run

    raise typer.Exit(run(images, batch, data, root, as_json))


def bench(
    suite: Annotated[
        str,
        typer.Option(
            help="mnist; vision: LeNet, ResNet-18, label-only output; sidecar: its REST interface; "
            "hostile: 1,000 hostile connections."
        ),
    ] = "mnist",
    data: Annotated[Path | None, typer.Option(help="Folder with MNIST/raw. Default: MOIETY_SERVER_MNIST_DIR.")] = None,
    seconds: Annotated[float, typer.Option(help="How long the sustained load lasts.")] = 30.0,
    root: Annotated[Path, typer.Option(help="Folder for the data; emptied first.")] = Path(".moiety/bench"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object last.")] = False,
) -> None:
    """Measure what this machine does, as ratios taken in one run, beside what was asked."""
    from moiety_client.local.bench import run

    if suite not in ("mnist", "vision", "sidecar", "hostile"):
        raise typer.BadParameter("mnist, vision, sidecar or hostile", param_hint="--suite")
    raise typer.Exit(run(suite, data, seconds, root, as_json))
