"""The options that `moiety publish` and `moiety inspect` share: which model, on what data, and what clients get."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

if TYPE_CHECKING:
    from moiety_server.compiler.compilation import Compiled
    from moiety_server.compiler.parts import Limit
    from moiety_server.source import ModelSource

_REVEALS = ("logits", "labels", "decision", "count")
_TASKS = ("classes", "binary", "values")
_UNITS = ("logits", "scores", "probabilities")
_Own = ParamSpec("_Own")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Each member is an option of both commands, or their argument."""

    model: Annotated[
        str,
        typer.Argument(
            help="mnist, mnist-deep, lenet, mobile, rows, docstring-topics or gpt-characters (trained, in the "
            "package); torchvision:NAME; FILE.onnx; a folder that Hugging Face's library saved; "
            "module:function, a function of yours that returns a torch.nn.Module or a fitted model of scikit-learn, "
            "XGBoost or LightGBM; or module:model, such a model."
        ),
    ] = "mnist"
    weights: Annotated[Path | None, typer.Option(help="The model's weights (safetensors).")] = None
    pretrained: Annotated[
        bool, typer.Option(help="With torchvision:NAME: download torchvision's pretrained weights.")
    ] = False
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="File of real inputs: rows of a table, .csv; arrays (n, ...), or ids of tokens (n, length), .npy or "
            ".safetensors; or lines of text, .txt. The compiler chooses scales from them."
        ),
    ] = None
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="With a CSV file: the column that the model predicts, to measure how often it is right.",
        ),
    ] = None
    columns: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With a CSV file: what its columns are, as JSON (moiety inspect --write-columns). Columns that it "
            "does not declare are left out. Default: what the rows show.",
        ),
    ] = None
    edges: Annotated[
        str,
        typer.Option(
            help="Of trees: at which numbers clients tell values apart, which everybody learns. own: the trees' "
            "thresholds. trained: the same, of trees that were trained on a public grid. grid:N: N steps over a "
            "column's range, to which thresholds move, so that they stay secret."
        ),
    ] = "own"
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Of a model that looks ids of tokens up in an nn.Embedding: its tokenizer.json, with which clients "
            "make ids of texts. It is published, and so is the embedding, unless that is secret.",
        ),
    ] = None
    secret_embedding: Annotated[
        bool,
        typer.Option(
            "--secret-embedding",
            help="Of a model of ids of tokens: keep the embedding secret, as the other weights. The parties look ids "
            "up then, which takes two or three rounds, and bytes for each id (moiety inspect shows them).",
        ),
    ] = False
    low: Annotated[
        list[str] | None,
        typer.Option(
            help="Smallest value that an input may have. Default: from the calibration data. Of several inputs: "
            "NAME=VALUE."
        ),
    ] = None
    high: Annotated[
        list[str] | None,
        typer.Option(help="Largest value that an input may have. Give both --low and --high, or neither."),
    ] = None
    output: Annotated[
        str, typer.Option("--output", help="Serve this one of the model's outputs. Default: all of them.")
    ] = ""
    task: Annotated[
        str | None,
        typer.Option(
            help="What the outputs are for: classes, binary (one output tells two classes apart), or values. Default: "
            "classes if there are several, binary if one ends in a sigmoid, else values."
        ),
    ] = None
    unit: Annotated[
        str | None,
        typer.Option(
            help="What the outputs are: logits of a softmax or sigmoid, scores that no function makes probabilities, "
            "or probabilities. Default: logits, and of several outputs what the calibration data shows."
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Of two classes: the second is where its probability is above this, or its score if the unit is "
            "scores. With --reveal decision it stays secret. Default: a probability of 0.5, a score of 0."
        ),
    ] = None
    reveal: Annotated[
        str | None,
        typer.Option(
            help="What clients get: logits (all outputs), labels (the --top likeliest and nothing else), decision "
            "(which of two classes, by a secret --threshold), or count. Default: logits."
        ),
    ] = None
    top: Annotated[
        int, typer.Option(min=1, max=255, help="With --reveal labels: how many labels, the likeliest first.")
    ] = 1
    verified: Annotated[
        bool,
        typer.Option(
            "--verified",
            help="Let the parties check each other: one that cheats is caught before a client gets an answer. It takes "
            "twice the rounds and bytes, and three times the randomness.",
        ),
    ] = False
    clamp_inputs: Annotated[
        bool,
        typer.Option(
            "--clamp-inputs",
            help="Let the parties clamp inputs to the declared range, so that nothing else is computed on, whatever a "
            "client shares. It takes six rounds (two for bits), and two comparisons for each value.",
        ),
    ] = False
    ring: Annotated[
        int | None, typer.Option("--ring", help="Bits of the ring, 32 or 64. Default: 32 if that is precise enough.")
    ] = None
    headroom: Annotated[
        float,
        typer.Option(
            min=1,
            help="Where the compiler can prove no bound: the factor by which a value may exceed the calibration data.",
        ),
    ] = 4.0

    def source(self) -> "ModelSource":
        """Load the model. Raises NotServable; typer.BadParameter for a value that an option does not have."""
        from moiety_server import sources

        return sources.load(
            self.model,
            weights=self.weights,
            pretrained=self.pretrained,
            calibration=self.calibration,
            target=self.target,
            columns=self.columns,
            edges=self.edges,
            low=_limit("--low", self.low),
            high=_limit("--high", self.high),
            output=self.output,
            task=_one_of("--task", self.task, _TASKS),
            unit=_one_of("--unit", self.unit, _UNITS),
            threshold=self.threshold,
            tokenizer=self.tokenizer,
            secret_embedding=self.secret_embedding,
        )

    def compiled(self, source: "ModelSource") -> "Compiled":
        """Compile the model. Raises NotServable; typer.BadParameter for a value that an option does not have."""
        from moiety_server.compiler.ir import NotServable

        ring = self.ring or (32 if self.verified else None)  # the only one in which runs are verified yet
        reveal = _one_of("--reveal", self.reveal, _REVEALS)
        try:
            compiled = source.compile(
                reveal=reveal,
                top=self.top,
                ring_bits=ring,
                headroom=self.headroom,
                clamp_inputs=self.clamp_inputs,
            )
        except NotServable as error:
            if self.ring or not self.verified:
                raise
            raise NotServable(
                f"{error}. Verified models have a ring of 32 bits: 64 are there without --verified"
            ) from None
        return compiled.verified() if self.verified else compiled


def with_model_options(command: Callable[Concatenate[ModelOptions, _Own], None]) -> Callable[..., None]:
    """Give a command the options of ModelOptions in place of its first parameter, before its own."""
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = fields(ModelOptions)

    @wraps(command)
    def run(**given: Any) -> None:
        command(ModelOptions(**{one.name: given.pop(one.name) for one in shared}), **given)  # type: ignore[call-arg]

    named = inspect.Parameter.KEYWORD_ONLY
    told = [inspect.Parameter(f.name, named, default=f.default, annotation=f.type) for f in shared]
    parameters = [*told, *(one.replace(kind=named) for one in own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _one_of(option: str, text: str | None, choices: tuple[str, ...]) -> Any:
    """Return the text, one of the choices, or None. Another one ends the command."""
    if text is not None and text not in choices:
        raise typer.BadParameter(f"choose one of {', '.join(choices)}", param_hint=option)
    return text


def _limit(option: str, given: list[str] | None) -> "Limit | None":
    """Read an end of the range: one number, or NAME=NUMBER for some of a model's inputs."""
    found: dict[str, float] = {}
    for text in given or ():
        name, _, number = text.rpartition("=")
        try:
            found[name] = float(number)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is no number, and no NAME=NUMBER", param_hint=option) from None
    if "" in found and len(found) > 1:
        raise typer.BadParameter("give one number for all inputs, or NAME=NUMBER for each", param_hint=option)
    return found.get("", found) if given else None
