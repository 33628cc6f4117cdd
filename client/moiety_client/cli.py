"""`moiety sidecar | up | demo | bench`; what a client asks is in client_cli.py."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moiety_client import client_cli
from moiety_shared.service.terminal import Exit, Json, ended, example

_HERE = "All roles on this machine"
_FRESH = "Folder for the data. What an earlier run made there is deleted first; where anything else is, nothing is."

if TYPE_CHECKING:
    from moiety_shared.service.doctor import Patient


def register(app: typer.Typer) -> None:
    client_cli.register(app)
    app.command("sidecar", rich_help_panel="Roles", epilog=example("moiety sidecar"))(sidecar)
    app.command("up", rich_help_panel=_HERE, epilog=example("moiety up", "moiety up --base-port 8800"))(up)
    app.command("demo", rich_help_panel=_HERE, epilog=example("moiety demo", "moiety demo --images 512 --json"))(demo)
    benches = ("moiety bench --data DIR", "moiety bench --suite vision --data DIR --json")
    app.command("bench", rich_help_panel=_HERE, epilog=example(*benches))(bench)


def sidecar() -> None:
    """Run the client's local REST sidecar. Settings: MOIETY_CLIENT_* (see docs/settings.md)."""
    from prometheus_client import CollectorRegistry

    from moiety_client.errors import AccessFileError, InsecureAddress
    from moiety_client.settings import ClientSettings
    from moiety_client.sidecar import ClientMetrics, Exposed, Upstream, build
    from moiety_shared.service import logs, serving, tracing
    from moiety_shared.service.starting import refusing

    with refusing():
        settings = ClientSettings()
        logs.configure("client", settings.log_format, settings.log_level)
        metrics = ClientMetrics(CollectorRegistry())
        with tracing.exporting("client") as tracer:
            try:
                telemetry = metrics.telemetry(tracer, settings.withhold_trace)
                upstream = Upstream.from_access(settings.access_file, timeout=settings.timeout, telemetry=telemetry)
                built = build(upstream, settings, metrics, tracer)
            except (AccessFileError, InsecureAddress, Exposed) as error:
                raise ended(Exit.USAGE, error) from None
            serving.serve(built, settings)


def up(
    root: Annotated[Path, typer.Option(help="Folder for the roles' data, one subfolder each.")] = Path(".moiety"),
    base_port: Annotated[
        int, typer.Option(min=1, max=65_500, help="First of five ports; the metrics' are ten higher.")
    ] = 7700,
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
    root: Annotated[Path, typer.Option(help=_FRESH)] = Path(".moiety/demo"),
    as_json: Json = False,
) -> None:
    """The main job, start to end: five processes, a shared network, private predictions, a report."""
    from moiety_client.local.demo import run

    raise typer.Exit(run(images, batch, data, root, as_json))


def bench(
    suite: Annotated[
        str,
        typer.Option(
            help="mnist; vision: LeNet, ResNet-18, label-only output; sidecar: its REST interface; "
            "hostile: junk of one token, then 1,000 hostile connections."
        ),
    ] = "mnist",
    data: Annotated[Path | None, typer.Option(help="Folder with MNIST/raw. Default: MOIETY_SERVER_MNIST_DIR.")] = None,
    seconds: Annotated[float, typer.Option(help="How long the sustained load lasts.")] = 30.0,
    root: Annotated[Path, typer.Option(help=_FRESH)] = Path(".moiety/bench"),
    as_json: Json = False,
) -> None:
    """Measure what this machine does, as ratios taken in one run, beside what was asked."""
    from moiety_client.local.bench import run

    if suite not in ("mnist", "vision", "sidecar", "hostile"):
        raise typer.BadParameter("mnist, vision, sidecar or hostile", param_hint="--suite")
    raise typer.Exit(run(suite, data, seconds, root, as_json))


def patients() -> list["Patient"]:
    """For `moiety doctor`."""
    from moiety_client.examining import access_file
    from moiety_client.settings import ClientSettings
    from moiety_shared.service.doctor import Patient

    return [
        Patient(
            role="client",
            title="moiety client sidecar",
            extra="client",
            start="moiety sidecar",
            settings=ClientSettings,
            keys=lambda _: None,
            present=lambda settings: settings.access_file.exists(),
            own=access_file,
        )
    ]
