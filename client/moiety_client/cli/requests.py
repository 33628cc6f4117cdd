"""The commands `moiety models | predict | evaluate | status`. They use the access file of the model's owner."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety_service.cli.terminal import Exit, Json, ended, example, line, lines, say, table

if TYPE_CHECKING:
    from moiety_client.answers import Evaluation, Prediction
    from moiety_client.client import Client
    from moiety_client.errors import MoietyError
    from moiety_shared.messages.catalogue import Entry

_PANEL = "Client"
_COMPLETING_SECONDS = 2.0
_BATCH = 128
_LABELS = 1 << 27  # bytes of a text file: enough for some ten million labels


def register(app: typer.Typer) -> None:
    """Add these commands to the `moiety` command."""
    app.command("models", rich_help_panel=_PANEL, epilog=example("moiety models", "moiety models mnist"))(models)
    predicting = (
        "moiety predict mnist digit.png",
        "moiety predict mnist scans/ more.npy --resume run.jsonl --json > answers.jsonl",
    )
    app.command("predict", rich_help_panel=_PANEL, epilog=example(*predicting))(predict)
    evaluating = (
        "moiety evaluate mnist test.npy --labels labels.npy",
        "moiety evaluate mnist test/     # test/7/a.png is a 7",
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
    list[Path], typer.Argument(help="Picture files, .npy files (one input or a stack), or folders of them.")
]
AccessFile = Annotated[
    Path | None, typer.Option("--access", help="The owner's access file. Default: MOIETY_CLIENT_ACCESS_FILE.")
]


def models(
    name: Annotated[str | None, typer.Argument(help="One of them, in full.", autocompletion=_names)] = None,
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
    top: Annotated[int, typer.Option(min=1, help="So many classes of each, the likeliest first.")] = 1,
    canaries: Annotated[
        int, typer.Option(min=0, help="So many inputs with known answers are mixed into each request.")
    ] = 0,
    resume: Annotated[
        Path | None, typer.Option(help="Keep answers here; the same command then goes on where it broke off.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Predict privately for picture files, .npy files, and folders of them: a label for each, in order.

    moiety makes pictures fit, as the model's owner says, and takes arrays as they are. With `--json` it prints a line
    as soon as its batch is there.
    """
    found = _found(files)
    shown: list[tuple[str, ...]] = []
    with asking(access) as client:
        given = _Inputs(client.model(model), found)
        # Lines printed to the same terminal would break the bar.
        bar = sys.stderr.isatty() and length_hint(given) != 1 and not (as_json and sys.stdout.isatty())
        try:
            for part in client.stream(model, given, batch=batch, resume=resume, canaries=canaries, progress=bar):
                for row in _labelled(part, given.taken(len(part)), top):
                    if as_json:
                        line(row)
                    else:
                        shown.append((row["file"] + (f"[{row['row']}]" if "row" in row else ""), *row["top"]))
        finally:
            if shown:
                table(("file", "label", *(f"{at}." for at in range(2, len(shown[0])))), shown)


def evaluate(
    model: Model,
    files: Files,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="A label for each input, in order: .npy, or a text file with one a line, a number or a class's name. "
            "Default: the name of the folder each picture lies in."
        ),
    ] = None,
    reveal_to: Annotated[
        str, typer.Option(help="Of a model published with --reveal count, who learns the count: client, owner, both.")
    ] = "client",
    out: Annotated[Path, typer.Option(help="Folder for what only the owner can open, a file for each request.")] = Path(
        "counts"
    ),
    access: AccessFile = None,
    as_json: Json = False,
) -> None:
    """Count in private how many inputs a model labels right.

    moiety compares the model's predictions here or, if the owner published the model for evaluation only, gets one
    count.
    """
    found = _found(files)
    with asking(access) as client:
        given = _Inputs(client.model(model), found)
        read = list(given)
        truth = _read_labels(labels) if labels else [_number(path.parent.name) for path, _ in given.places]
        result = client.evaluate(model, read, truth, reveal_to=reveal_to)
    if result.for_owner:
        out.mkdir(parents=True, exist_ok=True)
        for at, token in enumerate(result.for_owner):
            (out / f"{model}-{at}.count").write_bytes(token)
        say(f"for the owner: moiety count {model} {out}/{model}-*.count")
    _show(model, result, as_json)


def status(
    access: AccessFile = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="Operators: a role's metrics address; may be given often. MOIETY_CLIENT_STATUS_METRICS."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every two seconds, until Ctrl-C.")] = False,
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
            with Client.from_access(file, timeout=seconds, telemetry=telemetry) as client:
                yield client
    except MoietyError as error:
        raise ended(_code(error), error) from None


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


# Inputs


def _found(files: list[Path]) -> list[Path]:
    """Return the files, and those in the folders, sorted by name.

    If a file is not there, the command ends before it asks anything.
    """
    from moiety_client.pictures import SUFFIXES

    found: list[Path] = []
    for path in files:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in (*SUFFIXES, ".npy"))
            if not inside:
                raise ended(Exit.USAGE, f"{path} holds no pictures and no .npy files")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise ended(Exit.USAGE, f"{path} is not there: name picture files, .npy files, or folders of them")
    return found


class _Inputs:
    """The inputs, read one file after another, and the place of each: a file, or a row of a .npy file."""

    def __init__(self, entry: "Entry", found: list[Path]) -> None:
        self._entry, self._found = entry, found
        self.places: deque[tuple[Path, int | None]] = deque()

    def __iter__(self) -> Iterator[Any]:
        from moiety_client import inputs

        for path in self._found:
            rows = inputs.rows(self._entry, path)
            self.places.extend((path, at if _is_stack(path) else None) for at in range(len(rows)))
            yield rows

    def __length_hint__(self) -> int:
        """Return how many inputs there are, or 0 if that is not known before they are read."""
        return 0 if any(map(_is_stack, self._found)) else len(self._found)

    def taken(self, count: int) -> list[tuple[Path, int | None]]:
        """Return the places of the next `count` inputs, and forget them."""
        return [self.places.popleft() for _ in range(count)]


def _is_stack(path: Path) -> bool:
    return path.suffix.lower() == ".npy"


def _read_labels(path: Path) -> Any:
    from moiety_service import files

    try:
        if path.suffix.lower() == ".npy":
            return files.array(path)
        lines = files.content(path, _LABELS).decode().split("\n")
        return [_number(text) for text in lines if text.strip()]
    except (OSError, ValueError) as error:
        text = f"{path} cannot be read as labels ({error}): pass .npy, or a text file with one a line"
        raise ended(Exit.USAGE, text) from None


def _number(text: str) -> int | str:
    return int(text) if text.strip().isdecimal() else text.strip()


# Answers


def _labelled(part: "Prediction", of: list[tuple[Path, int | None]], top: int) -> Iterable[dict[str, Any]]:
    names = part.classes or tuple(str(i) for i in range(part.values[0].size))
    for (path, row), label, ranked in zip(of, part.labels.tolist(), part.top[:, :top].tolist(), strict=True):
        at = {} if row is None else {"row": row}
        yield {"file": str(path), **at, "class": label, "label": names[label], "top": [names[i] for i in ranked]}


def _show(model: str, result: "Evaluation", as_json: bool) -> None:
    if as_json:
        members = ("correct", "total", "accuracy", "rounds", "online_bytes", "seconds")
        line({"model": model} | {name: getattr(result, name) for name in members})
        return
    right = "the owner's to read" if result.correct is None else f"{result.correct} of {result.total}"
    accuracy = "-" if result.accuracy is None else f"{result.accuracy:.2%}"
    rows = [
        ("model", model),
        ("right", right),
        ("accuracy", accuracy),
        ("took", f"{result.seconds:.2f} s, {result.rounds} rounds, {result.online_bytes:,} bytes from each party"),
    ]
    table(("", ""), rows, header=False)


def _as_row(entry: "Entry") -> tuple[object, ...]:
    output, how = entry.plan.output, entry.preprocessing
    shape = " x ".join(map(str, entry.plan.input.shape))
    takes = f"pictures {how.size[0]} x {how.size[1]}" if how else f"numbers {shape}"
    gives = {"logits": f"{output.size} outputs", "labels": f"{output.top} labels", "count": "a count"}[output.kind]
    who = "everybody" if entry.access == "open" else "token"
    return entry.name, entry.version, takes, gives, who, entry.description


def _as_data(entry: "Entry") -> dict[str, Any]:
    plan = entry.plan
    data: dict[str, Any] = json.loads(entry.model_dump_json(exclude={"plan", "canaries"}))
    return data | {
        "input": plan.input.model_dump(include={"shape", "low", "high"}),
        "output": plan.output.model_dump(include={"kind", "shape", "top"}),
        "canaries": len(entry.canaries),
        "rounds": plan.rounds,
        "online_bytes": plan.cost(1).online_bytes,
    }
