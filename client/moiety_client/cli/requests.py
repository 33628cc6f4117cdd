"""The commands `moiety models | predict | evaluate | status`. They use the access file of the model's owner."""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety_client.cli import given, showing
from moiety_service.cli.terminal import Exit, Json, ended, example, line, lines, say, table

if TYPE_CHECKING:
    from moiety_client.client import Client
    from moiety_client.errors import MoietyError
    from moiety_shared.messages.catalogue import Entry

_PANEL = "Client"
_COMPLETING_SECONDS = 2.0
_BATCH = 128


def register(app: typer.Typer) -> None:
    """Add these commands to the `moiety` command."""
    app.command("models", rich_help_panel=_PANEL, epilog=example("moiety models", "moiety models mnist"))(models)
    predicting = (
        "moiety predict mnist digit.png",
        "moiety predict mnist scans/ more.npy --resume run.jsonl --json > answers.jsonl",
        "moiety predict churn customers.csv",
        "moiety predict sentiment 'a fine film' reviews.txt",
    )
    app.command("predict", rich_help_panel=_PANEL, epilog=example(*predicting))(predict)
    evaluating = (
        "moiety evaluate mnist test.npy --labels labels.npy",
        "moiety evaluate mnist test/     # test/7/a.png is a 7",
        "moiety evaluate churn customers.csv --target churn",
    )
    app.command("evaluate", rich_help_panel=_PANEL, epilog=example(*evaluating))(evaluate)
    looking = ("moiety status", "moiety status --metrics http://127.0.0.1:7711 --watch")
    app.command("status", rich_help_panel=_PANEL, epilog=example(*looking))(status)


def _names(incomplete: str) -> list[str]:
    """Return the models that the shell may complete a name to, if the catalogue answers at once."""
    from moiety_client.client import Client
    from moiety_client.errors import MoietyError
    from moiety_client.settings import ClientSettings

    try:
        with Client.from_access(ClientSettings().access_file, timeout=_COMPLETING_SECONDS) as client:
            return [name for name in client.names() if name.startswith(incomplete)]
    except (MoietyError, ValueError):
        return []


Model = Annotated[str, typer.Argument(help="The model's name in the catalogue.", autocompletion=_names)]
Files = Annotated[
    list[str],
    typer.Argument(
        help="Pictures, .npy files (one input or a stack), .npz files (a model's several inputs by name, a stack of "
        "each), .csv files, or folders of them. For a model of texts: texts, .txt files (a text on each line), or .npy "
        "files of token ids."
    ),
]
Columns = Annotated[
    str,
    typer.Option(help="For a model of a table, columns that it does not take: strict refuses, ignore leaves them out."),
]
AccessFile = Annotated[
    Path | None, typer.Option("--access", help="The owner's access file. Default: MOIETY_CLIENT_ACCESS_FILE.")
]


def models(
    name: Annotated[str | None, typer.Argument(help="Show this model in full.", autocompletion=_names)] = None,
    access: AccessFile = None,
    as_json: Json = False,
) -> None:
    """List the published models or, for one model, show what it takes, gives and costs.

    moiety verifies each against the owner's key.
    """
    with asking(access) as client:
        entries = [client.model(name)] if name else client.models()
    if as_json:
        lines(map(_as_data, entries))
    elif name:
        until = datetime.fromtimestamp(entries[0].expires, UTC).strftime("%Y-%m-%d")
        table(("", ""), [*entries[0].facts().items(), ("valid until", until)], header=False)
    elif not entries:
        say("the catalogue is empty")
    else:
        rows = [_as_row(entry) for entry in entries]
        table(("model", "version", "takes", "gives", "who may ask", "description"), rows)


def predict(
    model: Model,
    files: Files,
    access: AccessFile = None,
    batch: Annotated[int, typer.Option(min=1, help="Inputs in one request.")] = _BATCH,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show for each input, the likeliest first.")] = 1,
    canaries: Annotated[
        int,
        typer.Option(min=0, help="How many inputs with known answers to mix into each request, to check the service."),
    ] = 0,
    resume: Annotated[
        Path | None,
        typer.Option(help="File for the answers. After an interruption, the same command continues from it."),
    ] = None,
    columns: Columns = "strict",
    as_json: Json = False,
) -> None:
    """Predict privately for pictures, arrays (.npy, .npz), tables (.csv), texts, and folders of files, an answer each.

    moiety makes pictures fit, as the model's owner says, and takes arrays as they are. A model of a table takes .csv
    files that name its columns in the first line. With `--json` it prints a line as soon as its batch is there.
    """
    found = given.found(files)
    shown: list[dict[str, Any]] = []
    with asking(access) as client:
        asked = given.GivenInputs(client.model(model), found, columns)
        # Lines printed to the same terminal would break the bar.
        bar = sys.stderr.isatty() and length_hint(asked) != 1 and not (as_json and sys.stdout.isatty())
        try:
            for part in client.stream(model, asked, batch=batch, resume=resume, canaries=canaries, progress=bar):
                for row in showing.as_data(part, asked.taken(len(part)), top):
                    if as_json:
                        line(row)
                    else:
                        shown.append(row)
        finally:
            if shown:
                showing.show(shown)


def evaluate(
    model: Model,
    files: Files,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="File with a label for each input, in order: .npy, or text with a number or a class's name on each "
            "line. Default: the name of each picture's folder."
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="For a model of a table: the column with each row's label.")
    ] = None,
    columns: Columns = "strict",
    reveal_to: Annotated[
        str, typer.Option(help="Who learns the count of a model published with --reveal count: client, owner or both.")
    ] = "client",
    out: Annotated[
        Path, typer.Option(help="Folder for the counts that only the owner can open, one file for each request.")
    ] = Path("counts"),
    access: AccessFile = None,
    as_json: Json = False,
) -> None:
    """Count in private how many inputs a model labels right.

    moiety compares the model's predictions here or, if the owner published the model for evaluation only, gets one
    count.
    """
    from moiety_client.inputs import read_labels

    found = given.found(files)
    with asking(access) as client:
        entry = client.model(model)
        if entry.table is not None and (target is None) == (labels is None):
            raise ended(Exit.USAGE, f"{model} takes a table: name its column of labels with --target, or pass --labels")
        if entry.tokens is not None and labels is None:
            raise ended(Exit.USAGE, f"{model} takes texts: pass a file with the label of each as --labels")
        if target is not None:
            result = client.evaluate(model, found, target, columns=given.others(columns), reveal_to=reveal_to)
        else:
            asked = given.GivenInputs(entry, found, columns)
            read = list(asked)
            truth = given.read_labels(labels) if labels else [Path(path).parent.name for path, _ in asked.places]
            truth = read_labels(truth, entry.classes) if isinstance(truth, list) else truth
            result = client.evaluate(model, read, truth, reveal_to=reveal_to)
    if result.for_owner:
        out.mkdir(parents=True, exist_ok=True)
        for at, token in enumerate(result.for_owner):
            (out / f"{model}-{at}.count").write_bytes(token)
        say(f"the owner opens the count with: moiety count {model} {out}/{model}-*.count")
    showing.show_evaluation(model, result, as_json=as_json)


def status(
    access: AccessFile = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="For operators: a role's metrics address. Repeat it for more. Default: MOIETY_CLIENT_STATUS_METRICS."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show the state of all roles that can be asked: health, versions, models, randomness, problems, certificates.

    The exit code is 0 if all roles are ready, and 3 if one is not. With [bold]--json[/] each look prints one line.
    """
    from moiety_client.cli import screen
    from moiety_client.cli.status import Observer
    from moiety_client.errors import MoietyError
    from moiety_client.settings import ClientSettings
    from moiety_service.startup import refusing

    with refusing():
        settings = ClientSettings()
    file, addresses = access or settings.access_file, metrics or settings.status_metrics
    needed = access is not None or not addresses  # metrics addresses alone are enough
    try:
        observer = Observer(file if needed or file.exists() else None, f"http://127.0.0.1:{settings.port}", addresses)
    except MoietyError as error:
        raise ended(Exit.USAGE, error) from None
    with observer:
        well = screen.run(observer, as_json=as_json, watch=watch, rated=bool(addresses))
    if not well:
        raise ended(Exit.UNAVAILABLE)


@contextmanager
def asking(access: Path | None) -> Iterator["Client"]:
    """Give a client to a `with` block. An error of the client becomes a sentence on stderr and an exit code."""
    from moiety_client.client import Client
    from moiety_client.errors import MoietyError
    from moiety_client.settings import ClientSettings
    from moiety_client.telemetry import Telemetry
    from moiety_service.observability import tracing
    from moiety_service.startup import refusing

    with refusing():
        settings = ClientSettings()
    file, seconds = access or settings.access_file, settings.timeout
    try:
        with tracing.exporting("client") as tracer:
            telemetry = Telemetry(tracer, settings.withhold_trace)
            with _warnings_said(), Client.from_access(file, timeout=seconds, telemetry=telemetry) as client:
                yield client
    except MoietyError as error:
        raise ended(_code(error), f"{error}{_shown(error)}") from None


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Print warnings as sentences on stderr, such as that pictures were inverted."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: say(str(message))
        yield


def _is_terminal() -> bool:
    return sys.stderr.isatty()


def _shown(error: "MoietyError") -> str:
    """Return the value that does not fit, for a terminal alone: a log must not have it."""
    value, beyond = getattr(error, "value", None), getattr(error, "beyond", None)
    if value is None or not _is_terminal():
        return ""
    return f" (it is {value!r}" + ("" if beyond is None else f", {abs(beyond):g} out of the range") + ")"


def _code(error: "MoietyError") -> Exit:
    from moiety_client import errors

    match error:
        case errors.InvalidInput() | errors.InsecureAddress() | errors.ResumeRefused():
            return Exit.USAGE
        case errors.AccessFileError() | errors.StateFileError():
            return Exit.USAGE
        case errors.ServiceUnavailable() | errors.QuotaExceeded() | errors.CatalogueUnavailable():
            return Exit.UNAVAILABLE
    return Exit.FAILED


# Models


def _as_row(entry: "Entry") -> tuple[object, ...]:
    from moiety_shared.messages.tokens import TokenIds

    output, how = entry.plan.output, entry.preprocessing
    shape = " x ".join(map(str, entry.plan.input.shape))
    takes = f"numbers {shape}"
    if isinstance(how, TokenIds):
        takes = f"{'texts of' if how.tokenizer else 'ids of'} {how.length} tokens"
    elif how is not None:
        takes = f"pictures {how.size[0]} x {how.size[1]}" if how.kind == "picture" else f"{len(how.columns)} columns"
    gives = {
        "logits": {"classes": f"{output.size} outputs", "binary": "a score", "values": f"{output.size} values"}[
            output.task
        ],
        "labels": f"{output.top} labels",
        "decision": "a decision",
        "count": "a count",
    }[output.kind]
    who = "everybody" if entry.access == "open" else "token"
    return entry.name, entry.version, takes, gives, who, entry.description


def _as_data(entry: "Entry") -> dict[str, Any]:
    plan = entry.plan
    data: dict[str, Any] = json.loads(entry.model_dump_json(exclude={"plan", "canaries"}))
    return data | {
        "input": plan.input.model_dump(include={"shape", "low", "high"}),
        "output": plan.output.model_dump(include={"kind", "task", "shape", "top"}),
        "canaries": len(entry.canaries),
        "rounds": plan.rounds,
        "online_bytes": plan.cost(1).online_bytes,
    }
